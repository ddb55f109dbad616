"""Where a container's hardening gives way to what a service needs, each by a key of its own, in Docker's words."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, WrapValidator

from fiefdom.model.text import Matches, Model, TextOrNumber
from fiefdom.wording import shown

# capabilities(7); all that both Debians' Docker and kernels know.
CAPABILITIES = frozenset(
    (
        *("AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE"),
        *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK"),
        *("IPC_OWNER", "KILL", "LEASE", "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE"),
        *("MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW", "PERFMON"),
        *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN"),
        *("SYS_BOOT", "SYS_CHROOT", "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE"),
        *("SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "WAKE_ALARM"),
    )
)
# Who has one of these has all that the host has in memory.
_MEMORY = ("/dev/mem", "/dev/kmem", "/dev/port")
_KIB = {"k": 1, "m": 1 << 10, "g": 1 << 20}


def _capability(value: str) -> str:
    if value in CAPABILITIES:
        return value
    plain = value.upper().removeprefix("CAP_")
    if plain in CAPABILITIES:
        raise ValueError(f"{shown(value)} is written {plain} here")
    if plain == "ALL":
        raise ValueError("ALL would take every bound away; name the capabilities that the service needs")
    raise ValueError(f"{shown(value)} is no capability of Linux; write one such as NET_BIND_SERVICE")


def _device(value: str) -> str:
    path = host_path(value)
    if path in _MEMORY:
        raise ValueError(f"{path} is the host's memory, which no container may have; take it out")
    return value


_NODE = r"/dev(/(?!\.{1,2}(/|:|$))[A-Za-z0-9._+-]+)+"
Capability = Annotated[str, AfterValidator(_capability)]
Device = Annotated[
    str,
    Matches(
        rf"{_NODE}(:{_NODE}(:r?w?m?)?)?(?<!:)",
        "an absolute path of a device such as /dev/ttyUSB0; :PATH in the container and :rw may follow",
    ),
    AfterValidator(_device),
]
Size = Annotated[str, Matches("[1-9][0-9]{0,8}[kmg]", "a size in KiB, MiB or GiB, such as 256m")]
Gpus = Annotated[TextOrNumber, Matches("all|[1-9][0-9]?", "`all`, or how many, such as 1")]


def host_path(device: str) -> str:
    """The path of a device on the host."""
    return device.partition(":")[0]


_Folder = Annotated[str, Matches("/[A-Za-z0-9._/-]+", "an absolute folder such as /tmp")]


class Tmpfs(Model):
    """A writable folder in memory that gives way in something."""

    path: _Folder = Field(description="Where it is in the container.")
    exec: bool = Field(False, description="Whether the service may run programs that it puts there.")


_FOLDER: TypeAdapter[str] = TypeAdapter(_Folder, config=ConfigDict(strict=True))


def _folder_or_more(value: object, _: object) -> str | Tmpfs:
    # As `secrets.EnvValue` has it: pydantic's own choice would complain of either kind.
    if isinstance(value, dict | Tmpfs):
        return Tmpfs.model_validate(value)
    return _FOLDER.validate_python(value)


TmpfsFolder = Annotated[_Folder | Tmpfs, WrapValidator(_folder_or_more)]


def tmpfs_path(folder: str | Tmpfs) -> str:
    """Where a folder of `tmpfs` is."""
    return folder if isinstance(folder, str) else folder.path


def may_run(folder: str | Tmpfs) -> bool:
    """Whether what stands in a folder of `tmpfs` may be run."""
    return not isinstance(folder, str) and folder.exec


def mib(size: str) -> float:
    """A size in MiB."""
    return int(size[:-1]) * _KIB[size[-1]] / 1024
