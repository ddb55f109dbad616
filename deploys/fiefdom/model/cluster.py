"""A whole inventory: every key of a draft, and none that contradicts another."""

from __future__ import annotations

from pathlib import Path

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from fiefdom.model import references
from fiefdom.model.draft import Draft
from fiefdom.model.hosts import Service
from fiefdom.model.jumps import jumps_of
from fiefdom.model.rules import problems
from fiefdom.wording import dotted, from_here


class Cluster(Draft):
    """A whole inventory, every default filled in."""

    @model_validator(mode="after")
    def _consistent(self) -> Cluster:
        if found := problems(self):
            # The context carries all of them, so that `complaint` can order and count them.
            key, says = found[0]
            raise PydanticCustomError("inconsistent", "{first}", {"first": f"{dotted(key)}: {says}", "all": found})
        return self

    def with_version(self, service: str, version: str) -> Cluster:
        """This cluster with another version of ``service``, whose image is taken as it is: never built anew.

        Raises ValidationError for what cannot be a version.
        """
        own = self.services[service].model_dump(exclude_unset=True) | {"version": version, "build": None}
        if version != self.services[service].version:
            own["image"] = references.name_of(own["image"])  # a digest is that of one version
        changed = Service.model_validate(own)
        return self.model_copy(update={"services": {**self.services, service: changed}})

    def ssh_of(self, host: str) -> tuple[str, int, str | None]:
        """Login user, port and private key file (absolute, or None) of ``host``."""
        own = self.hosts[host].ssh
        key = own.key or self.ssh.key
        return (
            own.user or self.ssh.user,
            own.port or self.ssh.port,
            None if key is None else str(self.path(key)),
        )

    def ssh_address(self, host: str) -> str:
        """Where SSH finds ``host``: an address, a name, or a Host of the operator's ~/.ssh/config."""
        own = self.hosts[host]
        return own.ssh.address or own.address

    def ssh_says(self, host: str, key: str) -> bool:
        """Whether somebody wrote ``key`` ("user" or "port") of how to log in to ``host``, and it is no default."""
        return key in self.hosts[host].ssh.model_fields_set or key in self.ssh.model_fields_set

    def jumps_of(self, host: str) -> tuple[str, ...]:
        """Jump hosts on the way to ``host``, the nearest first: names of hosts, or `[USER@]HOST[:PORT]`."""
        return jumps_of(self, host)

    def path(self, relative: str) -> Path:
        """A path of the inventory as an absolute one."""
        return (Path(self.base_dir) / Path(relative).expanduser()).resolve()

    def path_here(self, relative: str) -> Path:
        """As `path`, for this process and a person who reads of it: from the working directory, where it is in that."""
        return from_here(self.path(relative))
