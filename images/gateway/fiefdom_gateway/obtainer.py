"""Gets certificates from an authority and has HAProxy serve them; until there is one, one of the gateway's own making.

What is got stays in the state folder, from container to container, and beside it what was tried: a container that is
started again and again asks no oftener for that. HAProxy answers the authority (see haproxy.cfg), here and on every
other gateway, whichever of them asks.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fiefdom_gateway import acme, authority, edges
from fiefdom_gateway.acme import Asked, BadAcme, Facts, History, Moment, Told
from fiefdom_gateway.edges import Failed
from fiefdom_gateway.log import Once, say
from fiefdom_gateway.members import Unreadable
from fiefdom_gateway.settings import Settings

# How often it is looked whether one is due.
LOOK_S = 2.0
# Before the first try after a start and after a change: until then all gateways have what they answer with.
SETTLE_S = 10.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def renew_file(state_dir: Path) -> Path:
    """Where a person leaves word that all are to be got anew."""
    return state_dir / "renew-certificates"


def moment() -> Moment:
    """This moment. Time in which the host slept counts."""
    return Moment(BOOT_ID.read_text().strip(), time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


class Obtainer:
    """Owns the certificates that are got. It stands still until `go_on`."""

    def __init__(
        self,
        settings: Settings,
        renew: Callable[[Path], Awaitable[None]],
        *,
        now: Callable[[], Moment] = moment,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._asked_file = settings.haproxy_config.parent / "acme" / "acme.json"
        self._list = settings.haproxy_config.parent / "certificates" / "list.txt"
        self._state_dir = settings.state_dir
        self._folder = settings.state_dir / "certificates"
        self._histories_file = settings.state_dir / "certificates.json"
        self._word_file = settings.state_dir / "obtained"
        self._renew = renew
        self._now = now
        self._settle_s = settle_s
        self._asked: Asked | None = None
        # By name; a file that cannot be read is one that is not there.
        self._facts: dict[str, Facts] = {}
        self._histories: dict[str, History] = {}
        self._forced: set[str] = set()
        # What HAProxy was not told of yet.
        self._untold: set[str] = set()
        self._settled_at_s = 0.0
        self._may_work = asyncio.Event()
        self._attempt: asyncio.Task[None] | None = None
        self._preparing = asyncio.Lock()
        self._word: str | None = None
        self._say_once = Once()

    # --- What there is

    def told(self) -> tuple[Told, ...]:
        """What is to be said of each name."""
        now = self._now()
        asked = self._asked
        return () if asked is None else tuple(self._told(asked, name, now) for name in asked.names)

    def _told(self, asked: Asked, name: str, now: Moment) -> Told:
        history, facts = self._histories.get(name, History()), self._facts.get(name)
        # What another authority said is nobody's concern any more.
        failures = history.failures if acme.failed(history, asked) else 0
        error = history.error if failures else None
        if facts is not None and not facts.placeholder and acme.clock_is_off(facts, now):
            error = error or "by this host's clock it is not valid; look at the clock"
        wait_s = acme.wait_s(history, facts, asked, now, forced=name in self._forced)
        return Told(name, None if facts is None or facts.placeholder else facts, error, failures, wait_s)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.pem"

    async def prepare(self) -> None:
        """Take up what is asked for, and have a certificate in the place of each that is named; a placeholder at first.

        Where that fails HAProxy will say which file it lacks, and it is tried again.
        """
        async with self._preparing:
            try:
                text = edges.read_text(self._asked_file) if self._asked_file.exists() else None
                self._take_up(None if text is None else acme.parse_asked(text))
            except (Unreadable, BadAcme) as error:
                self._say_once("asked", f"{self._asked_file} was not taken up: {error}")
                return
            self._say_once("asked", None, mended=f"{self._asked_file} is good again")
            for name in self._asked.names if self._asked is not None else ():
                try:
                    await self._have(name)
                except (Failed, OSError) as error:
                    self._say_once(f"have {name}", f"there is no certificate for {name}, nor one in its place: {error}")
                else:
                    self._say_once(f"have {name}", None)

    def _take_up(self, asked: Asked | None) -> None:
        if asked == self._asked:
            return
        self._asked = asked
        self._settled_at_s = self._now().up_s + self._settle_s * random.uniform(1, 2)  # noqa: S311
        if asked is not None:
            say(f"certificates of {', '.join(asked.names)} are got from {asked.directory}")

    async def _have(self, name: str) -> None:
        path = self._path(name)
        if name in self._facts and path.exists():
            return
        self._folder.mkdir(mode=0o700, exist_ok=True)
        try:
            self._facts[name] = await authority.facts(path)
        except Failed as error:
            if path.exists() and not error.output:
                raise  # it was not looked at, and may be good
            edges.write_atomically(path, await authority.placeholder(name))
            self._facts[name] = await authority.facts(path)

    # --- What is done

    async def stand_still(self) -> None:
        """Ask for nothing; a try that is under way is broken off, and counts."""
        self._may_work.clear()
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait([self._attempt])

    def go_on(self) -> None:
        """Ask for what is due, from now on."""
        with suppress(Unreadable):
            self._histories = acme.load(edges.read_text(self._histories_file), self._now())
        self._facts.clear()
        self._may_work.set()

    async def run(self) -> None:
        """Get what is due, until cancelled."""
        while True:
            await self._may_work.wait()
            self._attempt = asyncio.create_task(self._look())
            try:
                await asyncio.wait([self._attempt])
            finally:
                self._attempt.cancel()
            # Whatever it is, it is not to end a gateway that serves.
            error = None if self._attempt.cancelled() else self._attempt.exception()
            fact = None if error is None else f"certificates could not be looked at: {error!r}"
            self._say_once("look", fact, mended="certificates are looked at again")
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        await self.prepare()
        if renew_file(self._state_dir).exists():
            renew_file(self._state_dir).unlink()
            self._forced = set(self._asked.names if self._asked is not None else ())
        if self._asked is not None and self._now().up_s >= self._settled_at_s:
            for name in self._asked.names:
                if self._told(self._asked, name, self._now()).retry_in_s <= 0:
                    await self._try(self._asked, name)
        for name in sorted(self._untold):
            await self._tell(name)
        async with self._preparing:  # who asks for a name meanwhile finds what is there
            await self._forget()
        self._leave_word()

    async def _try(self, asked: Asked, name: str) -> None:
        """Get a certificate. The try is written down before it is made: whatever ends it, it was one."""
        before = self._histories.get(name, History())
        if not acme.failed(before, asked):  # or it was asked for in another way
            before = replace(before, failures=0, error=None)
        tries = (*before.tries, self._now())[-acme.MOST_TRIES :]
        # S311: nobody gains by knowing when a gateway renews.
        tried = replace(before, tries=tries, asked=asked.digest, chance=random.random())  # noqa: S311
        self._remember(name, tried)
        self._forced.discard(name)
        try:
            pem = await authority.obtain(asked, name)
            await authority.require_good(pem, name)
            edges.write_atomically(self._path(name), pem)
            self._facts[name] = await authority.facts(self._path(name))
        except Failed as error:
            failed = replace(tried, failures=before.failures + 1, error=str(error))
            self._remember(name, failed)
            wait_s = acme.wait_s(failed, self._facts.get(name), asked, self._now())
            say(f"no certificate for {name}, next try in {wait_s:.0f} s: {error}")
            return
        say(f"a certificate for {name} was got")
        self._remember(
            name, replace(tried, failures=0, error=None, obtained=tried.tries[-1], directory=asked.directory)
        )
        self._untold.add(name)
        await self._tell(name)

    async def _tell(self, name: str) -> None:
        """Have HAProxy serve what is there. It may not know the name yet, and then reads the file itself."""
        try:
            await self._renew(self._path(name))
        except Failed as error:
            self._say_once(f"tell {name}", f"{error}; it is told again")
            return
        self._untold.discard(name)
        self._say_once(f"tell {name}", None)
        say(f"HAProxy serves the certificate for {name}")

    def _remember(self, name: str, history: History) -> None:
        self._histories[name] = history
        edges.write_atomically(self._histories_file, acme.dump(self._histories))

    async def _forget(self) -> None:
        """Remove what nobody asks for and HAProxy's list does not name, once it would be of no use to who asks again.

        A name that comes back finds its certificate while that is good, and the tries of the last hour.
        """
        names, now = self._asked.names if self._asked is not None else (), self._now()
        try:
            listed = edges.read_text(self._list).splitlines() if self._list.exists() else []
        except Unreadable:
            return
        there = sorted(self._folder.glob("*.pem")) if self._folder.is_dir() else []
        for path in [path for path in there if path.stem not in names and str(path) not in listed]:
            name = path.stem
            self._untold.discard(name)
            self._forced.discard(name)
            self._say_once(f"have {name}", None)
            if not await self._is_good(name, now):
                path.unlink(missing_ok=True)
                self._facts.pop(name, None)
        kept = {*names, *(path.stem for path in there if path.exists())}
        mean = {n: one for n, one in self._histories.items() if n in kept or acme.recent(one, now)}
        if len(mean) < len(self._histories):
            self._histories = mean
            edges.write_atomically(self._histories_file, acme.dump(mean))

    async def _is_good(self, name: str, now: Moment) -> bool:
        """Whether there is a certificate for a name that an authority gave and that is not over."""
        if name not in self._facts:
            try:
                self._facts[name] = await authority.facts(self._path(name))
            except Failed as error:
                return not error.output  # it was not looked at, and may be good
        facts = self._facts[name]
        return not facts.placeholder and now.at_s < facts.ends_s

    def _leave_word(self) -> None:
        """Tell the host what there is: nobody may be asking for the status."""
        word = acme.word(self.told())
        if word != self._word:
            if word:
                edges.write_atomically(self._word_file, word)
            else:
                self._word_file.unlink(missing_ok=True)
            self._word = word
