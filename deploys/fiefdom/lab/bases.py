"""Base images of the lab: pulled by their pin, or made from Debian's packages where no registry is."""

from __future__ import annotations

import hashlib
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

from fiefdom.desired.state import CODENAMES
from fiefdom.errors import FiefdomError
from fiefdom.images import bases
from fiefdom.lab.hosts import IMAGE_LABEL, PULL_TIMEOUT_S, REGISTRY_TIMEOUT_S, host_image, image_context
from fiefdom.lab.machine import apt_install, docker, is_debian_like, parallel, run
from fiefdom.waiting import now_s
from fiefdom.wording import Tell

# --- base images -----------------------------------------------------------------------------------------------------


def ensure_base_images(say: Tell) -> None:
    """debian:bookworm and debian:trixie: what is there, else pulled by the pinned digest, else made with mmdebstrap.
    Every image of this project stands on them."""
    missing: dict[str, str] = {
        codename: bases.tag_of(codename) for codename in CODENAMES if bases.here(codename) is None
    }
    for codename, tag in list(missing.items()):
        say(f"pulling {tag}")
        pin = bases.pins()[codename]
        problem = _pull(pin)
        if problem is None:
            docker("tag", pin, tag)
            del missing[codename]
        else:
            say(f"no registry: {problem}")
            break
    if missing:
        make_base_images(missing, say)


def _pull(tag: str) -> str | None:
    """Pull an image. Returns None, or why the registry could not be used; a registry that stays silent for 20 s
    counts as one that is not there."""
    with subprocess.Popen(
        ["docker", "pull", tag], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101 - stdout is a pipe
        lines: queue.Queue[str | None] = queue.Queue()

        def read(stream: Iterable[str]) -> None:
            for line in stream:
                lines.put(line.strip())
            lines.put(None)

        threading.Thread(target=read, args=(process.stdout,), daemon=True).start()
        # The first line comes once the registry has named the image; layers may take long on a slow link.
        deadline_s = now_s() + REGISTRY_TIMEOUT_S
        last = ""
        try:
            while (line := lines.get(timeout=max(0.0, deadline_s - now_s()))) is not None:
                if not last and "Pulling from" in line:
                    deadline_s = now_s() + PULL_TIMEOUT_S
                last = line or last
        except queue.Empty:
            process.kill()
            return f"no answer from the registry in time for {tag}"
        return None if process.wait() == 0 else last


def make_base_images(tags: dict[str, str], say: Tell) -> None:
    """Make minimal Debian images from Debian's packages. `tags`: codename -> tag to import it under."""
    if not shutil.which("mmdebstrap"):
        if os.geteuid() != 0 or not is_debian_like():
            raise FiefdomError(
                f"No registry gives {' or '.join(tags.values())}, and mmdebstrap is not installed to make it: run "
                "`sudo apt-get install mmdebstrap debian-archive-keyring`, then try again."
            )
        say("installing mmdebstrap")
        # The keyring is what Ubuntu lacks: Debian's packages are signed with Debian's keys.
        apt_install(["mmdebstrap", "debian-archive-keyring"])
    say(f"making {' and '.join(tags.values())} with mmdebstrap")
    parallel(lambda codename: _make_base_image(codename, tags[codename]), list(tags))


def _make_base_image(codename: str, tag: str) -> None:
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    without = [f"--dpkgopt=path-exclude=/usr/share/{d}/*" for d in ("man", "doc", "locale", "info", "lintian")]
    with tempfile.TemporaryDirectory(prefix="fiefdom-") as folder:
        tar = str(Path(folder, f"{codename}.tar"))
        argv = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates"]
        argv += [f"--keyring={keyring}", *without]
        run([*argv, "--dpkgopt=path-include=/usr/share/doc/*/copyright", codename, tar], timeout_s=900)
        label = f'--change=LABEL {bases.LABEL}="{bases.MADE_HERE}"'
        docker("import", '--change=CMD ["bash"]', label, tar, tag, timeout_s=300)


def ensure_host_image(codename: str, say: Tell) -> None:
    """Build a Debian's host image, unless the one that is there came from the same base and the same files."""
    tag = host_image(codename)
    base = bases.here(codename) or bases.pins()[codename]
    digest = _context_digest(image_context(), _image_id(base))
    old = docker("image", "ls", "--quiet", f"--filter=label={IMAGE_LABEL}={digest}", tag)
    if old:
        return
    say(f"building {tag}")
    stale = _image_id(tag)
    label = f"--label={IMAGE_LABEL}={digest}"
    build = ["build", "--quiet", f"--build-arg=BASE={base}", label, f"--tag={tag}", str(image_context())]
    docker(*build, timeout_s=900)
    if stale and stale != _image_id(tag):
        docker("image", "rm", stale, check=False)


def _context_digest(context: Path, base_id: str) -> str:
    digest = hashlib.sha256(base_id.encode())
    for path in sorted(p for p in context.rglob("*") if p.is_file()):
        digest.update(f"\0{path.relative_to(context)}\0{path.stat().st_mode & 0o111:o}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _image_id(tag: str) -> str:
    """The id of a local image, or ""."""
    return docker("image", "inspect", "--format={{.Id}}", tag, check=False)
