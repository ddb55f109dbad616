"""What pyinfra's facts of Fiefdom are: a host's instances, its membership, and what a plan would change on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pyinfra.api import FactBase, State, StringCommand
from pyinfra.api.exceptions import DeployError, FactProcessError
from pyinfra.api.host import Host

from fiefdom.cluster import itself
from fiefdom.cluster.itself import Instance, Membership
from fiefdom.desired.concerns import ALL
from fiefdom.engine import deploys
from fiefdom.engine.shells import as_root, shown
from fiefdom.errors import FiefdomError
from fiefdom.inventory.read import DATA_KEY
from fiefdom.wording import printable
from fiefdom.wording import shown as quoted

T = TypeVar("T")
_PUBLIC = "fiefdom.facts"
"""Where other repositories find them; pyinfra takes a fact's name from its module."""


def _read(reader: Callable[[list[str]], T], output: list[str]) -> T:
    try:
        return reader(shown("\n".join(output)).split("\n"))
    except FiefdomError as error:
        raise FactProcessError(str(error)) from error


class Instances(FactBase[list[Instance]]):
    """The instances of services on a host, by service and port: those that it has, and those that it should have.

    One round trip, and no inventory of Fiefdom's: the host itself tells. It takes root or the group docker, and becomes
    root by sudo where that asks for no password; where neither is so, the host fails with a sentence. A host without
    Docker, or without services, has an empty list.

        for instance in host.get_fact(Instances):
            if instance["service"] == "web" and instance["offered"]:
                ...

    It is a list of `Instance`; None where the host failed.
    """

    __module__ = _PUBLIC

    def command(self) -> StringCommand:
        """The script that asks the host."""
        return as_root(itself.SCRIPT, itself.INSTANCES)

    def process(self, output: list[str]) -> list[Instance]:
        """What the host told, as values."""
        return _read(itself.instances, output)


class Member(FactBase[Membership]):
    """Whether a host is a member of a cluster, and how: what the Serf agent that it runs says of it.

    That is what the gateways hear of it. One round trip, and no inventory of Fiefdom's; root or the group docker, as
    for `Instances`.

        if host.get_fact(Member)["state"] == "leaving":
            ...

    It is a `Membership`; None where the host failed.
    """

    __module__ = _PUBLIC

    def command(self) -> StringCommand:
        """The script that asks the host."""
        return as_root(itself.SCRIPT, itself.MEMBER)

    def process(self, output: list[str]) -> Membership:
        """What the host told, as values."""
        return _read(itself.membership, output)


class Drift(FactBase[list[str]]):
    """What `fiefdom plan` would change on a host: a sentence each, in the plan's order; an empty list is a clean host.

    It reads the data `fiefdom` as the deploys do, and takes what they take: root, and for a member the cluster's
    secrets. It changes nothing. A release that waits for its rollout is among the sentences, and says so.

        drift = host.get_fact(Drift)  # all that a member is to hold
        drift = host.get_fact(Drift, concern="sshd")  # of one concern, on any host that its deploy would take

    ``concern`` is the name of a deploy in `fiefdom.deploys`, such as `sshd`; empty for the whole site.

    It is a list of str, without a secret; None where the host failed: it is in no cluster and no concern is named, or
    whatever else the deploy would refuse.
    """

    __module__ = _PUBLIC

    _host: Host
    _state: State
    _found: list[str] | FactProcessError

    def check_preconditions(self, state: State, host: Host) -> str | None:
        """None, always: pyinfra says here whose fact it is, which need not be the host that it is at."""
        self._state, self._host = state, host
        return None

    def command(self, concern: str = "") -> str:
        """A word, once the host was asked: its question goes to the script's input, of which a fact has no say."""
        try:
            self._found = self._sentences(concern)
        except DeployError as error:
            # Raised from here, the `pyinfra INVENTORY fact` command would say nothing of it.
            self._found = FactProcessError(str(error).removeprefix(f"{self._host.name}: "))
        return "echo found"

    def process(self, output: list[str]) -> list[str]:  # noqa: ARG002
        """The sentences."""
        if isinstance(self._found, FactProcessError):
            raise self._found
        return self._found

    def _sentences(self, concern: str) -> list[str]:
        if concern not in ("", *ALL):
            raise DeployError(printable(f"no such concern {quoted(concern)}; they are {', '.join(ALL)}"))
        concerns = (concern,) if concern else ALL
        defaults = self._host.get_deploy_data().get(DATA_KEY)
        wanted = deploys.planned(self._state, self._host, concerns, defaults)[1]
        return [_sentence(change.as_data()) for change in wanted.changes]


def _sentence(change: dict[str, Any]) -> str:
    waits = ", with its rollout" if change["release"] else ""
    return f"{change['sign']} {change['kind']} {change['name']}: {change['why']}{waits}"
