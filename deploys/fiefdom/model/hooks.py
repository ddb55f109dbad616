"""Programs of the operator's own around what he does, and who is told of it. Hosts know nothing of either."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Annotated, Literal

from pydantic import Field, WrapValidator

from fiefdom.model.secrets import SecretSource
from fiefdom.model.text import LAST_PORT, FilePath, Many, Model
from fiefdom.wording import KeyPath

Act = Literal["rollout", "rollback", "apply", "reboot", "retire", "rotate-key", "upgrade"]
"""What changes hosts, as the command and the audit call it."""
Event = Literal["began", "ended", "failed"]
_RELEASES: tuple[Act, ...] = ("rollout", "rollback")
_ACTS = Annotated[Many[Act], Field(min_length=1)]

# Text of a host in brackets is an IPv6 address. No login: urllib would take it for a part of the host.
_URL = re.compile(r"(https?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?([/?][!-\"$-~]*)?")
_LOOPBACK = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|\[::1\]")


def is_loopback(url: str) -> bool:
    """Whether a webhook's URL leads to this machine."""
    found = _URL.fullmatch(url)
    return found is not None and _LOOPBACK.fullmatch(found[2]) is not None


def require_webhook(url: str) -> str:
    """``url``, which a message can be posted to. Raises ValueError, which never tells it."""
    found = _URL.fullmatch(url)
    if found is None or not 0 < int(found[3] or 1) <= LAST_PORT:
        raise ValueError("is no URL of a webhook; write one like https://chat.example.org/hooks/..., without a login")
    if found[2].startswith("["):
        try:
            IPv6Address(found[2][1:-1])
        except ValueError:
            raise ValueError("has brackets around what is no IPv6 address; write one such as [2001:db8::1]") from None
    if found[1] == "http" and not is_loopback(url):
        raise ValueError("is sent in the clear; write https://, or http:// to this machine alone")
    return url


def _url_or_source(value: object, _: object) -> str | SecretSource:
    # Not pydantic's own choice, which complains of either kind in words that no person has written.
    if isinstance(value, dict | SecretSource):
        return SecretSource.model_validate(value)
    if not isinstance(value, str):
        raise ValueError("must be a URL, or a source as for secrets such as {env: NAME}")
    return require_webhook(value)


UrlOrSource = Annotated[str | SecretSource, WrapValidator(_url_or_source)]


class Hooks(Model):
    """Programs that run on the operator's machine around what changes hosts."""

    acts: _ACTS = Field(_RELEASES, description="Commands that the programs run around.")
    before: FilePath | None = Field(
        None,
        description="Program that runs under the cluster's lock before anything is changed, relative to the inventory; "
        "where it fails, nothing is.",
    )
    after: FilePath | None = Field(None, description="Program that runs when it ended well.")
    failed: FilePath | None = Field(
        None, description="Program that runs when it did not: a failure, an interrupt, a lock that was lost."
    )
    timeout_s: int = Field(
        600, ge=1, le=86400, description="Seconds that each of them may take; one that takes longer is stopped."
    )

    def programs(self) -> Iterator[tuple[KeyPath, str]]:
        """Key and path, as it is written, of each program."""
        for name in ("before", "after", "failed"):
            if (path := getattr(self, name)) is not None:
                yield ("hooks", name), path


class Notify(Model):
    """Who is told of what changes hosts."""

    webhook: UrlOrSource = Field(
        repr=False,
        description="Where a JSON document is posted: an https:// URL or, as most of them are secrets, where it comes "
        "from.",
    )
    acts: _ACTS = Field(_RELEASES, description="Commands that are told of.")
    events: Annotated[Many[Event], Field(min_length=1)] = Field(
        ("began", "ended", "failed"), description="What of them is told."
    )
    format: Literal["text", "fields"] = Field(
        "text",
        description='`text` posts {"text": ...} alone, which Slack, Mattermost, Rocket.Chat and Google Chat take; '
        "`fields` adds what the sentence says, for programs.",
    )
