"""Certificates from an authority: two gateways get their own, each answers for the other, and what goes wrong is told.

The authority is Debian's pebble. It looks at the one gateway that its names lead to, whoever asks.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fiefdom import lab
from fiefdom.images import bases
from helpers.certificates import issued
from helpers.faults import docker
from helpers.operator_view import ROOT, Site, await_true
from helpers.tls_load import TlsTraffic
from helpers.two_gateways import GW2, with_gateway

pytestmark = pytest.mark.proof

HOST, SHORT = "predictor.example.org", "short.example.org"
GW1 = lab.host("gw1")
"""The lab's third app host, as a gateway."""
ADDRESSES = {"gw1": GW1.address, "gw2": GW2.address}
CONTAINER, ADDRESS, IMAGE = "scratch-acme-test", "10.99.0.252", "fiefdom-test/acme"
LONG, BRIEF = (f"https://{ADDRESS}:{port}/dir" for port in (14000, 14001))
KEPT = "/var/lib/fiefdom/gateway/certificates"


@dataclass
class Authority:
    """The lab with two gateways that get their certificates, and whom from."""

    site: Site

    def inventory(self, change: Callable[[dict[str, Any]], object] = lambda _: None, **acme: Any) -> str:
        """Path of an inventory whose gateways get what they serve."""

        def changed(data: dict[str, Any]) -> None:
            with_gateway(data)
            data["services"]["predictor"]["route"] = {"host": [HOST]}
            own = {
                "directory": LONG,
                "account_key": "account.key",
                "ca_file": "pebble.pem",
                "email": "ops@cluster.test",
            }
            own |= acme
            data["gateway"] = {
                **data.get("gateway", {}),
                "tls": {"acme": own, "hsts": {"max_age_s": 60, "subdomains": True}},
            }
            change(data)

        return self.site.inventory("acme", changed)

    def lead(self, host: str, gateway: str) -> None:
        """Have the authority find a name at a gateway."""
        for verb, body in (("clear-a", {}), ("add-a", {"addresses": [ADDRESSES[gateway]]})):
            said = json.dumps({"host": f"{host}.", **body}).encode()
            urllib.request.urlopen(f"http://{ADDRESS}:8055/{verb}", said, timeout=10).close()

    def trust(self, port: int = 15000) -> str:
        """Path of the root that what the authority signs leads to; others each time that it starts."""
        context = ssl.create_default_context(cafile=str(self.site.scratch / "pebble.pem"))
        with urllib.request.urlopen(f"https://{ADDRESS}:{port}/roots/0", timeout=10, context=context) as reply:
            (self.site.scratch / f"root-{port}.pem").write_bytes(reply.read())
        return str(self.site.scratch / f"root-{port}.pem")

    def traffic(self, gateway: str, seconds: float) -> TlsTraffic:
        """Clients of HTTP/1.1 and HTTP/2, which believe the authority alone."""
        return TlsTraffic([sys.executable], f"{ADDRESSES[gateway]}:443", HOST, self.trust(), seconds)

    def serial(self, gateway: str, host: str = HOST) -> int:
        """Of what a gateway serves for a name."""
        return x509.load_der_x509_certificate(_served(gateway, host)).serial_number

    def renew(self, host: str) -> None:
        self.site.ssh(host, "docker exec gateway fiefdom-gateway renew")

    def doctor(self, inventory: str) -> tuple[int, str]:
        done = self.site.fiefdom("doctor", inventory, "--json")
        return done.returncode, " ".join(f["seen"] for f in json.loads(done.stdout)["hosts"]["gw1"])


def _served(gateway: str, host: str) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return _met(context, gateway, host)


def _met(context: ssl.SSLContext, gateway: str, host: str) -> bytes:
    """The certificate that a new connection meets. Raises ssl.SSLError where it is not believed."""
    plain = socket.create_connection((ADDRESSES[gateway], 443), 10)
    with plain, context.wrap_socket(plain, server_hostname=host) as connection:
        return connection.getpeercert(binary_form=True) or b""


@contextmanager
def pebble(site: Site) -> Iterator[None]:
    context = ROOT / "tests/lab/images/acme"
    docker("rm", "--force", CONTAINER, check=False)
    build = ["docker", "build", "--quiet", *bases.build_arguments(context), "--tag", IMAGE, str(context)]
    subprocess.run(build, check=True, capture_output=True)
    docker("run", "--detach", "--name", CONTAINER, "--network", "fiefdom-lab", "--ip", ADDRESS, IMAGE)
    try:
        (site.scratch / "pebble.pem").write_text(docker("exec", CONTAINER, "cat", "/srv/acme/cert.pem") + "\n")
        (site.scratch / "account.key").write_bytes(
            issued("account", private=ec.generate_private_key(ec.SECP256R1())).key
        )
        (site.scratch / "account.key").chmod(0o600)
        yield
    finally:
        docker("rm", "--force", CONTAINER)


def _answers(authority: Authority) -> bool:
    try:
        return bool(authority.trust() and authority.trust(15001))
    except OSError:
        return False


@pytest.fixture(scope="module")
def authority(_site: Site) -> Iterator[Authority]:
    lab.up(3)
    found = Authority(_site)
    try:
        with pebble(_site):
            await_true(lambda: _answers(found), 20)
            for host in (HOST, SHORT):
                # Whoever asks, it is the second one that is looked at.
                found.lead(host, "gw2")
            _site.apply(found.inventory())
            yield found
    finally:
        lab.remove(GW2.name)
        _site.converge()
        _site.await_serving()
        assert _site.ssh("gw1", "docker exec gateway ls /etc/fiefdom/gateway/acme 2>&1; :").endswith(
            "such file or directory"
        )


def test_both_get_their_own_and_either_answers_for_the_other(authority: Authority) -> None:
    site, inventory = authority.site, authority.inventory()
    site.await_serving(inventory, 120)
    assert site.plan(inventory)[0] == 0, "what was got is no drift"
    serials = {name: authority.serial(name) for name in ADDRESSES}
    assert len(set(serials.values())) == 2
    rows = site.status(inventory)["certificates"]
    assert {(row["gateway"], row["name"], row["days"]) for row in rows} == {(name, HOST, 89) for name in ADDRESSES}
    assert authority.doctor(inventory)[0] == 0
    assert site.ssh("gw1", f"stat -c '%a %u' {KEPT}/{HOST}.pem").split() == ["600", "65530"]
    # The second one answered whenever the authority looked; now the first one does, for a renewal of the second one's.
    authority.lead(HOST, "gw1")
    authority.renew(GW2.name)
    await_true(lambda: authority.serial("gw2") != serials["gw2"], 60, "a renewal")
    assert authority.serial("gw1") == serials["gw1"]


def test_a_renewal_and_another_container_fail_no_request(authority: Authority) -> None:
    site = authority.site
    before = authority.serial("gw1")
    container = "docker inspect --format '{{.Id}}' gateway"
    first = site.ssh("gw1", container)
    with authority.traffic("gw1", 40) as traffic:
        authority.renew("gw1")
        await_true(lambda: authority.serial("gw1") != before, 30, "a renewal")
        renewed = authority.serial("gw1")
        other = authority.inventory(lambda data: data["gateway"].update(maxconn=3000))
        site.apply(other, "--limit", "gw1")
    assert traffic.report["failed"] == 0, traffic.report
    assert {int(serial, 16) for serial in traffic.report["serials"]} == {before, renewed}
    assert site.ssh("gw1", container) != first and authority.serial("gw1") == renewed
    site.apply(authority.inventory(), "--limit", "gw1")
    assert authority.serial("gw1") == renewed, "what was got outlives containers"


def test_an_authority_that_is_away_is_told_and_what_there_is_is_served(authority: Authority) -> None:
    site, inventory = authority.site, authority.inventory()
    before = authority.serial("gw1")
    docker("network", "disconnect", "fiefdom-lab", CONTAINER)
    try:
        authority.renew("gw1")
        await_true(lambda: "could not be renewed" in authority.doctor(inventory)[1], 120, "doctor's word")
        code, said = authority.doctor(inventory)
        assert code == 2 and HOST in said and "cannot be asked" in said
        (notice,) = (n for n in site.status(inventory)["notices"] if "could not be renewed" in n)
        assert notice.startswith("gw1: ") and site.status(inventory)["serving"]
        assert authority.serial("gw1") == before and site.plan(inventory)[0] == 0
    finally:
        docker("network", "connect", "--ip", ADDRESS, "fiefdom-lab", CONTAINER)
    authority.renew("gw1")
    await_true(lambda: authority.serial("gw1") != before, 60, "a renewal")
    await_true(lambda: authority.doctor(inventory)[0] == 0, 30, "doctor's word")


def test_what_is_short_lived_is_renewed_by_itself(authority: Authority) -> None:
    """Ten seconds before its end, again and again, without a person."""
    site = authority.site
    inventory = authority.inventory(
        lambda data: data["services"]["predictor"]["route"].update(host=[SHORT, HOST]),
        directory=BRIEF,
        names=[SHORT, HOST],
    )
    site.apply(inventory)
    seen: list[int] = []

    def another() -> bool:
        serial = authority.serial("gw1", SHORT)
        if serial not in seen:
            seen.append(serial)
        return len(seen) >= 4  # the placeholder among them

    await_true(another, 180, "two renewals")
    assert _met(ssl.create_default_context(cafile=authority.trust(15001)), "gw1", SHORT)
