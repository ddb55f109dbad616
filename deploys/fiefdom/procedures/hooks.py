"""The operator's own hooks around an act: his programs, and a message to his chat."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fiefdom.cluster import ledger
from fiefdom.converge.run import Known, Say
from fiefdom.errors import FiefdomError
from fiefdom.inventory import hooks
from fiefdom.model import Secrets
from fiefdom.model.hooks import Event
from fiefdom.procedures import program
from fiefdom.waiting import now_s
from fiefdom.wording import dotted, duration, printable

_WORDS_MAX = 1000
_LOG_LINES = 10


@dataclass(frozen=True)
class Act:
    """What is done, as the audit has it."""

    what: str
    hosts: tuple[str, ...]
    """Hosts that take a turn."""
    services: Mapping[str, tuple[tuple[str, ...], str]] = field(default_factory=dict)
    """Versions before and after by service, where it is a release."""
    waiting: tuple[str, ...] = ()
    """Hosts that stay as they are, because a canary comes first."""

    def __str__(self) -> str:
        if not self.services:
            return f"{self.what} of {', '.join(self.hosts)}"
        changes = (f"{name} {', '.join(old)} -> {new}" for name, (old, new) in self.services.items())
        return f"{self.what} of {', '.join(changes)} on {', '.join(self.hosts)}"


@dataclass
class Around:
    """One act with its hooks; ``error`` is why it failed, where whoever carries it out returns that."""

    known: Known
    act: Act
    say: Say
    who: str
    url: str = field(default="", repr=False)
    """Where it is told of; empty where nobody is to be."""
    error: BaseException | None = None
    _began_s: float | None = field(default=None, init=False)

    @contextmanager
    def begun(self, beat: Callable[[], None] = lambda: None) -> Iterator[None]:
        """The act itself, of which nothing has changed anything yet: the program `before` runs, which may take long, so
        that ``beat`` asks afterwards whether the lock is held still.

        Raises FiefdomError where either fails.
        """
        self._began_s = now_s()
        last: deque[str] = deque(maxlen=_LOG_LINES)
        if reason := self._run("before", last):
            raise FiefdomError(f"{reason}; no host was changed").with_log(last)
        if self._path("before") is not None:
            beat()
        self._notify("began")
        yield

    def end(self) -> None:
        """What became of it, where it was begun: one of the programs `after` and `failed` runs."""
        if self._began_s is None:
            return
        took_s = now_s() - self._began_s
        event: str
        verb: Event
        words = _reason(self.error, self.known.secrets) if self.error is not None else ""
        event, verb = ("after", "ended") if self.error is None else ("failed", "failed")
        try:
            if reason := self._run(event, error=words, took_s=took_s):
                self.say("hook", f"{reason}; the {self.act.what} stays as it is")
            self._notify(verb, words, took_s)
        except KeyboardInterrupt:
            # Who does not want to wait for these has what the act itself came to.
            self.say("hook", f"{event}: interrupted; the {self.act.what} stays as it is")

    def _run(self, event: str, last: deque[str] | None = None, *, error: str = "", took_s: float = 0) -> str:
        """Run the program of ``event``, if there is one; why it failed, or nothing."""
        path = self._path(event)
        if path is None:
            return ""

        def hear(line: str) -> None:
            self.say("hook", f"{event}: {line}")
            if last is not None:
                last.append(line)

        cluster = self.known.cluster
        environ = hooks.environment(cluster) | self._variables(event, error, took_s)
        self.say("hook", event)
        reason = program.run(cluster.path(path), Path(cluster.base_dir), environ, cluster.hooks.timeout_s, hear)
        return f"{dotted(('hooks', event))}: {path} {reason}" if reason else ""

    def _path(self, event: str) -> str | None:
        """The program of ``event`` that runs around this act, as it is written."""
        found = self.known.cluster.hooks
        path: str | None = getattr(found, event)
        return path if self.act.what in found.acts else None

    def _variables(self, event: str, error: str, took_s: float) -> dict[str, str]:
        """What the program is told: every one of them each time, for a shell may fail at one that is not set."""
        services = self.act.services
        return {
            "FIEFDOM_EVENT": event,
            "FIEFDOM_ACT": self.act.what,
            "FIEFDOM_CLUSTER": self.known.cluster.cluster,
            "FIEFDOM_WHO": self.who,
            "FIEFDOM_HOSTS": " ".join(self.act.hosts),
            "FIEFDOM_WAITING": " ".join(self.act.waiting),
            "FIEFDOM_SERVICE": " ".join(services),
            "FIEFDOM_VERSION": " ".join(new for _, new in services.values()),
            "FIEFDOM_PREVIOUS": " ".join(",".join(old) for old, _ in services.values()),
            "FIEFDOM_ERROR": error,
            "FIEFDOM_DURATION_S": f"{took_s:.0f}",
        }

    def _notify(self, event: Event, error: str = "", took_s: float | None = None) -> None:
        found, act = self.known.cluster.notify, self.act
        if found is None or not self.url or event not in found.events:
            return
        # Deferred until the engine has patched what it speaks with; and most runs tell nobody.
        from fiefdom.procedures import webhook

        cluster = self.known.cluster.cluster
        after = f" after {duration(took_s)}" if took_s is not None else ""
        why = f": {error}" if error else ""
        document: dict[str, Any] = {"text": _plain(f"{cluster}: {act} {event}{after}, by {self.who}{why}")}
        if found.format == "fields":
            services = {name: {"from": ", ".join(old), "to": new} for name, (old, new) in act.services.items()}
            document |= {"event": event, "act": act.what, "cluster": cluster, "who": self.who, "services": services}
            document |= {"hosts": list(act.hosts), "waiting": list(act.waiting), "error": error}
            document |= {"seconds": round(took_s or 0, 3)}
        if reason := webhook.post(self.url, document):
            self.say("notify", f"nobody was told that it {event}: notify.webhook {reason}")


@contextmanager
def around(known: Known, act: Act, say: Say) -> Iterator[Around]:
    """An act with the operator's hooks: it begins with its `Around.begun`, and ended where this block does.

    Whatever was begun is told the end of, once: also where an interrupt or the loss of the lock ended it. What is
    refused before runs nothing. ``say`` hears of the programs' words, and of what they or the chat fail at.
    """
    found = Around(known, act, say, ledger.operator(), _url(known, act, say))
    try:
        yield found
    except BaseException as error:
        found.error = error
        found.end()
        raise
    found.end()


def _url(known: Known, act: Act, say: Say) -> str:
    """Asked for before anything is begun: to open it may take a passphrase."""
    notify = known.cluster.notify
    if notify is None or act.what not in notify.acts:
        return ""
    try:
        return hooks.webhook(known.cluster)
    except FiefdomError as error:
        say("notify", f"nobody is told: {error}")
        return ""


def _reason(error: BaseException, secrets: Secrets) -> str:
    """Why an act failed, a line without a secret: hosts' words may quote what a service has said."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = str(error) if isinstance(error, FiefdomError) else f"a bug of Fiefdom: {type(error).__name__}"
    return printable(secrets.hidden_in(text))[:_WORDS_MAX]


def _plain(text: str) -> str:
    """``text`` as chats show it: to Slack, what stands in < and > is a link or calls everybody (its manual's rule)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
