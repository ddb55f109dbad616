"""A command in a new container of a service, on one host that answers: in the audit, and without a lock."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from fiefdom.cluster import locking
from fiefdom.converge import one_off
from fiefdom.converge.one_off import Hear
from fiefdom.converge.run import Hosts, Known, ask_each
from fiefdom.errors import FiefdomError, HostError
from fiefdom.model import Cluster, Secrets
from fiefdom.procedures.release import chosen_services
from fiefdom.wording import Tell, printable


class Ended(FiefdomError):
    """A command that came to its end with another exit code than 0."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"ended with exit code {code}")


def hosts_of(cluster: Cluster, service: str, host: str | None) -> tuple[str, ...]:
    """The hosts that run ``service``, or that one of them. Raises FiefdomError where there is none."""
    chosen_services(cluster, service)
    running = cluster.runs_on(service)
    if not running:
        raise FiefdomError(f"{service} runs on no host of this inventory; set its instances above 0")
    if host is None:
        return running
    if host not in cluster.hosts:
        raise FiefdomError(f"--host {printable(host)}: no such host; hosts are {', '.join(cluster.hosts)}")
    if host not in running:
        raise FiefdomError(f"--host {host}: runs no {service}; these hosts do: {', '.join(running)}")
    return (host,)


def run_once(
    known: Known, hosts: Hosts, service: str, names: Sequence[str], command: Sequence[str], hear: Hear, warn: Tell
) -> None:
    """Run a command as ``service`` on the first of ``names`` that answers; ``hear`` gets what it says, as it says it.

    Raises:
        Ended: it ended with another exit code than 0.
        FiefdomError: no host answers, or nothing began on the one that does.
    """
    host, note = first_that_answers(hosts, names), f"{service}: {told(command, known.secrets)}"
    with locking.recorded(hosts, known.gateways, "run", warn, names=[host], note=note):
        code = one_off.attend(hosts, host, one_off.as_running(service, command), hear)
        if code:
            raise Ended(code)


def require_text(command: Sequence[str]) -> None:
    """Raise FiefdomError for words that could not be told in the audit."""
    for word in command:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise FiefdomError(f"{printable(repr(word))} is no UTF-8; have a script in the image say it") from None


def first_that_answers(hosts: Hosts, names: Sequence[str]) -> str:
    """Which of ``names`` can be asked to run something. Raises FiefdomError where none can."""

    def require_answer(name: str) -> None:
        well, _, reason = hosts.shell(name, ["true"])
        if not well:
            raise HostError(name, printable(reason) or "does not run `true`")

    found, silent = ask_each(hosts, require_answer, names)
    if not found:
        raise FiefdomError("; ".join(f"{name}: {reason}" for name, reason in silent.items()))
    return next(iter(found))


def told(command: Sequence[str], secrets: Secrets) -> str:
    """A command as the audit tells it, without what Fiefdom knows to be secret."""
    return shlex.join(map(secrets.hidden_in, command))
