"""What only all keys of an inventory together can break."""

from __future__ import annotations

from dataclasses import dataclass

from fiefdom.wording import KeyPath

# memberlist sends a member's tags in one field of this size, and refuses to start above it.
TAGS_MAX_BYTES = 512


# Template units of Debian 12 and 13, which a service of the same name would replace, and Fiefdom's own units.
TAKEN_UNITS = frozenset(
    {
        *(
            "autovt",
            "blockdev",
            "capsule",
            "container-getty",
            "e2scrub",
            "getty",
            "modprobe",
            "quotaon",
            "serial-getty",
        ),
        *("ssh", "sshd", "user", "user-runtime-dir", "docker", "containerd", "gateway", "serf-agent"),
    }
)


@dataclass(frozen=True)
class Range:
    key: KeyPath
    first: int
    count: int = 1

    @property
    def last(self) -> int:
        return self.first + self.count - 1

    @property
    def ports(self) -> str:
        return f"port {self.first}" if self.count == 1 else f"ports {self.first}-{self.last}"

    @property
    def are(self) -> str:
        return "is" if self.count == 1 else "are"
