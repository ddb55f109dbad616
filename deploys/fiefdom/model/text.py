"""The kinds of text and number that an inventory is made of, each with its rule."""

from __future__ import annotations

import ipaddress
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from fiefdom.wording import KeyPath, shown

LAST_PORT = 65535

LOGIN_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]*@")
"""A name and a password in a URL, as that of a proxy may have."""
# HAProxy is told milliseconds, and to it 0 is no limit.
SHORTEST_S = 0.001
# What the sysctl net.ipv4.ip_unprivileged_port_start of a gateway is set to.
FIRST_GATEWAY_PORT = 80

Problem = tuple[KeyPath, str]
"""What is wrong and how to mend it, and where."""


def twice(key: KeyPath, given: Iterable[str]) -> Iterator[Problem]:
    """The first that stands twice in a list."""
    if more := [one for one, count in Counter(given).items() if count > 1]:
        yield key, f"{more[0]} stands there twice; once is enough"


@dataclass(frozen=True)
class Matches:
    """Text of one shape. ``says`` follows "must be" in the error; the pattern goes into the JSON schema.

    A ``private`` text is not repeated in the error.
    """

    pattern: str
    says: str
    private: bool = False

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "pattern": f"^(?:{self.pattern})$"}

    def _check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            given = "what stands there" if self.private else shown(value)
            raise ValueError(f"{given} is not possible here; it must be {self.says}")
        return value


T = TypeVar("T")
# Python's own lists are welcome where a tuple is kept; everything else is taken as strictly as it was written.
Many = Annotated[tuple[T, ...], Strict(False)]


def _whole_number_as_text(value: object) -> object:
    if isinstance(value, bool | float):
        # YAML has read 1.10 as 1.1 and yes as true by now: what the person meant is lost.
        raise ValueError(f"{shown(value)} is not text; put it in quotes as you mean it")
    return str(value) if isinstance(value, int) else value


TextOrNumber = Annotated[
    str, BeforeValidator(_whole_number_as_text), WithJsonSchema({"type": ["string", "integer"]}, mode="validation")
]


def _path(value: str) -> str:
    try:
        Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{shown(value)} begins with a user that this machine does not know") from error
    try:
        os.fsencode(value)  # which takes names that are no UTF-8, as this machine reads them
    except UnicodeEncodeError as error:
        raise ValueError(_HALF) from error
    return value


# Such as "\ud83d" alone, which YAML, JSON and Python let stand in a text, and no file or program takes.
_HALF = "holds half of a character (a lone surrogate); write the whole one"


def _whole(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(_HALF) from error
    return value


Name = Annotated[
    str,
    # RFC 1123 labels; what Linux, Serf, HAProxy and container names all accept.
    Matches(
        "[a-z]([a-z0-9-]{0,38}[a-z0-9])?",
        "at most 40 lower-case letters, digits and dashes, from a letter to a letter or digit",
    ),
]
Group = Annotated[
    str,
    # A pyinfra group is a Python variable; `all` is pyinfra's own.
    Matches(
        "(?!all$)[a-z][a-z0-9_]{0,39}",
        "at most 40 lower-case letters, digits and underscores, from a letter, and not `all`",
    ),
]
Version = Annotated[
    str,
    # What Docker accepts as a tag, less the characters that Serf tags use as separators.
    Matches(
        "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", "an image tag: at most 128 letters, digits, dots, dashes and underscores"
    ),
]
Port = Annotated[int, Field(ge=1, le=LAST_PORT)]
EnvName = Annotated[
    str,
    Matches(
        "(?!FIEFDOM_)[A-Za-z_][A-Za-z0-9_]*",
        "letters, digits and underscores, not from a digit; names in FIEFDOM_ are Fiefdom's own",
    ),
]
ENV_MAX_BYTES = 60_000
"""Docker's reader of env files gives up at a line of 64 KiB, the variable's name included."""


def _fits_env_line(value: str) -> str:
    size = len(value.encode())
    if size > ENV_MAX_BYTES:
        raise ValueError(f"has {size} bytes, and {ENV_MAX_BYTES} are possible; put it into the image")
    return value


WholeText = Annotated[str, AfterValidator(_whole)]
EnvText = Annotated[
    TextOrNumber,
    Matches(r"[^\x00\n\r]*", "one line, which is all that Docker's env files carry", private=True),
    AfterValidator(_whole),
    AfterValidator(_fits_env_line),
]
SysctlKey = Annotated[str, Matches(r"[a-z0-9_]+([./][A-Za-z0-9_-]+)+", "a kernel setting such as net.core.somaxconn")]
SysctlText = Annotated[TextOrNumber, Matches(r"[!-~]([ -~\t]*[!-~])?", "one line of plain text")]


def sysctl_name(key: str) -> str:
    """A sysctl key in the form with dots; sysctl(8) takes whichever separator stands first as the separator."""
    separator = next((c for c in key if c in "./"), ".")
    return key if separator == "." else key.translate(str.maketrans("./", "/."))


User = Annotated[
    str,
    # What directories and Debian's own `adduser --force-badname` hand out, less what a path or an option would be.
    Matches("[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}[$]?", "a login name such as root, john.doe or jane@corp"),
]
FilePath = Annotated[str, Matches(r"[^\x00-\x1f]+", "a path"), AfterValidator(_path)]
Argument = Annotated[str, Matches(r"[^\x00\n\r]*", "one line"), AfterValidator(_whole)]
# RFC 3986's characters of a path and a query. What programs make of others differs: brackets are ranges to curl, and a
# quote or a # is no text to HAProxy.
_URL_CHARACTER = "[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2}"
UrlPath = Annotated[
    str,
    Matches(
        rf"/(?:{_URL_CHARACTER})*(?:\?(?:[?]|{_URL_CHARACTER})*)?",
        "a path from / of what RFC 3986 allows in a path and a query; write others as %XX, such as %5B for [",
    ),
]
PathPrefix = Annotated[str, Matches("/[A-Za-z0-9._~/-]*", "a path from /, of letters, digits and . _ ~ - /")]


def _is_somebodys(value: str, of: Callable[[str], ipaddress.IPv4Address | ipaddress.IPv6Address]) -> bool:
    try:
        return not of(value).is_unspecified
    except ValueError:
        return False


def _reachable(value: str) -> str:
    if (":" in value or re.fullmatch("[0-9.]+", value)) and not _is_somebodys(value, ipaddress.ip_address):
        raise ValueError(f"{shown(value)} is no address; write one like 203.0.113.9 or 2001:db8::9, or a name")
    return value


def _bracketed(value: str) -> str:
    for place in re.findall(r"\[(.*?)\]", value):
        if not _is_somebodys(place, ipaddress.IPv6Address):
            raise ValueError(f"[{place}] holds no IPv6 address; write one like [2001:db8::9], or a name")
    return value


# What `ssh -J` takes as a destination, less what would be an option to it.
_PLACE = r"([A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9._-]{1,15})?\])"
_HOP = rf"([A-Za-z0-9_][A-Za-z0-9_.-]{{0,63}}@)?{_PLACE}(:[0-9]{{1,5}})?"
SshAddress = Annotated[
    str,
    Matches(
        r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:]{2,45}",
        "an address, a host name, or a Host of your ~/.ssh/config",
    ),
    AfterValidator(_reachable),
]
Jump = Annotated[
    str,
    Matches(
        rf"{_HOP}(,{_HOP})*",
        "what `ssh -J` takes, such as bastion, deploy@bastion.example.org:2222 or [2001:db8::9]:2222",
    ),
    AfterValidator(_bracketed),
]
Forwarding = Literal["none", "local", "all"]
# RFC 1123, 2.1: what can be a name at all, so that no program refuses it later. 253 letters are what RFC 1035 leaves.
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HOST_NAME = rf"(?=[^:/?]{{1,253}}(?:[:/?]|$)){_LABEL}(\.{_LABEL})*"
"""The pattern of a host name or IPv4 address; the end of the text, or one of : / ? is to follow."""
_OF_LABELS = "of at most 253 letters, 63 between two dots"


def _no_false_address(value: str) -> str:
    """What ends in a number is an address to all that read it, or to some of them: `10.1`, `10.0.0.300`."""
    name = value.partition(":")[0]
    if name.rpartition(".")[2].isdecimal() and not _is_somebodys(name, ipaddress.IPv4Address):
        raise ValueError(f"{shown(value)} ends in a number and is no IPv4 address; write one, or a name")
    return value


HostName = Annotated[
    str, Matches(HOST_NAME, f"a host name or address, {_OF_LABELS}"), AfterValidator(_no_false_address)
]
HostHeader = Annotated[
    str,
    Matches(f"{HOST_NAME}(:[0-9]{{1,5}})?", f"a host name or address, with :PORT or without, {_OF_LABELS}"),
    AfterValidator(_no_false_address),
]


def _without_login(value: str) -> str:
    if "@" in _authority(value):
        raise ValueError("holds a login, which anybody on a host could read there; write the address without it")
    return value


def _authority(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]


def of_a_port(url: str) -> str:
    """An http or https URL that names a possible port, if one; ValueError for others."""
    port = _authority(url).partition(":")[2]
    if port and not 1 <= int(port) <= LAST_PORT:
        raise ValueError(f"{shown(url)} names port {port}, and ports are 1 to {LAST_PORT}")
    return url


def _of_a_true_host(url: str) -> str:
    _no_false_address(_authority(url))
    return url


ProxyUrl = Annotated[
    str,
    # First, so that no error repeats a password.
    AfterValidator(_without_login),
    Matches(
        rf"https?://{HOST_NAME}(:[0-9]{{1,5}})?/?",
        "an http:// or https:// address of a proxy, such as http://10.20.0.5:3142",
    ),
    AfterValidator(of_a_port),
    AfterValidator(_of_a_true_host),
]
CookieName = Annotated[str, Matches("[A-Za-z][A-Za-z0-9_-]{0,63}", "a cookie's name such as SHOP_ID")]
SecretName = Annotated[
    str, Matches("[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", "at most 64 letters, digits, dots, dashes and underscores")
]


def _cidr(value: str) -> str:
    try:
        return str(ipaddress.IPv4Network(value))
    except ValueError as error:
        # ipaddress's own words do not say how to mend "10.0.0.1/24".
        try:
            network = ipaddress.IPv4Network(value, strict=False)
        except ValueError:
            raise ValueError(f"{shown(value)} is not an IPv4 network; write one like 10.0.0.0/24") from error
        raise ValueError(f"{shown(value)} has host bits set; did you mean {network}?") from error


def _address(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError as error:
        raise ValueError(f"{shown(value)} is not an IPv4 address; write one like 10.0.0.11") from error


Cidr = Annotated[str, AfterValidator(_cidr)]
Address = Annotated[str, AfterValidator(_address)]


def _status_range(value: str) -> str:
    first, _, last = value.partition("-")
    if last and last < first:
        raise ValueError(f"{shown(value)} is a range that ends before it begins; write {last}-{first}")
    return value


class _OneOrMany:
    """What is no list stands for a list of it alone."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._listed, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        many = handler(schema)
        return {"anyOf": [many["items"], {**many, "minItems": 1}]}

    @staticmethod
    def _listed(value: object) -> object:
        if not isinstance(value, list | tuple):
            return (value,)
        if not value:
            raise ValueError("is empty; it needs at least one entry")
        return value


class _NoneOneOrMany(_OneOrMany):
    """As `_OneOrMany`; nothing, which is the default, stands for an empty list."""

    @staticmethod
    def _listed(value: object) -> object:
        return value or () if value is None or isinstance(value, list | tuple) else (value,)


# HAProxy reads a status as three digits; one below 200 is never the last word of an answer.
StatusRange = Annotated[
    TextOrNumber,
    Matches("[2-5][0-9]{2}(-[2-5][0-9]{2})?", "a status code or a range of them, such as 204 or 200-399"),
    AfterValidator(_status_range),
]
StatusRanges = Annotated[Many[StatusRange], _OneOrMany()]
HostPattern = Annotated[
    str,
    Matches(
        rf"(\*\.)?{HOST_NAME}",
        f"a host name or address, or *.example.org in quotes for all names below that, {_OF_LABELS}",
    ),
    AfterValidator(_no_false_address),
]
HostPatterns = Annotated[Many[HostPattern], _NoneOneOrMany()]


class Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        strict=True,
        allow_inf_nan=False,
        json_schema_extra={"patternProperties": {"^x-": {}}},
    )

    @model_validator(mode="before")
    @classmethod
    def _without_own_keys(cls, value: object) -> object:
        # As in Compose files: a place for YAML anchors and for notes of the person's own.
        if isinstance(value, dict):
            return {k: v for k, v in value.items() if not (isinstance(k, str) and k.startswith("x-"))}
        return value


def has_unknown_key(model: type[Model], value: Mapping[object, object]) -> bool:
    """Whether ``value`` has a key that ``model`` does not: what it may be a slip of is not to be called missing."""
    return any(name not in model.model_fields and not str(name).startswith("x-") for name in value)
