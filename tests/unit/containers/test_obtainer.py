"""A gateway that gets certificates: placeholders first, what is kept, and what it does where the authority fails."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.certificates import authority as signer
from helpers.certificates import issued

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import authority, obtainer  # noqa: E402
from fiefdom_gateway.acme import Asked, Moment  # noqa: E402
from fiefdom_gateway.edges import Failed  # noqa: E402
from fiefdom_gateway.obtainer import Obtainer  # noqa: E402

NAME = "www.example.org"
NOW_S = time.time()


@dataclass
class Gateway:
    """An obtainer with an authority and a HAProxy that do as they are told."""

    folder: Path
    fails: str = ""
    deaf: bool = False
    asked: list[str] = field(default_factory=list)
    told: list[Path] = field(default_factory=list)
    up_s: float = 100.0
    off_s: float = 0.0

    def __post_init__(self) -> None:
        (self.folder / "etc" / "acme").mkdir(parents=True, exist_ok=True)
        (self.folder / "state").mkdir(exist_ok=True)
        self.own = self.another()

    def another(self) -> Obtainer:
        settings: Any = SimpleNamespace(
            haproxy_config=self.folder / "etc" / "haproxy.cfg", state_dir=self.folder / "state"
        )
        return Obtainer(settings, self.renew, now=lambda: Moment("a", self.up_s, NOW_S + self.off_s), settle_s=0)

    async def renew(self, path: Path) -> None:
        if self.deaf:
            raise Failed("HAProxy does not know it")
        self.told.append(path)

    async def obtain(self, _: Asked, name: str) -> str:
        self.asked.append(name)
        if self.fails:
            raise Failed(self.fails)
        one = issued(name, signer())
        return (one.pem + one.key).decode()

    def ask_for(self, *names: str, **changes: Any) -> None:
        given = {"directory": "https://ca/dir", "email": None, "names": names, "account_key": "/k", "ca_file": None}
        (self.folder / "etc/acme/acme.json").write_text(json.dumps({**given, "gateways": 1, **changes}))

    @property
    def pem(self) -> Path:
        return self.folder / "state" / "certificates" / f"{NAME}.pem"

    @property
    def word(self) -> str:
        return (self.folder / "state" / "obtained").read_text()

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            asyncio.run(self.own._look())


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    found = Gateway(tmp_path)
    monkeypatch.setattr(authority, "obtain", found.obtain)
    yield found


def test_haproxy_finds_a_certificate_before_there_is_one(gateway: Gateway) -> None:
    gateway.ask_for(NAME)
    asyncio.run(gateway.own.prepare())
    assert "PRIVATE KEY" in gateway.pem.read_text() and gateway.pem.stat().st_mode & 0o777 == 0o600
    assert asyncio.run(authority.facts(gateway.pem)).placeholder and gateway.asked == []
    (told,) = gateway.own.told()
    assert told.facts is None


def test_what_is_got_is_served_kept_and_not_asked_for_again(gateway: Gateway) -> None:
    gateway.ask_for(NAME)
    gateway.look(3)
    assert gateway.asked == [NAME] and gateway.told == [gateway.pem]
    (told,) = gateway.own.told()
    assert told.facts is not None and told.error is None
    kept, gateway.own = gateway.pem.read_bytes(), gateway.another()
    asyncio.run(gateway.own.prepare())
    gateway.own.go_on()
    gateway.look(3)
    assert gateway.pem.read_bytes() == kept and gateway.asked == [NAME]


def test_an_authority_that_fails_leaves_what_there_is_and_is_not_asked_all_the_time(gateway: Gateway) -> None:
    gateway.ask_for(NAME)
    gateway.look()
    kept = gateway.pem.read_bytes()
    gateway.fails = "the authority says: no"
    obtainer.renew_file(gateway.folder / "state").touch()
    gateway.look(5)
    assert gateway.pem.read_bytes() == kept and gateway.asked == [NAME] * 2
    assert gateway.word.endswith("the authority says: no\n") and gateway.word.startswith(f"{NAME}\t1")
    gateway.own = gateway.another()  # a container that is started again and again asks no oftener
    gateway.own.go_on()
    gateway.look(5)
    assert gateway.asked == [NAME] * 2
    gateway.up_s += 140
    gateway.look(5)
    assert gateway.asked == [NAME] * 3
    gateway.fails = ""
    gateway.up_s += 4000
    gateway.look(2)
    assert gateway.asked == [NAME] * 4 and gateway.pem.read_bytes() != kept and "no" not in gateway.word


@pytest.mark.parametrize("days", [-4000, 4000])
def test_a_clock_that_is_off_is_told_and_asks_once(gateway: Gateway, days: int) -> None:
    gateway.off_s = days * 86400.0
    gateway.ask_for(NAME)
    for _ in range(9):
        gateway.up_s += 86400
        gateway.look()
    assert gateway.asked == [NAME]
    (told,) = gateway.own.told()
    assert "look at the clock" in (told.error or "") and "look at the clock" in gateway.word
    gateway.off_s = 0
    gateway.look()
    assert "clock" not in gateway.word and gateway.asked == [NAME]


def test_a_person_cannot_ask_without_end(gateway: Gateway) -> None:
    gateway.ask_for(NAME)
    for _ in range(9):
        obtainer.renew_file(gateway.folder / "state").touch()
        gateway.look()
    assert len(gateway.asked) == 5


def test_a_name_that_fails_keeps_no_other_from_its_certificate(gateway: Gateway, monkeypatch: Any) -> None:
    async def obtain(asked: Asked, name: str) -> str:
        if name == "bad.example.org":
            raise Failed("no such name")
        return await gateway.obtain(asked, name)

    monkeypatch.setattr(authority, "obtain", obtain)
    gateway.ask_for("bad.example.org", NAME)
    gateway.look()
    bad, good = gateway.own.told()
    assert bad.facts is None and bad.error == "no such name" and good.facts is not None


def test_what_another_authority_said_is_nobodys_concern_any_more(gateway: Gateway) -> None:
    gateway.fails = "the authority says: no"
    gateway.ask_for(NAME)
    gateway.look()
    gateway.fails = "the other one says: no"
    gateway.ask_for(NAME, directory="https://other/dir")
    asyncio.run(gateway.own.prepare())
    assert [(one.error, one.failures) for one in gateway.own.told()] == [(None, 0)]
    gateway.look()
    assert [(one.error, one.failures) for one in gateway.own.told()] == [("the other one says: no", 1)]


def test_what_haproxy_would_not_have_is_never_put_in_its_place(gateway: Gateway, monkeypatch: Any) -> None:
    gateway.ask_for(NAME)
    asyncio.run(gateway.own.prepare())
    before = gateway.pem.read_bytes()
    one, other = issued(NAME, signer()), issued("other.example.org", signer())
    for pem, says in (
        (one.pem + other.key, "has another key"),
        (other.pem + other.key, f"is not for {NAME}"),
        (b"nonsense", "openssl"),
    ):

        async def obtain(_: Asked, __: str, pem: bytes = pem) -> str:
            return pem.decode()

        monkeypatch.setattr(authority, "obtain", obtain)
        obtainer.renew_file(gateway.folder / "state").touch()
        gateway.look()
        assert gateway.pem.read_bytes() == before
        (told,) = gateway.own.told()
        assert says in (told.error or "")


def test_a_haproxy_that_did_not_hear_is_told_again(gateway: Gateway) -> None:
    gateway.ask_for(NAME)
    gateway.deaf = True
    gateway.look(2)
    gateway.deaf = False
    gateway.look(2)
    assert gateway.told == [gateway.pem] and gateway.asked == [NAME]


def test_what_nobody_asks_for_goes_when_haproxys_list_does_not_name_it(gateway: Gateway) -> None:
    gateway.ask_for(NAME)
    gateway.look()
    (gateway.folder / "etc" / "certificates").mkdir()
    listed = gateway.folder / "etc" / "certificates" / "list.txt"
    listed.write_text(f"# Managed\n{gateway.pem}\n")
    (gateway.folder / "etc/acme/acme.json").unlink()
    gateway.off_s = 4000 * 86400.0
    gateway.look()
    assert gateway.pem.exists(), "over, and HAProxy could not start without it"
    listed.write_text("# Managed\n")
    gateway.look()
    assert not gateway.pem.exists() and not (gateway.folder / "state" / "obtained").exists()


def test_a_placeholder_goes_with_its_name(gateway: Gateway) -> None:
    gateway.fails = "the authority says: no"
    gateway.ask_for(NAME)
    gateway.look()
    assert gateway.pem.exists()
    gateway.ask_for("other.example.org")
    gateway.look()
    assert not gateway.pem.exists()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_name_that_comes_back_finds_its_certificate(gateway: Gateway, restarted: bool) -> None:
    gateway.ask_for(NAME)
    gateway.look()
    kept = gateway.pem.read_bytes()
    gateway.ask_for("other.example.org")
    gateway.look(2)
    gateway.up_s += 40_000
    gateway.off_s += 40_000
    if restarted:
        gateway.own = gateway.another()
        gateway.own.go_on()
    gateway.look(2)
    assert [one.name for one in gateway.own.told()] == ["other.example.org"], "nothing is said of it meanwhile"
    gateway.ask_for(NAME)
    gateway.look(2)
    assert gateway.pem.read_bytes() == kept and gateway.asked == [NAME, "other.example.org"]
    # Of another authority it is none.
    gateway.ask_for("other.example.org")
    gateway.look()
    gateway.ask_for(NAME, directory="https://other/dir")
    gateway.look()
    assert gateway.asked == [NAME, "other.example.org", NAME]


@pytest.mark.parametrize(("fails", "restarted"), [("", False), ("the authority says: no", True)])
def test_a_name_that_goes_and_comes_back_is_tried_no_oftener(gateway: Gateway, fails: str, restarted: bool) -> None:
    gateway.fails = fails
    for i in range(6):
        gateway.ask_for(NAME, directory=f"https://ca/{i}")  # each is asked at once
        gateway.look()
        (gateway.folder / "etc/acme/acme.json").unlink()
        gateway.look()
        if restarted:
            gateway.own = gateway.another()
            gateway.own.go_on()
    assert gateway.asked.count(NAME) == 5
    gateway.up_s += 3601
    gateway.ask_for(NAME)
    gateway.look()
    assert gateway.asked.count(NAME) == 6


def test_what_was_tried_of_a_name_that_is_gone_is_forgotten_after_an_hour(gateway: Gateway) -> None:
    gateway.fails = "the authority says: no"
    gateway.ask_for(NAME)
    gateway.look()
    gateway.ask_for("other.example.org")
    gateway.look()
    gateway.up_s += 3601
    gateway.look(2)
    assert list(json.loads((gateway.folder / "state/certificates.json").read_text())) == ["other.example.org"]


def test_a_successor_that_takes_over_breaks_a_try_off(gateway: Gateway, monkeypatch: Any) -> None:
    async def hold() -> None:
        begun = asyncio.Event()

        async def obtain(_: Asked, __: str) -> str:
            begun.set()
            await asyncio.sleep(100)
            return ""

        monkeypatch.setattr(authority, "obtain", obtain)
        gateway.ask_for(NAME)
        run = asyncio.create_task(gateway.own.run())
        gateway.own.go_on()
        await begun.wait()
        await asyncio.wait_for(gateway.own.stand_still(), 5)
        assert not run.done()
        run.cancel()
        await asyncio.wait([run])

    asyncio.run(hold())
    assert len(json.loads((gateway.folder / "state/certificates.json").read_text())[NAME]["tries"]) == 1
