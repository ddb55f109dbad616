"""What a service's containers have mounted: volumes that outlive them, and files of configuration and secrets."""

from __future__ import annotations

import posixpath
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from fiefdom.model.secrets import SOURCES, SecretSource
from fiefdom.model.text import Argument, FilePath, Many, Matches, Model, Name, SecretName, WholeText, has_unknown_key

FILE_MAX_BYTES = 1 << 20
"""Of one file's content: it goes to a host in one piece, and stands there once for each instance."""

# What Docker's --mount takes without quotes, and a path that is written in one way only.
_PATH = r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._@+-]+)+"
_KERNELS = ("/dev", "/proc", "/sys")

# Folders that a container may have neither as they are nor any part of: who has them has the host, or what others keep.
_PROTECTED = (
    *("/dev", "/proc", "/sys", "/boot", "/root"),
    *("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr/bin", "/usr/sbin", "/usr/lib"),
    *("/usr/local/bin", "/usr/local/sbin", "/usr/local/lib/fiefdom"),
    *("/etc/fiefdom", "/etc/docker", "/etc/ssh", "/etc/systemd", "/etc/ssl/private", "/etc/shadow"),
    *("/run/docker.sock", "/run/docker", "/run/containerd", "/run/fiefdom", "/run/systemd", "/run/user", "/run/dbus"),
    *("/var/lib/fiefdom", "/var/lib/docker", "/var/lib/containerd", "/var/lib/systemd", "/var/spool/cron"),
)
# Their programs and settings run as root.
_READ_ONLY = ("/etc", "/usr")


def is_beneath(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or in it."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def require_may_be_given(folder: str, protected: tuple[str, ...] = _PROTECTED) -> None:
    """Raise ValueError where ``folder`` of a host is one of ``protected``, a part of one, or has one in it."""
    # Debian's /var/run is a link to /run.
    real = folder.removeprefix("/var") if is_beneath(folder, "/var/run") else folder
    for other in protected:
        if is_beneath(real, other) or is_beneath(other, real):
            why = "would be" if real == other else "is a part of" if is_beneath(real, other) else "would bring"
            mend = "name a folder of your own, such as /srv/models"
            raise ValueError(f"{folder} {why} {other}, which no container may have; {mend}")


def _host_folder(value: str) -> str:
    require_may_be_given(value)
    return value


def _container_path(value: str) -> str:
    for kernels in _KERNELS:
        if is_beneath(value, kernels):
            raise ValueError(f"{value} is in {kernels}, which is the kernel's; choose another path in the container")
    return value


ContainerPath = Annotated[
    str,
    Matches(_PATH, "an absolute path in the container, of letters, digits and . _ - + @, without . and .. as parts"),
    AfterValidator(_container_path),
]
HostFolder = Annotated[
    str,
    # Whatever it is, it gets to the words of `require_may_be_given`.
    Matches(rf"/|{_PATH}", "an absolute folder of the host such as /srv/models, without . and .. as parts"),
    AfterValidator(_host_folder),
]
_NUMBER = "(0|[1-9][0-9]{0,8})"
Owner = Annotated[
    str,
    Matches(f"{_NUMBER}(:{_NUMBER})?", 'a uid, or uid and gid, in quotes: "999" or "999:999"; names are the image\'s'),
]
FolderMode = Annotated[str, Matches("[0-3]?[0-7]{3}", 'an octal mode in quotes, such as "0700"')]
FileMode = Annotated[str, Matches("0?[0-7]{3}", 'an octal mode in quotes, such as "0440"')]


def numbers_of(owner: str) -> tuple[int, int]:
    """uid and gid of what stands in an inventory; the gid is the uid's number where it has none."""
    uid, _, gid = owner.partition(":")
    return int(uid), int(gid or uid)


class Volume(Model):
    """A folder that outlives the containers that have it: one that Fiefdom keeps, by name, or one of the host."""

    model_config = ConfigDict(
        json_schema_extra={
            "patternProperties": {"^x-": {}},
            "oneOf": [{"required": ["name"]}, {"required": ["host"]}],
        },
    )

    name: Name | None = Field(
        None,
        description="Name of a volume that Fiefdom keeps, in /var/lib/fiefdom/volumes/SERVICE/NAME of each host. "
        "Nothing but `fiefdom retire --volumes` removes it.",
    )
    host: HostFolder | None = Field(
        None, description="A folder that is on every host of the service already, such as /srv/models."
    )
    path: ContainerPath = Field(description="Where it is in the container.")
    writable: bool | None = Field(
        None,
        description="Whether the service may write there; true for a volume by name and false for a folder of the "
        "host when absent.",
    )
    owner: Owner | None = Field(
        None, description="Who owns a volume by name, as uid or uid:gid; the service's `user` when absent."
    )
    mode: FolderMode | None = Field(None, description="Mode of a volume by name; 0700 when absent.")
    each_instance: bool = Field(
        False,
        description="Whether each instance has a volume by name of its own, in .../NAME@PORT; else those of one host "
        "share it.",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Volume:
        if (self.name is None) == (self.host is None):
            is_it, joined = ("is neither", "nor") if self.name is None else ("is both", "and")
            what = f"{is_it} a volume of Fiefdom's {joined} a folder of the host"
            raise ValueError(f"{what}; write one of {{name: data}} and {{host: /srv/models}}")
        if self.host is not None:
            given = [k for k in ("owner", "mode", "each_instance") if k in self.model_fields_set and getattr(self, k)]
            if given:
                raise ValueError(
                    f"{given[0]} is for a volume by name: a folder of the host stays as it is there; take it out"
                )
            if self.is_writable and any(is_beneath(self.host, folder) for folder in _READ_ONLY):
                raise ValueError(f"{self.host} holds settings or programs of the host; take `writable` out")
        return self

    @property
    def is_writable(self) -> bool:
        """Whether it is mounted writable."""
        return self.name is not None if self.writable is None else self.writable

    @property
    def mode_number(self) -> int:
        """Mode of a volume by name."""
        return int(self.mode or "0700", 8)


_CONTENTS = ("file", "template", "text", *SOURCES)


def _fits(value: str) -> str:
    require_size(len(value.encode()))
    return value


def require_size(size: int) -> None:
    """Raise ValueError for the content of a file that is too large."""
    if size > FILE_MAX_BYTES:
        raise ValueError(
            f"has {size} bytes, and {FILE_MAX_BYTES} are possible; put it into the image, or into a folder of the host"
        )


class ServiceFile(Model):
    """A file in a service's containers, read-only there. What is in it comes from one of six places."""

    model_config = ConfigDict(
        json_schema_extra={
            "patternProperties": {"^x-": {}},
            "oneOf": [{"required": [name]} for name in _CONTENTS],
        },
    )

    file: FilePath | None = Field(None, description="File with the content as it is, relative to the inventory.")
    template: FilePath | None = Field(
        None,
        description="Jinja2 template of the content, relative to the inventory. It knows host, address, service, "
        "version, port, ports and cluster.",
    )
    text: Annotated[WholeText, AfterValidator(_fits)] | None = Field(None, description="The content itself.")
    env: Annotated[str, Matches("[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")] | None = Field(
        None, description="Environment variable of the operator that holds the content, which is a secret."
    )
    command: Annotated[Many[Argument], Field(min_length=1)] | None = Field(
        None, description="Command that prints the content, which is a secret, as in other keys."
    )
    secret: SecretName | None = Field(
        None, description="Name under which the encrypted file `secrets.file` holds the content."
    )
    mode: FileMode | None = Field(None, description="Its mode; 0444 when absent, and 0400 for a secret.")
    owner: Owner | None = Field(
        None,
        description="Who owns it, as uid or uid:gid. When absent, root where everybody may read it, else the service's "
        "`user`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _exactly_one(cls, value: object) -> object:
        if isinstance(value, str):
            # Not told what stands there: it may be a secret.
            raise ValueError(
                "must be a mapping that says where the content is: {file: PATH}, {template: PATH} or {text: ...}"
            )
        if isinstance(value, dict) and not has_unknown_key(cls, value):
            given = [name for name in _CONTENTS if value.get(name) is not None]
            if len(given) != 1:
                raise ValueError(
                    f"has {' and '.join(given) or 'no content'}; write one of {', '.join(_CONTENTS[:-1])} and "
                    f"{_CONTENTS[-1]}"
                )
        return value

    @property
    def source(self) -> SecretSource | None:
        """Where its content comes from, if it is a secret."""
        if self.env is None and self.command is None and self.secret is None:
            return None
        return SecretSource(env=self.env, command=self.command, secret=self.secret)

    @property
    def mode_number(self) -> int:
        """Its mode."""
        return int(self.mode or ("0400" if self.source else "0444"), 8)

    @property
    def is_open(self) -> bool:
        """Whether everybody in the container may read it."""
        return bool(self.mode_number & 0o004)


def owner_of_volume(volume: Volume, user: str | None) -> tuple[int, int] | None:
    """uid and gid of a volume by name, where ``user`` is the service's; None where nobody says."""
    owner = volume.owner or user
    return numbers_of(owner) if owner else None


def owner_of_file(file: ServiceFile, user: str | None) -> tuple[int, int] | None:
    """uid and gid of a file, where ``user`` is the service's; None where nobody says and not everybody may read it."""
    owner = file.owner or ("0:0" if file.is_open else user)
    return numbers_of(owner) if owner else None


def normal(folder: str) -> str:
    """A folder's path as it is written in one way only; those of `tmpfs` may have a slash at their end."""
    return posixpath.normpath(folder)
