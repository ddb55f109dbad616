"""Text diffs of files and blocks that a plan would change; what is secret stays masked."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from fiefdom.converge.plan import Plan
from fiefdom.converge.snapshot import FoundFile
from fiefdom.desired import daemon_json, docker
from fiefdom.desired.state import Block, File

Read = Callable[[str, str], str]
"""Text of a file, from host and path."""

MASK = "(secret: content not shown)\n"
BINARY = "(not a text: content not shown)\n"


def of_plan(plan: Plan, read: Read) -> dict[tuple[str, str], str]:
    """Unified diffs by (host, path), from one ``read`` of each file that exists and changes."""
    texts = {}
    for host in plan.hosts:
        for change in host.of("file", "+", "~"):
            if isinstance(file := change.resource, File):
                found = host.snapshot.files.get(file.path)
                text = _of_file(host.host, file, None if change.sign == "+" else found, read)
                if text:  # nothing where only mode or owner differ
                    texts[host.host, file.path] = text
        for change in host.of("block", "+", "~"):
            if isinstance(block := change.resource, Block):
                there = block.path in host.snapshot.files
                texts[host.host, block.path] = _of_block(host.host, block, read if there else lambda _host, _path: "")
    return texts


def _of_block(host: str, block: Block, read: Read) -> str:
    """What is around it is somebody else's, and not shown."""
    return unified(block.path, Block.found_in(read(host, block.path)), block.text.decode())


def _of_file(host: str, file: File, found: FoundFile | None, read: Read) -> str:
    # What a service's file held before may have been a secret: it was not for everybody.
    if file.secret or (file.mounted and found is not None and not found.mode & 0o004):
        return MASK
    if b"\0" in file.content:
        return BINARY
    before = "" if found is None else read(host, file.path)
    if file.path == docker.CONFIG and daemon_json.has_secret(before):
        return MASK
    return unified(file.path, before, file.content.decode(errors="replace"))


def unified(path: str, before: str, after: str) -> str:
    """A unified diff of two texts."""
    return "".join(
        line if line.endswith("\n") else f"{line}\n"
        for line in difflib.unified_diff(
            before.splitlines(True), after.splitlines(True), f"{path} (host)", f"{path} (inventory)"
        )
    )
