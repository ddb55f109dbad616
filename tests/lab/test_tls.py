"""TLS on real hosts: given certificates are served, renewed under traffic, and told of before they end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from helpers.certificates import Issued, authority, intermediate, issued
from helpers.operator_view import LAB_YAML, Site, await_true
from helpers.tls_load import TlsTraffic

pytestmark = pytest.mark.proof

HOST = "predictor.example.org"
PEMS = "/etc/fiefdom/gateway/certificates"


@dataclass
class Secure:
    """The lab with TLS, and its inventory."""

    site: Site

    def inventory(self, certificate: Issued, **tls: Any) -> str:
        """Path of an inventory with this certificate beside it."""
        folder = self.site.scratch
        (folder / "ca.pem").write_bytes(authority().pem)
        (folder / "www.pem").write_bytes(certificate.pem + intermediate().pem)
        (folder / "www.key").write_bytes(certificate.key)
        (folder / "www.key").chmod(0o600)

        def change(data: dict[str, Any]) -> None:
            own = {"certificates": {"www": {"chain": "www.pem", "key": "www.key"}}, **tls}
            data["gateway"] = {**data.get("gateway", {}), "tls": own}

        return self.site.inventory("tls", change)

    def traffic(self, seconds: float) -> TlsTraffic:
        """Clients of HTTP/1.1 and HTTP/2 on this machine."""
        return TlsTraffic([sys.executable], "10.99.0.11:443", HOST, str(self.site.scratch / "ca.pem"), seconds)

    def status(self, inventory: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.site.fiefdom("status", inventory, "--json").stdout)
        return found

    def container(self) -> str:
        """Which gateway container runs, and since when."""
        return self.site.ssh("gw1", "docker inspect --format '{{.Id}} {{.State.StartedAt}}' gateway")


@pytest.fixture(scope="module")
def secure(first_converge: tuple[Site, str]) -> Iterator[Secure]:
    site, _ = first_converge
    found = Secure(site)
    yield found
    site.apply(LAB_YAML)
    site.await_serving()
    assert site.ssh("gw1", f"ls {PEMS} 2>&1; :").endswith("No such file or directory")


def test_a_certificate_is_served_renewed_without_a_failed_request_and_told_of(secure: Secure) -> None:
    site, container = secure.site, secure.container()
    first = issued(HOST, intermediate(), days=15)
    inventory = secure.inventory(first, redirect=True)
    site.apply(inventory)
    code, changes = site.plan(inventory)
    assert code == 0, changes
    assert secure.container() == container, "HAProxy is reloaded, its container is not replaced"
    own = site.ssh("gw1", f"stat -c '%a %u:%g' {PEMS}/www.pem").split()
    assert own == ["400", "65530:65530"]
    assert "denied" in site.ssh("gw1", f"setpriv --reuid=nobody --clear-groups cat {PEMS}/www.pem 2>&1; :")

    (row,) = secure.status(inventory)["certificates"]
    assert (row["gateway"], row["name"], row["hosts"], row["days"]) == ("gw1", "www", [HOST], 14)
    told = site.fiefdom("doctor", inventory)
    assert told.returncode == 2 and "gateway.tls.certificates.www" in told.stdout, told.stdout

    second = issued(HOST, intermediate(), days=90)
    with secure.traffic(25) as traffic:
        inventory = secure.inventory(second, redirect=True)
        shown = site.fiefdom("plan", inventory, "--diff").stdout
        assert "(secret: content not shown)" in shown and "PRIVATE KEY" not in shown
        site.apply(inventory)
        await_true(lambda: secure.status(inventory)["certificates"][0]["days"] == 89, 20)
    assert traffic.report["failed"] == 0, traffic.report
    assert {int(serial, 16) for serial in traffic.report["serials"]} == {
        one.certificate.serial_number for one in (first, second)
    }
    assert secure.container() == container
    assert site.fiefdom("doctor", inventory).returncode == 0


def test_one_that_is_over_is_refused_and_what_runs_can_be_looked_at(secure: Secure) -> None:
    site = secure.site
    inventory = secure.inventory(issued(HOST, intermediate(), days=90))
    site.apply(inventory)
    inventory = secure.inventory(issued(HOST, intermediate(), days=-1, since_days=30))
    done = site.fiefdom("apply", inventory, "--yes")
    assert done.returncode == 1 and "the certificate www" in done.stderr and "has expired on" in done.stderr
    assert secure.status(inventory)["certificates"][0]["days"] == 89, "what is served is another one yet"
    (site.scratch / "www.pem").write_text("no PEM")
    assert secure.status(inventory)["certificates"][0]["days"] == 89, "looking needs none of what is to be"
    # Edited on the host, it is drift like any other file's.
    inventory = secure.inventory(issued(HOST, intermediate(), days=90))
    site.apply(inventory)
    site.ssh("gw1", f"chmod 644 {PEMS}/www.pem && echo >>{PEMS}/www.pem")
    code, changes = site.plan(inventory)
    assert (code, changes["gw1"]) == (2, [f"~ file {PEMS}/www.pem"])
    site.apply(inventory)
    assert site.plan(inventory)[0] == 0
