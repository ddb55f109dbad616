"""TLS of an inventory: what is refused, which ports it takes, and what certificates say."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pydantic import ValidationError

from fiefdom.errors import FiefdomError
from fiefdom.inventory import load
from fiefdom.model import Cluster
from fiefdom.model.certificates import Facts, facts_of, lasts, require_key_of, served
from helpers.certificates import Issued, authority, intermediate, issued
from helpers.inventories import TEXT, changed

WWW = {"chain": "tls/www.pem", "key": {"secret": "www-key"}}
TLS: dict[str, Any] = {"certificates": {"www": WWW}}
VAULT = {"secrets": {"file": "s.age", "recipients": ["age1g3wca0mag5tcesluvzsvhqwgqukltsy83tdsnfdszxv2s4y22g2q4azqtw"]}}


def cluster(changes: dict[str, Any] | None = None, **tls: Any) -> Cluster:
    return Cluster.model_validate(changed({"gateway": {"tls": {**TLS, **tls}}, **VAULT, **(changes or {})}))


def refusal(changes: dict[str, Any] | None = None, **tls: Any) -> str:
    with pytest.raises(ValidationError) as error:
        cluster(changes, **tls)
    return str(error.value)


def test_services_of_the_plain_port_are_reached_over_tls_as_well() -> None:
    found = cluster({"services/api/route": {"port": 8080}})
    assert (found.front_ports("web"), found.front_ports("api")) == ((80, 443), (8080,))
    assert {port: ".".join(map(str, key)) for port, key in found.fronts.items()} == {
        80: "services.web.route.port",
        8080: "services.api.route.port",
        443: "gateway.tls.port",
    }
    alone = cluster({"services/web/route": {"port": 443}}, plain_port=81)
    assert alone.front_ports("web") == (443,)


def test_without_tls_nothing_is_reached_elsewhere() -> None:
    found = Cluster.model_validate(changed({}))
    assert list(found.fronts) == [80] and found.front_ports("web") == (80,)


@pytest.mark.parametrize(
    ("changes", "tls", "says"),
    [
        ({}, {"port": 80}, "gateway.tls.plain_port: port 80 is that of TLS; one port speaks one of the two"),
        ({}, {"port": 7946}, "port 7946 on gw1 is also taken by"),
        ({}, {"port": 8404}, "gateway.tls.port: port 8404 on gw1 is also taken by gateway.stats_port"),
        (
            {},
            {"plain_port": 8080},
            "gateway.tls: no service is reached at port 8080 or 443, so that TLS would serve none",
        ),
        (
            {},
            {"certificates": {}},
            "gateway.tls.certificates: there is none; give one, or an authority to get them from",
        ),
        ({}, {"port": 79}, "greater than or equal to 80"),
        ({}, {"hsts": {"max_age_s": -1}}, "greater than or equal to 0"),
        (
            {"services/api/route": {"port": 443, "path_prefix": "/"}},
            {},
            "services.api.route: api is reached the same way as web; give it its own port, host or path_prefix",
        ),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], tls: dict[str, Any], says: str) -> None:
    assert says in refusal(changes, **tls)


@pytest.mark.parametrize("part", ["chain", "key"])
def test_no_certificate_and_no_key_stands_in_an_inventory(part: str) -> None:
    says = refusal(certificates={"www": {**WWW, part: "-----BEGIN PRIVATE KEY-----\nhunter2"}})
    assert "a certificate or key does not stand in the inventory; write the path of a file, or a source" in says


PASTED = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "tls",
    [
        PASTED,
        {"certificates": PASTED},
        {"certificates": {"www": PASTED}},
        {"certificates": {PASTED: WWW}},
        {"certificates": {"www": {**WWW, PASTED: "a"}}},
        *({"certificates": {"www": {**WWW, "key": {kind: PASTED}}}} for kind in ("secret", "env", "command", "pem")),
        {"certificates": {"www": {**WWW, "key": {"command": [PASTED]}}}},
    ],
)
def test_no_error_repeats_a_key_that_was_pasted_in_the_wrong_place(tmp_path: Path, tls: Any) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"{TEXT}gateway: {json.dumps({'tls': tls})}\n")
    with pytest.raises(FiefdomError) as error:
        load(path)
    assert "hunter2" not in str(error.value)


def test_certificates_and_keys_from_secret_sources_are_asked_for() -> None:
    chain = {"command": ["cat", "www.pem"]}
    sources = dict(cluster(certificates={"www": {**WWW, "chain": chain}}).secret_sources())
    assert {".".join(map(str, key)): str(source) for key, source in sources.items()} == {
        "gateway.tls.certificates.www.chain": "the command `cat www.pem`",
        "gateway.tls.certificates.www.key": "the secret www-key",
    }


# --- What certificates say

AT = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("name", "host", "covers"),
    [
        ("www.example.org", "WWW.example.org.", True),
        ("www.example.org", "example.org", False),
        ("*.example.org", "www.example.org", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", "a.b.example.org", False),
        ("example.org", "www.example.org", False),
    ],
)
def test_a_wildcard_stands_for_one_label(name: str, host: str, covers: bool) -> None:
    assert Facts((name,), AT, AT).covers(host) is covers


def test_a_chain_is_valid_while_all_of_it_is() -> None:
    short = issued("Short", authority(), authority=True, days=10)
    facts = facts_of(issued("www.example.org", short).pem + short.pem)
    assert facts.names == ("www.example.org",)
    assert facts.days_left(time.time()) == 9 and facts.days_left(time.time() + 10 * 86400) == -1


def test_how_long_it_lasts() -> None:
    ends = datetime(2026, 3, 1, tzinfo=timezone.utc)
    assert [lasts(ends, days) for days in (-3, 0, 1, 20)] == [
        "has expired on 2026-03-01",
        "expires on 2026-03-01, today",
        "expires on 2026-03-01, in 1 day",
        "expires on 2026-03-01, in 20 days",
    ]


def _rsa(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@pytest.mark.parametrize(
    ("chain", "says"),
    [
        (lambda _: b"", "holds no certificate in PEM; it begins with -----BEGIN CERTIFICATE-----"),
        (lambda one: one.key, "holds a private key as well; write that into a file of its own, and name it as `key`"),
        (lambda one: one.pem.replace(b"M", b"!"), "holds a certificate that cannot be read; get it anew"),
        (
            lambda one: one.pem + intermediate().pem[: len(intermediate().pem) // 2],
            "holds a certificate that cannot be read; get it anew",
        ),
        (
            lambda _: issued("x", private=ec.generate_private_key(ec.SECP192R1())).pem,
            "is too weak: its certificate has an EC key of 192 bits; make one of 256 or more",
        ),
        (
            lambda one: intermediate().pem + one.pem,
            "is out of order: its certificate 2 (CN=www.example.org) did not sign the one before (CN=Between); put the "
            "host's own first, then who signed it, and so on",
        ),
        (lambda one: one.pem + authority().pem, "did not sign the one before"),
        (lambda _: issued("x", names=[]).pem, "names no host (subjectAltName), which is all that clients look at"),
        (lambda _: issued("x", private=_rsa(1024)).pem, "is too weak: its certificate has an RSA key of 1024 bits"),
        (
            lambda _: issued("x", intermediate(), private=ed25519.Ed25519PrivateKey.generate()).pem,
            "browsers do not take",
        ),
    ],
)
def test_chains_that_no_gateway_could_serve_with(chain: Callable[[Issued], bytes], says: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        facts_of(chain(issued("www.example.org", intermediate())))
    assert says in str(error.value)


def test_a_key_is_that_of_its_certificate() -> None:
    one, other = issued("www.example.org"), issued("www.example.org", private=_rsa(2048))
    for each in (one, other):
        require_key_of(each.pem, each.key)
    closed = one.key_with(serialization.BestAvailableEncryption(b"hunter2"))
    for key, says in (
        (other.key, "is not the key of that certificate; name the one that it was made with"),
        (one.pem, "holds no private key in PEM; name the one that the certificate was made with"),
        (b"", "holds no private key in PEM"),
        (closed, "has a passphrase, which nobody could type at a gateway; take it out: openssl pkey"),
    ):
        with pytest.raises(ValueError, match=says):
            require_key_of(one.pem, key)


def test_what_is_served_is_what_was_read() -> None:
    one = issued("www.example.org", intermediate())
    whole = one.pem + intermediate().pem + one.key
    chain, key = one.pem + b"between them\n" + intermediate().pem, b"Bag Attributes\n" + one.key
    assert served(one.pem + intermediate().pem, one.key) == served(chain, key) == whole
    indented = b"".join(b"    " + line for line in one.pem.splitlines(keepends=True))
    assert served(indented, one.key) == one.pem + one.key
    old = one.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    assert served(one.pem, old) == one.pem + one.key
