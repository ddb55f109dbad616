"""Base images: pulled by the digest that images/bases.lock pins, or made here from Debian's packages."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from fiefdom.errors import FiefdomError
from fiefdom.resources import images_dir
from fiefdom.wording import Tell

LABEL = "fiefdom.base"  # of an image: what it was built on
MADE_HERE = "made from Debian's packages"

_PIN = re.compile(r"debian:([a-z]+)@sha256:[0-9a-f]{64}")
_ARG = "ARG BASE="


def pins(folder: Path | None = None) -> dict[str, str]:
    """The pinned reference of each Debian by its codename: {"trixie": "debian:trixie@sha256:..."}."""
    lines = ((folder or images_dir()) / "bases.lock").read_text().splitlines()
    return {found[1]: found[0] for line in lines if (found := _PIN.fullmatch(line))}


def here(codename: str) -> str | None:
    """What stands on this machine to build on: the pinned image, else one that was made here; None without either.

    An image that bears Debian's name but was pulled without the pin is neither.
    """
    pin = pins().get(codename)
    if pin is not None and _made_here(pin) is not None:
        return pin
    tag = tag_of(codename)
    return tag if _made_here(tag) else None


def tag_of(codename: str) -> str:
    """The plain name that a base image has on this machine, pulled or made."""
    return f"debian:{codename}"


def build_arguments(context: Path) -> list[str]:
    """Arguments of `docker build` for a folder whose Dockerfile has a pinned ``ARG BASE``; none for others."""
    found = next((_PIN.search(line) for line in _dockerfile(context) if line.startswith(_ARG)), None)
    if found is None:
        return []
    pin, codename = found[0], found[1]
    # A registry is asked for nothing but the pin; what was made here has no digest to be called by.
    if here(codename) == tag_of(codename):
        return [f"--build-arg=BASE={tag_of(codename)}", f"--label={LABEL}={tag_of(codename)}, {MADE_HERE}"]
    return [f"--label={LABEL}={pin}"]


def _dockerfile(context: Path) -> list[str]:
    path = context / "Dockerfile"
    return path.read_text().splitlines() if path.is_file() else []


def _made_here(ref: str) -> bool | None:
    """Whether a local image was made here, not pulled; None where there is none of that name, or no Docker to ask."""
    form = '{"labels": {{json .Config.Labels}}, "digests": {{json .RepoDigests}}}'
    try:
        done = subprocess.run(
            ["docker", "image", "inspect", f"--format={form}", ref], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    if done.returncode:
        return None
    found = json.loads(done.stdout)
    pulled = any(digest.startswith("debian@") for digest in found["digests"] or ())
    # Docker's containerd store gives what was made here such a digest as well: the label tells.
    return (found["labels"] or {}).get(LABEL) == MADE_HERE or not pulled


def renew(folder: Path, say: Tell) -> None:
    """Pull every base by its name, and pin what came: in bases.lock and in each Dockerfile, the tests' ones too.

    Raises FiefdomError where a registry does not give one; nothing is written then.
    """
    new = {}
    for codename, pin in pins(folder).items():
        say(f"pulling {tag_of(codename)}")
        done = subprocess.run(["docker", "pull", tag_of(codename)], capture_output=True, text=True, check=False)
        digest = re.search(r"^Digest: (sha256:[0-9a-f]{64})$", done.stdout, re.MULTILINE)
        if done.returncode or digest is None:
            reason = (done.stderr.strip() or "it named no digest").splitlines()[-1]
            raise FiefdomError(f"{tag_of(codename)} could not be pulled, and no pin was changed: {reason}")
        new[pin] = f"{tag_of(codename)}@{digest[1]}"
    own, tests = folder.glob("*/Dockerfile"), folder.parent.glob("tests/lab/images/*/Dockerfile")
    for path in (folder / "bases.lock", *sorted(own), *sorted(tests)):
        text = path.read_text()
        for old, pin in new.items():
            text = text.replace(old, pin)
        path.write_text(text)
    for pin in new.values():
        say(f"pinned {pin}")


if __name__ == "__main__":
    import sys

    try:
        renew(images_dir(), print)
    except (FiefdomError, FileNotFoundError) as error:
        sys.exit(str(error))
