"""The script of ways between containers, in a network of the test's own: what it opens, and that it closes it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fiefdom.desired.render import render
from helpers.programs import with_constants

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("iptables") is None, reason="wants root and iptables, for a network of its own"
)


def done_in_turn(folder: Path, *ports: tuple[int, ...], then: str = "true") -> list[str]:
    """Output of ``then``, once the script has opened one set of ports after the other in an empty network."""
    script = folder / "links"
    script.write_text(with_constants("links", conf=folder / "links.conf"))
    for number, some in enumerate(ports):
        text = render("links.conf.j2", network="172.31.255.0/24", address="10.1.0.22", ports=some)
        (folder / f"{number}.conf").write_text(text)
    opened = "".join(
        f"cp {folder}/{n}.conf {folder}/links.conf; sh {script} open || exit 1; " for n in range(len(ports))
    )
    words = ["unshare", "--net", "sh", "-c", f"{opened}{then.format(script=script)}"]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


@needs_root
def test_it_leads_to_the_ports_that_stand_there_and_to_no_other(tmp_path: Path) -> None:
    found = done_in_turn(tmp_path, (1, 2), (6379, 6380), then="iptables -S; iptables -t nat -S")
    match = "-s 172.31.255.0/24 -p tcp -m conntrack --ctstate DNAT --ctorigdst 10.1.0.22 --ctorigdstport"
    assert [line for line in found if "FIEFDOM-LINKS" in line] == [
        "-N FIEFDOM-LINKS",
        "-A DOCKER-USER -i docker0 -o docker0 -j FIEFDOM-LINKS",
        f"-A FIEFDOM-LINKS {match} 6379 -j ACCEPT",
        f"-A FIEFDOM-LINKS {match} 6380 -j ACCEPT",
        "-N FIEFDOM-LINKS",
        "-A POSTROUTING -o docker0 -j FIEFDOM-LINKS",
        f"-A FIEFDOM-LINKS {match} 6379 -j MASQUERADE",
        f"-A FIEFDOM-LINKS {match} 6380 -j MASQUERADE",
    ]


@needs_root
def test_it_comes_before_what_is_dockers_and_leaves_that_alone(tmp_path: Path) -> None:
    docker = "iptables -A DOCKER-USER -j RETURN; sh {script} open; iptables -S DOCKER-USER"
    assert done_in_turn(tmp_path, (6379,), then=docker)[-2:] == [
        "-A DOCKER-USER -i docker0 -o docker0 -j FIEFDOM-LINKS",
        "-A DOCKER-USER -j RETURN",
    ]


@needs_root
def test_it_closes_what_it_opened_and_twice_is_as_once(tmp_path: Path) -> None:
    closed = "sh {script} close; sh {script} close && iptables -S && iptables -t nat -S"
    assert not [line for line in done_in_turn(tmp_path, (6379,), then=closed) if "FIEFDOM" in line]


@pytest.mark.long
@needs_root
def test_what_it_shows_is_other_words_where_somebody_changed_it(tmp_path: Path) -> None:
    def shown(change: str) -> list[str]:
        return done_in_turn(tmp_path, (6379,), then=f"{change}; sh {{script}} show 2>/dev/null; true")

    whole = shown("true")
    assert len(whole) == 4 and shown("sh {script} open") == whole
    for change in (
        "iptables -F DOCKER-USER",
        "iptables -t nat -F POSTROUTING",
        "iptables -F FIEFDOM-LINKS",
        "iptables -t nat -F FIEFDOM-LINKS",
        "iptables -A FIEFDOM-LINKS -j ACCEPT",
    ):
        assert shown(change) != whole, change
