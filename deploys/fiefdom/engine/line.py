"""One host's line, as `converge.guard` wants it: a change that could cut it is confirmed over a new connection."""

from __future__ import annotations

import shlex
from base64 import b64decode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

import gevent
from gevent.event import Event
from paramiko import PKey
from pyinfra.api import StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host

from fiefdom.converge import guard
from fiefdom.converge.steps_script import Step
from fiefdom.converge.trial import SCRIPT, negotiates
from fiefdom.engine.connector import Connector
from fiefdom.engine.known_hosts import known_as, path_of, remember, require_writable, trust
from fiefdom.engine.places import at
from fiefdom.engine.shells import AS_ROOT, BROKEN, QUIET_S, follow, run_script, text_of, tune
from fiefdom.errors import HostError, Unreachable
from fiefdom.inventory import groups
from fiefdom.model import Cluster

FIRST_KEY, FIRST_KEY_FILE = "ssh-ed25519", "ssh_host_ed25519_key.pub"
ASK_S = 4
"""Seconds that a host may take for a question of `guard`; what takes longer is a line that is cut."""


class _Line:
    """One host's line, as `guard.Line` wants it. Leaving closes what did not take the old connection's place."""

    def __init__(self, host: Host, wanted: Mapping[str, Any], known_hosts: Path, crypto: str) -> None:
        self.name = host.name
        self.where = at(wanted["ssh_hostname"], wanted["ssh_port"])
        self._host = host
        self._wanted = dict(wanted)
        self._known_hosts = known_hosts
        self._crypto = crypto
        self._fresh: Any = None
        self._learned: list[PKey] = []
        self._name = ""
        self._trusted: str | None = None

    def __enter__(self) -> _Line:
        old: Any = self._host.connector
        if any(old.data[key] != self._wanted[key] for key in ("ssh_hostname", "ssh_port")):
            # The host goes on being the one that it is: its key is known, only not yet under the new name.
            self._learned.append(_server_key(old))
        if _server_key(old).get_name() != FIRST_KEY:
            # Fiefdom's sshd shows this one first, and some others not at all; root's word for it is good.
            text = text_of(self._host, f"/etc/ssh/{FIRST_KEY_FILE}")
            if text:
                self._learned.append(PKey.from_type_string(FIRST_KEY, b64decode(text.split()[1])))
        if self._learned:
            self._name = self._known_as()
            require_writable(self._known_hosts, self._name, self.name)
            self._trusted = trust(self._known_hosts, ((self._name, key) for key in self._learned))
            self._wanted["ssh_known_hosts_file"] = self._trusted
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()
        if self._trusted is not None:
            Path(self._trusted).unlink(missing_ok=True)

    def trial(self, config: str) -> str | None:
        """As in `guard.Line`."""
        channel = self._host.connector.client.get_transport().open_session()  # type: ignore[attr-defined]
        channel.exec_command(shlex.join(["sh", "-c", AS_ROOT, f"shift\n{SCRIPT}", config]))
        return negotiates(channel, self._crypto)

    def take(self, steps: Sequence[Step], last: str) -> list[str]:
        """As in `guard.Line`."""
        lines: list[str] = []
        heard = Event()

        def hear(line: str) -> None:
            lines.append(line)
            heard.set()

        def listen() -> None:
            with suppress(Unreachable, *BROKEN):  # what the host did is asked anew
                follow(self._host, steps, hear)
            heard.set()

        job = gevent.spawn(listen)
        while not job.ready():
            heard.clear()
            # Before the change, the host may wait for another run; after it, silence means that the line is cut, or
            # that a step failed and the host takes its time to put back what came before.
            failed = any(line.startswith("fiefdom-failed\t") for line in lines)
            if not heard.wait(guard.BACK_S if failed else QUIET_S / 2 if last in lines else None):
                break
        job.kill()
        return lines

    def login(self) -> str | None:
        """As in `guard.Line`."""
        self._drop()
        return self._open(self._wanted)

    def confirm(self, attempt: str) -> tuple[guard.Answer, str]:
        """As in `guard.Line`."""
        try:
            answer, words = _answer(self._fresh, "confirm", attempt)
        except BROKEN:
            return "applying", ""  # asked again over another connection
        if answer == "confirmed":
            self._adopt()
            self._remember()
        return answer, words

    def ask(self, attempt: str) -> tuple[guard.Answer, str]:
        """As in `guard.Line`."""
        for _ in range(2):
            try:
                answer, words = _answer(self._host.connector, "ask", attempt)
            except BROKEN:
                if self.back() is not None:
                    break
            else:
                if answer == "confirmed":
                    self._remember()
                return answer, words
        return "unknown", ""

    def revert(self) -> bool:
        """As in `guard.Line`."""
        try:
            return run_script(self._host.connector, guard.SCRIPT, ("revert-now",))[0]
        except BROKEN:
            return False

    def back(self) -> str | None:
        """As in `guard.Line`."""
        self._drop()
        old: Any = self._host.connector
        reason = self._open(old.data)
        if reason is None:
            self._adopt()
        return reason

    def _remember(self) -> None:
        for key in self._learned:
            remember(self._known_hosts, self._name, key)

    def _known_as(self) -> str:
        connector = self._host.connector
        if isinstance(connector, Connector):
            return connector.ways.places.of_host(self.name, self._wanted).known_as
        return known_as(self._wanted["ssh_hostname"], int(self._wanted["ssh_port"]))

    def _open(self, data: Mapping[str, Any]) -> str | None:
        fresh: Any = self._host.connector_cls(self._host.state, self._host)
        fresh.data = {**fresh.data, **data}
        try:
            fresh.connect()
        except ConnectError as error:
            return " ".join(str(error).split())
        except BROKEN as error:
            return f"{type(error).__name__}: {error}"
        self._fresh = fresh
        tune(fresh.client)
        try:
            ok, output = fresh.run_shell_command(StringCommand("[ $(id -u) = 0 ] || sudo -n true"), _timeout=QUIET_S)
        except BROKEN as error:
            return f"the connection broke off: {error}"
        return None if ok else f"root is out of reach: {' '.join(output.stderr.split())}"

    def _adopt(self) -> None:
        old: Any = self._host.connector
        self._fresh.data["ssh_known_hosts_file"] = old.data["ssh_known_hosts_file"]
        self._host.connector, self._fresh = self._fresh, None
        with suppress(Exception):
            old.client.close()

    def _drop(self) -> None:
        if self._fresh is not None:
            with suppress(Exception):
                self._fresh.client.close()
        self._fresh = None


_ANSWERS: dict[str, guard.Answer] = {name: name for name in get_args(guard.Answer)}


def _answer(connector: Any, verb: str, attempt: str) -> tuple[guard.Answer, str]:
    """What guard.sh answers, and why. Raises ConnectionError for what is no answer of its."""
    _, output, _ = run_script(connector, guard.SCRIPT, (verb, attempt), timeout_s=ASK_S)
    answer, _, words = output.strip().partition("\t")
    if answer not in _ANSWERS:
        raise ConnectionError(f"{verb} was not answered, but: {output.strip()[-200:]}")
    return _ANSWERS[answer], words


def guarded(host: Host, cluster: Cluster, steps: Sequence[Step], kept: guard.Backup) -> None:
    """As `guard.perform`."""
    try:
        ours = host.connector
        places = ours.ways.places.data if isinstance(ours, Connector) else partial(groups.connection, cluster)
        wanted = places(host.name)
        if not isinstance(ours, Connector):
            # Whom to trust is said where pyinfra is told how to log in, and the host did not change.
            wanted["ssh_strict_host_key_checking"] = ours.data["ssh_strict_host_key_checking"]
        with _Line(host, wanted, path_of(cluster), cluster.ssh.crypto) as line:
            guard.perform(line, steps, kept)
    except BROKEN as error:
        raise HostError(
            host.name, f"the connection broke off before the change of {kept.about}: {error}; run it again"
        ) from error


def _server_key(connector: Any) -> PKey:
    key: PKey = connector.client.get_transport().get_remote_server_key()
    return key
