"""What a run knows and whom it reaches: the values and the one protocol that all procedures share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from fiefdom.converge.steps import Phase
from fiefdom.converge.steps_script import Step
from fiefdom.desired.state import LocalImage
from fiefdom.errors import HostError, HostErrors
from fiefdom.model import Cluster, Secrets

T = TypeVar("T")
Other = TypeVar("Other")

Say = Callable[[str, str], None]
"""Hears of every stage: the host (or another name for where it happens), and what."""
HERE = "here"
"""Who this machine is, as `Say` hears it: it builds and waits before hosts go on, and is never done."""


def _none_here(_: Collection[str]) -> dict[str, LocalImage]:
    return {}


@dataclass(frozen=True)
class Known:
    """What a run knows before it looks at any host. ``identities`` tell the right images, as of `images.build`."""

    cluster: Cluster
    secrets: Secrets
    identities: Mapping[str, str]
    without: tuple[str, ...] = ()
    """Hosts that it leaves out: they stay what they are in the inventory, and nobody asks them."""
    behind: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By host, services whose release went on without it: what it still runs of them waits for no rollout."""
    local: Callable[[Collection[str]], Mapping[str, LocalImage]] = field(default=_none_here, repr=False)
    """Asks this machine's Docker for images, by reference; those that it has not are left out."""
    spared: frozenset[str] | None = None
    """Images that a rollback could want, as the audit has it; None where nobody asked."""

    @property
    def gateways(self) -> tuple[str, ...]:
        """The gateways that the run asks."""
        return tuple(name for name in self.cluster.gateways if name not in self.without)


class Stream(Protocol):
    """What a host prints. Nobody reads ahead of whoever asks for it, but for `AHEAD_BYTES`."""

    def ready(self) -> bool:
        """Whether `read` returns at once."""

    def read(self) -> bytes:
        """What comes next; nothing at its end.

        Raises HostError where it failed, and Unreachable where the host is not connected or its connection broke off.
        """


AHEAD_BYTES = 1 << 18
"""Bytes that a host may send before somebody takes them."""


class Hosts(Protocol):
    """Connections to hosts of a cluster: the engine's session, or hosts that tests make of values."""

    @property
    def names(self) -> tuple[str, ...]:
        """The hosts that a run is about, in the inventory's order; who only looks may find some that do not answer."""

    def on_all(self, function: Callable[[str], T], names: Iterable[str] | None = None) -> dict[str, T]:
        """``function(name)`` for every host at once, in the given order.

        All are waited for. What went wrong is raised at the end, as one FiefdomError of all hosts' sentences. For one
        host, call the function.
        """

    def snapshot_lines(self, queries: Mapping[str, str]) -> dict[str, list[str]]:
        """The snapshot script's answer from every host that is asked, one round trip each.

        Raises FiefdomError as `on_all` where hosts do not answer.
        """

    def run(self, name: str, phase: Phase) -> None:
        """Take one host through one phase.

        Raises HostError for what failed there and ended it, and Sick where all was done and something does not come up.
        """

    def text_of(self, name: str, path: str) -> str:
        """Text of a file on a host; empty where it cannot be read. Raises Unreachable."""

    def shell(self, name: str, argv: Iterable[str]) -> tuple[bool, str, str]:
        """Run a command as root; whether it succeeded, its output and its errors.

        One that hangs has failed after 10 s, in its own words of an error: a container's command, while dockerd hangs.
        Raises Unreachable where the host is not connected, or its connection breaks off.
        """

    def script(
        self, name: str, text: str, arguments: Sequence[str] = (), stdin: str = "", timeout_s: int = ...
    ) -> tuple[bool, str, str]:
        """Run a sh script as root, ``arguments`` from ``$1`` on: whether it succeeded, its output and its errors.

        Raises Unreachable where the host is not connected, its connection breaks off, or it says nothing for
        ``timeout_s`` (10 where nothing is said), for one that hangs would keep a run's signs of life from all others.
        """

    def follow(self, name: str, steps: Iterable[Step], hear: Callable[[str], None]) -> None:
        """Let a host take a turn that it ends even if this connection breaks off; ``hear`` gets each line it prints.

        Raises Unreachable where the connection broke off, not where the turn failed: its lines say that.
        """

    def attach(self, name: str, text: str, arguments: Sequence[str], hear: Callable[[int, bytes], None]) -> int:
        """Run a sh script as root for as long as it takes, and return its exit code; ``hear`` gets what it prints as it
        prints it: 1 or 2 for which of its outputs, and a piece of it.

        The script's standard input is this end: it ends where an interrupt comes, which is raised once the script is
        at its end, or at once where another one comes, and where the connection breaks off.

        Raises Unreachable where the host is not connected, or its connection breaks off.
        """

    def listen(self, text: str, arguments: Mapping[str, Sequence[str]]) -> AbstractContextManager[Mapping[str, Stream]]:
        """Run a sh script as root on each host of ``arguments``, until the end of the block: what each of them prints.

        The scripts' standard input is this end: it says something each few seconds, and ends with the block, or where
        the connection breaks off. A host that does not answer says so when it is read.
        """

    def interact(self, name: str, text: str | None, words: Sequence[str], *, terminal: bool) -> int:
        """Give this process's own input and outputs to a sh script that is run as root, ``words`` from ``$1`` on, until
        its end: its exit code. Without ``text``, to what an account of the host runs: ``words``, or its login shell.

        With ``terminal`` it has a terminal, which is this process's own meanwhile: keys such as Ctrl-C go there.
        Raises Unreachable as `attach`, and BrokenPipeError where nobody reads what it says.
        """

    def every(self, seconds: float, function: Callable[[], object]) -> AbstractContextManager[None]:
        """Call ``function`` every so many seconds beside the block; the end waits for a call that is under way."""

    def connect_anew(self, name: str) -> str | None:
        """Close a host's connection and open another; why that failed, or None."""


def side_by_side(hosts: Hosts, one: Callable[[], T], other: Callable[[], Other]) -> tuple[T, Other]:
    """What two functions return that each ask hosts: both at once, as all hosts are of `Hosts.on_all`.

    Both are waited for; raises as it does, of what went wrong in either.
    """
    first: list[T] = []
    second: list[Other] = []
    # By the names of jobs instead of hosts'.
    jobs = {"one": lambda: first.append(one()), "other": lambda: second.append(other())}
    hosts.on_all(lambda job: jobs[job](), jobs)
    return first[0], second[0]


def ask_each(hosts: Hosts, function: Callable[[str], T], names: Iterable[str]) -> tuple[dict[str, T], dict[str, str]]:
    """``function(name)`` of every host that answers, and why the others do not; both in the given order.

    For whoever looks: what one host cannot tell keeps nobody from what the others do. Raises what is no HostError.
    """
    found: dict[str, T] = {}
    silent: dict[str, str] = {}

    def ask(name: str) -> None:
        try:
            found[name] = function(name)
        except (HostError, HostErrors) as error:
            reasons = [each.reason for each in error.each if isinstance(each, HostError)]
            if len(reasons) < len(error.each):
                raise
            silent[name] = "; ".join(reasons)

    names = tuple(names)
    hosts.on_all(ask, names)
    return {n: found[n] for n in names if n in found}, {n: silent[n] for n in names if n in silent}
