"""What a gateway changes of what is said, or says in a service's place: headers, and a page for maintenance."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from fiefdom.model.text import FilePath, Matches, Model
from fiefdom.wording import shown

PAGE_MAX_BYTES = 12_000
"""Of a page: HAProxy answers out of one buffer of 16 KiB, which the headers share."""

# What says where a message ends and who sent it, or is the gateway's to tell.
_OWN = frozenset(
    (
        *("connection", "content-length", "expect", "forwarded", "host", "keep-alive", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade"),
        *("x-forwarded-for", "x-forwarded-port", "x-forwarded-proto"),
    )
)


def _others(name: str) -> str:
    if name.lower() in _OWN:
        raise ValueError(f"{shown(name)} is the gateway's to say; leave it out")
    return name


def _single_blanks(text: str) -> str:
    if "  " in text:
        raise ValueError("has two blanks in a row, of which HAProxy would send one; write one")
    return text


HeaderName = Annotated[
    str, Matches("[A-Za-z][A-Za-z0-9-]{0,63}", "a header's name such as X-Frame-Options"), AfterValidator(_others)
]
HeaderText = Annotated[
    str, Matches("[!-~]([ -~]{0,1998}[!-~])?", "one line of plain text, not empty"), AfterValidator(_single_blanks)
]


class Headers(Model):
    """Headers that a gateway sets or takes away."""

    request: dict[HeaderName, HeaderText | None] = Field(
        default_factory=dict, description="Of what instances are sent: text to set, nothing (null) to take away."
    )
    response: dict[HeaderName, HeaderText | None] = Field(
        default_factory=dict, description="Of what instances answer: text to set, nothing (null) to take away."
    )


class Maintenance(Model):
    """What clients get while a service is looked after."""

    active: bool = Field(
        False, description="Whether clients get 503 and the page in its place; its instances go on and are checked."
    )
    page: FilePath | None = Field(
        None, description="HTML page, relative to the inventory; one sentence of plain text when absent."
    )
    retry_after_s: int = Field(300, ge=1, le=86400, description="Seconds after which clients are asked to come again.")
