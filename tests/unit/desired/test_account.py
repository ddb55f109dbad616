"""The account of Fiefdom's own containers: whose it is, what hosts have of it, and that images have the same number."""

import re
from pathlib import Path

import pytest

from fiefdom.desired import account, gateway, serf
from fiefdom.desired.concerns import state_of
from fiefdom.desired.state import Account
from fiefdom.resources import images_dir
from helpers.example import context


def test_the_number_is_nobodys_to_hand_out() -> None:
    """Ranges of Debian's policy 9.2.2 and of systemd's UIDS-GIDS; both leave these alone, and 16 bits suffice."""
    given_out = (
        range(100),  # Debian's packages, fixed
        range(100, 1000),  # adduser --system upwards, systemd-sysusers downwards
        range(1000, 60000),  # people
        range(60000, 65000),  # Debian's packages, fixed, made on demand; systemd-homed
        range(61184, 65520),  # systemd's DynamicUser=
        range(65534, 65536),  # nobody, and -1 in 16 bits
    )
    assert not any(account.UID in each for each in given_out)
    assert account.UID < 65536, "a host in a user namespace has no more"
    assert account.UID != 65532, "the user of images that were made without a shell"


@pytest.mark.parametrize(("host", "concern"), [("app1", serf), ("gw1", gateway)])
def test_who_has_files_of_the_account_has_the_account(host: str, concern: object) -> None:
    state = state_of(context(host))
    assert state.accounts == (Account("_fiefdom", account.UID, account.ENTRY),)
    lines = state.file(account.ENTRY).content.decode().splitlines()[1:]
    assert [line.split()[:3] for line in lines] == [["g", "_fiefdom", "65530"], ["u", "_fiefdom", "65530"]]
    assert lines[1].endswith(" /nonexistent /usr/sbin/nologin")
    owned = [f.path for f in state.files if f.uid] + [d.path for d in state.directories if d.uid]
    assert owned == [concern.AGENT_CONFIG if concern is gateway else serf.CONFIG, concern.STATE_DIR]  # type: ignore[attr-defined]
    assert {d.path for d in state.directories if d.serves} == {concern.STATE_DIR}  # type: ignore[attr-defined]


@pytest.mark.parametrize("image", ["gateway", "serf"])
def test_images_of_fiefdoms_own_have_its_number(image: str) -> None:
    text = (images_dir() / image / "Dockerfile").read_text()
    numbers = set(re.findall(r"(?:--[ug]id |-[og] |[ug]id=|uid |USER |USER \d+:)(\d+)\b", text))
    assert numbers == {str(account.UID)}
    assert f"\nUSER {account.UID}:{account.UID}\n" in text


def test_the_entry_is_where_systemd_looks() -> None:
    assert Path(account.ENTRY).parent == Path("/etc/sysusers.d")
    assert account.ENTRY.endswith(".conf")
