"""Certificates on simulated hosts: what an apply changes with them, renews and takes away, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fiefdom.converge import diffs, look
from fiefdom.converge.run import Known
from fiefdom.desired import gateway
from fiefdom.errors import FiefdomError
from helpers.certificates import Issued, intermediate, issued
from helpers.released import known
from helpers.simulated import SimulatedHosts, bring, converged

TLS = {"tls": {"certificates": {"www": {"chain": "www.pem", "key": "www.key"}}}}
PEM = gateway.certificate_path("www")


def serving(one: Issued) -> Known:
    plain = known(gateway=TLS)
    contents = {"www.pem": one.pem + intermediate().pem, "www.key": one.key}
    return replace(plain, secrets=replace(plain.secrets, contents=contents))


def fresh(days: float = 90, since_days: float = 1) -> Issued:
    return issued("www.example.org", intermediate(), days=days, since_days=since_days)


@pytest.fixture
def hosts(tmp_path: Path) -> SimulatedHosts:
    found = converged(known(), tmp_path)
    bring(found, serving(fresh()))
    return found


def changes(hosts: SimulatedHosts, wanted: Known) -> dict[str, list[str]]:
    """What a plan changes, by host, less the hosts where that is nothing."""
    found = look.make_plan(wanted, hosts.names, hosts).hosts
    return {h.host: [f"{c.sign} {c.kind} {c.name}" for c in h.changes] for h in found if h.changes}


def test_a_gateway_gets_certificates_without_another_container(tmp_path: Path) -> None:
    before = converged(known(), tmp_path)
    wanted = serving(fresh())
    found = changes(before, wanted)
    assert found.keys() == {"gw1", "gw2"} and not [c for c in found["gw1"] if " container " in c]
    assert {f"+ file {PEM}", f"+ file {gateway.CERTIFICATES}", f"~ file {gateway.HAPROXY_CONFIG}"} <= set(found["gw1"])
    bring(before, wanted)
    assert changes(before, wanted) == {}
    # Both are there before the configuration that names them.
    paths = [c.partition(" file ")[2] for c in found["gw1"] if " file " in c]
    assert paths.index(PEM) < paths.index(gateway.HAPROXY_CONFIG)


def test_a_renewal_is_two_files_and_no_diff_shows_a_key(hosts: SimulatedHosts) -> None:
    wanted = serving(fresh())
    two = [f"~ file {PEM}", f"~ file {gateway.HAPROXY_CONFIG}"]
    assert changes(hosts, wanted) == {"gw1": two, "gw2": two}
    plan = look.make_plan(wanted, hosts.names, hosts)
    texts = diffs.of_plan(plan, lambda host, path: hosts.hosts[host].contents[path].decode())
    assert texts["gw1", PEM] == diffs.MASK
    assert "PRIVATE KEY" not in "".join(texts.values())


def test_what_is_over_is_refused_and_what_ends_soon_is_not(hosts: SimulatedHosts) -> None:
    with pytest.raises(FiefdomError, match=r"gw1: the certificate www \(www.example.org\) has expired on .*; renew it"):
        changes(hosts, serving(fresh(days=-1, since_days=30)))
    assert changes(hosts, serving(fresh(days=3))).keys() == {"gw1", "gw2"}
    found, silent = look.diagnose(serving(fresh(days=3)), hosts.names, hosts)
    assert not silent
    assert {(host, f.level, f.what) for host, of_host in found.items() for f in of_host} == {
        (host, "warning", "certificate") for host in ("gw1", "gw2")
    }


def test_certificates_go_with_their_key(hosts: SimulatedHosts) -> None:
    gone = [f"- directory {gateway.CERTIFICATES_DIR}", f"- file {gateway.CERTIFICATES}", f"- file {PEM}"]
    assert [c for c in changes(hosts, known())["gw1"] if c.startswith("- ")] == gone
    bring(hosts, known())
    assert changes(hosts, known()) == {} and PEM not in hosts.hosts["gw1"].contents
