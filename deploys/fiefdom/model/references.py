"""References of images as Docker reads them: registry, path, tag and digest, and when two of them are one.

The rules are those of Docker's distribution/reference, which every Docker command goes by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

HUB = "docker.io"
"""The registry of names that begin with none."""

_HUB_BEFORE = "index.docker.io"
_OFFICIAL = "library"
"""Where Docker Hub has the images whose name is one word."""

_HOST = "[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9]"
_DOMAIN = rf"(?:(?:{_HOST})(?:\.(?:{_HOST}))*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = "sha256:[0-9a-f]{64}"
# A first word in upper case would be a registry as well, but one that a person writes here is a slip.
_WRITTEN = rf"(?:{_HOST})(?:(?:\.(?:{_HOST}))+|(?:\.(?:{_HOST}))*:[0-9]+)"
# Docker takes 64 hexadecimal digits alone for the ID of an image.
IMAGE = rf"(?![0-9a-f]{{64}}$)(?:{_WRITTEN}/)?{_PATH}(?:(?::{_TAG})?@{_DIGEST})?"
"""Pattern of an image in an inventory: a name, or one that a digest pins."""
IMAGE_WHICH = rf"(?![0-9a-f]{{64}}$)(?:{_WRITTEN}/)?{_PATH}(?::{_TAG}(?:@{_DIGEST})?|@{_DIGEST})"
"""Pattern of an image with its tag, its digest, or both."""
SERVER = rf"(?:{_HOST})(?:\.(?:{_HOST}))*(?::[0-9]{{1,5}})?(?:/{_PATH})?"
"""Pattern of a registry in an inventory, with the beginning of a path or without."""
NAME_MAX = 255
"""Characters that Docker lets the name of an image have, its registry included."""


@dataclass(frozen=True)
class Reference:
    """An image by registry and path, and which one of these by tag or digest, each empty where there is none.

    ``named`` tells whether the registry was written, or is Docker Hub because none was.
    """

    domain: str
    path: str
    tag: str = ""
    digest: str = ""
    named: bool = True

    @property
    def canonical(self) -> str:
        """The whole of it: equal for equal references, however they were written."""
        return f"{self.domain}/{self.path}{self._which}"

    @property
    def familiar(self) -> str:
        """As `docker images` and `docker inspect` print it: without Docker Hub's name, and its `library`."""
        if self.domain != HUB:
            return self.canonical
        first, _, rest = self.path.partition("/")
        return f"{rest if first == _OFFICIAL and rest and '/' not in rest else self.path}{self._which}"

    @property
    def _which(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


@lru_cache(maxsize=1024)  # hosts have the same few names
def parse(text: str) -> Reference:
    """The reference that ``text`` writes; ValueError for what Docker would not take for one."""
    found = re.fullmatch(rf"(?P<name>.+?)(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?", text)
    domain, path, named = _split(found["name"] if found else text)
    if not found or not re.fullmatch(_DOMAIN, domain) or not re.fullmatch(_PATH, path):
        raise ValueError(f"{text!r} is no reference of an image")
    return Reference(domain, path, found["tag"] or "", found["digest"] or "", named)


def _split(name: str) -> tuple[str, str, bool]:
    """Registry and path of a name, and whether it names its registry."""
    first, slash, rest = name.partition("/")
    named = bool(slash) and (any(c in first for c in ".:") or first == "localhost" or first != first.lower())
    domain, path = (first, rest) if named else (HUB, name)
    if domain == _HUB_BEFORE:
        domain = HUB
    if domain == HUB and "/" not in path:
        path = f"{_OFFICIAL}/{path}"
    return domain, path, named


@lru_cache(maxsize=1024)
def familiar(text: str) -> str:
    """``text`` as Docker prints it; as it is, where it is no reference."""
    try:
        return parse(text).familiar
    except ValueError:
        return text


def repository(text: str) -> str:
    """The name of an image without tag and digest, as Docker prints it; as it is, where it is no reference."""
    try:
        return replace(parse(text), tag="", digest="").familiar
    except ValueError:
        return text


def same(one: str, other: str) -> bool:
    """Whether two references are the same to Docker."""
    return familiar(one) == familiar(other)


def port_of(domain: str) -> int | None:
    """The port in a registry's name, if any."""
    port = domain.rpartition(":")[2]
    return int(port) if port.isdigit() and ":" in domain else None


def domain_of(server: str) -> str:
    """The registry that ``server``, with a path or without, is about: `docker.io/team` and `team` are Docker Hub's."""
    return _split(f"{server}/image")[0]


def at(server: str, image: str) -> str:
    """``image`` at a registry: with ``server`` before it, unless it names that registry already."""
    known = parse(image)
    return image if known.named and known.domain == domain_of(server) else f"{server}/{image}"


def tagged(image: str, tag: str) -> str:
    """An image's name, as it is written, with a tag in place of its own tag and digest."""
    return f"{name_of(image)}:{tag}"


def pinned(image: str, digest: str) -> str:
    """An image's name, as it is written, with a digest in place of its own tag and digest."""
    return f"{name_of(image)}@{digest}"


def name_of(image: str) -> str:
    """An image's name, as it is written, without tag and digest."""
    found = parse(image)
    return image.removesuffix(replace(found, domain="", path="")._which)
