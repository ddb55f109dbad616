"""An authority in an inventory: which names are asked for, what cannot be, and the account's key."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pydantic import ValidationError

from fiefdom.errors import FiefdomError
from fiefdom.inventory import certificates, load, secret
from fiefdom.model import Cluster
from fiefdom.model.acme import account_key, thumbprint, thumbprint_of
from fiefdom.model.acme_rules import acme_names
from fiefdom.model.obtained import Obtained
from fiefdom.wording import dotted
from helpers.certificates import authority, issued
from helpers.inventories import TEXT, changed

ACME: dict[str, Any] = {"directory": "https://acme.example.org/directory", "account_key": "account.key"}
KEY = {secret.VARIABLE: "dGVzdHMgb25seTogMzIgYnl0ZXMgb2Ygbm90aGluZyE="}


def cluster(changes: dict[str, Any] | None = None, tls: dict[str, Any] | None = None, **acme: Any) -> Cluster:
    own = {"acme": {**ACME, **acme}, **(tls or {})}
    route = {"services/web/route": {"host": "www.example.org"}}
    return Cluster.model_validate(changed({"gateway": {"tls": own}, **route, **(changes or {})}))


def refusal(changes: dict[str, Any] | None = None, tls: dict[str, Any] | None = None, **acme: Any) -> str:
    with pytest.raises(ValidationError) as error:
        cluster(changes, tls, **acme)
    return str(error.value)


@pytest.mark.parametrize(
    ("route", "names", "expected"),
    [
        ({"host": "WWW.example.org"}, (), ("www.example.org",)),
        ({"host": ["b.example.org", "a.example.org"]}, (), ("b.example.org", "a.example.org")),
        ({"host": ["www.example.org", "*.example.org", "192.0.2.1"]}, (), ("www.example.org",)),
        (
            {"host": ["www.example.org"], "redirect_from": ["example.org", "*.example.com"]},
            (),
            ("www.example.org", "example.org"),
        ),
        ({"host": "www.example.org"}, ("example.net",), ("example.net",)),
    ],
)
def test_names_are_those_of_routes_unless_they_are_written(route: Any, names: Any, expected: Any) -> None:
    assert acme_names(cluster({"services/web/route": route}, names=names)) == expected


def test_without_an_authority_there_is_nothing_to_ask_for() -> None:
    assert acme_names(Cluster.model_validate(changed({}))) == ()


def test_the_port_at_which_an_authority_asks_is_a_gateways() -> None:
    found = cluster({"services/web/route": {"host": "www.example.org", "port": 443}})
    assert sorted(found.fronts) == [80, 443]


WWW = {"certificates": {"www": {"chain": "a.pem", "key": "a.key"}}}


@pytest.mark.parametrize(
    ("changes", "tls", "acme", "says"),
    [
        (
            {},
            {},
            {"directory": "http://acme.example.org"},
            "it must be the address of an authority's directory, such as https://acme.example.org/directory",
        ),
        ({}, {}, {"email": "nobody"}, "it must be an address of e-mail"),
        ({}, {}, {"names": ["192.0.2.1"]}, "gateway.tls.acme.names: 192.0.2.1 is an address"),
        ({}, {}, {"names": ["a.example", "A.example"]}, "gateway.tls.acme.names: a.example stands there twice"),
        (
            {},
            {},
            {"names": ["*.example.org"]},
            "'*.example.org' is a wildcard, and no certificate for one can be obtained by http-01, the only challenge "
            "that gateways answer; write the names one by one, or give a certificate of your own in "
            "gateway.tls.certificates",
        ),
        (
            {"services/web/route": {}},
            {},
            {},
            "gateway.tls.acme.names: no route that is reached over TLS has a host name",
        ),
        (
            {},
            WWW,
            {"names": ["www"]},
            "gateway.tls.acme.names: gateway.tls.certificates has one of the name www as well",
        ),
        ({}, {"plain_port": 443}, {}, "one port speaks one of the two"),
        (
            {},
            {},
            {"account_key": "-----BEGIN PRIVATE KEY-----"},
            "a certificate or key does not stand in the inventory",
        ),
    ],
)
def test_what_cannot_be(changes: Any, tls: Any, acme: Any, says: str) -> None:
    assert says in refusal(changes, tls, **acme)


# --- The account's key


def pem(key: Any) -> bytes:
    return bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _rsa(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


MODULUS = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhM"
    "stn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5"
    "hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
)


def test_the_thumbprint_is_that_of_the_standards_example() -> None:
    """RFC 7638, 3.1."""
    public = rsa.RSAPublicNumbers(65537, number(MODULUS)).public_key()
    assert thumbprint_of(public) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_a_coordinate_keeps_its_zeros(curve: ec.EllipticCurve) -> None:
    """Of a key whose x begins with a zero byte (RFC 7518, 6.2.1.2), the thumbprint has them all."""
    size = curve.key_size // 8
    keys = (ec.derive_private_key(n, curve).public_key() for n in range(1, 5000))
    public = next(key for key in keys if key.public_numbers().x >> (8 * size - 8) == 0)
    numbers = public.public_numbers()
    x, y = (base64.urlsafe_b64encode(c.to_bytes(size, "big")).rstrip(b"=").decode() for c in (numbers.x, numbers.y))
    text = f'{{"crv":"P-{curve.key_size}","kty":"EC","x":"{x}","y":"{y}"}}'
    assert thumbprint_of(public) == base64.urlsafe_b64encode(sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (lambda: pem(_rsa(1024)), "is an RSA key of 1024 bits, and an account's has 2048"),
        (lambda: pem(ec.generate_private_key(ec.SECP521R1())), "is an EC key of secp521r1"),
        (lambda: pem(ed25519.Ed25519PrivateKey.generate()), "is neither an RSA nor an EC key"),
        (lambda: b"hunter2", "holds no private key in PEM; `openssl genpkey"),
        (lambda: issued("x").pem, "holds no private key in PEM"),
        (
            lambda: issued("x").key_with(serialization.BestAvailableEncryption(b"hunter2")),
            "has a passphrase, which nobody could type at a gateway",
        ),
    ],
)
def test_what_is_no_accounts_key(key: Callable[[], bytes], says: str) -> None:
    content = key()
    for of in (account_key, thumbprint):
        with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
            of(content)
        assert says in str(error.value) and "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("directory", "says"),
    [
        (
            "https://user:pass@acme.example.org/directory",
            "directory\n  Value error, holds a login, of which an authority",
        ),
        ("https://pass@acme.example.org", "holds a login"),
        ("https://acme.example.org:99999/directory", "names port 99999, and ports are 1 to 65535"),
        ("https://acme.example.org:0", "names port 0"),
        *(
            (f"https://{rest}", "it must be the address of an authority's directory")
            for rest in ("", "/directory", "?a", "-x.org", "a..b/c", "a:/x", "a:b/x", "x/ y", f"{'a' * 64}.org", "x/#y")
        ),
    ],
)
def test_a_directory_is_an_address_without_login(directory: str, says: str) -> None:
    told = refusal(directory=directory)
    assert says in told and "pass" not in told.partition("[type=")[0]


@pytest.mark.parametrize(
    "directory",
    [
        "https://acme.example.org",
        "https://ca:14000/dir",
        "https://10.0.0.9:14000/acme/acme/directory?x=@1",
        "https://ca/",
    ],
)
def test_a_directory_that_may_be(directory: str) -> None:
    cluster(directory=directory)


@pytest.mark.parametrize(
    "email", ["-x@y", "--yes@y.org", "a b@y.org", "a@-y.org", "a@y..org", 'a"@y.org', "a@y@z", "@y"]
)
def test_an_email_becomes_no_option_and_breaks_no_text(email: str) -> None:
    assert "it must be an address of e-mail such as ops@example.org" in refusal(email=email)


def test_a_name_is_no_longer_than_its_file_can_be_called() -> None:
    label = "a" * 60
    cluster(names=[".".join([label] * 3 + ["a" * 57])])
    assert "letters, and a certificate can be kept for 240 at most" in refusal(names=[".".join([label] * 4)])


def place(folder: Path, key: bytes, signers: bytes) -> Cluster:
    (folder / "account.key").write_bytes(key)
    (folder / "account.key").chmod(0o600)
    (folder / "ca.pem").write_bytes(signers)
    return cluster({"base_dir": str(folder)}, ca_file="ca.pem")


def told(found: Cluster) -> list[str]:
    return [f"{dotted(key)}: {says}" for key, says in certificates.problems(found)]


def test_the_key_and_the_authoritys_signer_are_looked_at_offline(tmp_path: Path) -> None:
    good = pem(ec.generate_private_key(ec.SECP384R1()))
    assert told(place(tmp_path, good, authority().pem)) == []
    found = place(tmp_path, b"no", b"no")
    key, signers = told(found)
    assert key.startswith("gateway.tls.acme.account_key: account.key holds no private key in PEM; `openssl genpkey")
    assert signers.startswith("gateway.tls.acme.ca_file: ca.pem holds no certificate in PEM")
    with pytest.raises(FiefdomError, match=r"^gateway\.tls\.acme\.account_key: account\.key holds no private key"):
        secret.load(found, KEY)
    assert secret.load(found, KEY, certified=False).contents == {}
    place(tmp_path, good, authority().pem)
    (tmp_path / "account.key").chmod(0o644)
    (open_to_all,) = told(found)
    assert open_to_all.startswith("gateway.tls.acme.account_key: others may read ")


def test_a_key_may_come_from_a_secret_source() -> None:
    found = cluster(account_key={"env": "ACCOUNT"})
    assert [".".join(map(str, key)) for key, _ in found.secret_sources()] == ["gateway.tls.acme.account_key"]
    good = pem(ec.generate_private_key(ec.SECP256R1()))
    assert good in secret.load(found, {**KEY, "ACCOUNT": good.decode()}).contents.values()


def test_a_host_that_nobody_asks_for_is_refused(tmp_path: Path) -> None:
    route = {"services/web/route": {"host": ["www.example.org", "*.example.org"]}}
    (says,) = told(cluster({**route, "base_dir": str(tmp_path)}, account_key={"env": "ACCOUNT"}))
    assert says == (
        "services.web.route.host: no certificate of gateway.tls is for *.example.org (they are for www.example.org); "
        "add one that is"
    )


def test_a_key_that_was_pasted_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    pasted = "-----BEGIN PRIVATE KEY-----\nhunter2\n"
    for tls in (
        {"acme": pasted},
        {"acme": {**ACME, "account_key": pasted}},
        {"acme": {**ACME, "account_key": [pasted]}},
    ):
        path.write_text(f"{TEXT}gateway: {json.dumps({'tls': tls})}\n")
        with pytest.raises(FiefdomError) as error:
            load(path)
        assert "hunter2" not in str(error.value)


# --- What is to be said of what was got

DAY_S = 86400.0
GOT = Obtained("www", 0.0, 90 * DAY_S)


@pytest.mark.parametrize(
    ("one", "days", "says", "served"),
    [
        (GOT, 60, None, True),
        (GOT, 67, None, True),
        (
            GOT,
            68,
            "the certificate for www expires on 1970-04-01, in 22 days, and should have been renewed by now",
            True,
        ),
        (GOT, 91, "the certificate for www has expired on 1970-04-01, and should have been renewed by now", False),
        (Obtained("www"), 0, "there is no certificate for www yet, though it was asked for", False),
        (Obtained("www", error="no"), 0, "there is no certificate for www yet: no", False),
        (
            Obtained("www", 0.0, 90 * DAY_S, "no"),
            50,
            "the certificate for www, which expires on 1970-04-01, in 40 days, could not be renewed: no",
            True,
        ),
        # One that lives for six days is not late with five to go.
        (Obtained("www", 0.0, 6 * DAY_S), 1, None, True),
    ],
)
def test_what_a_person_is_told(one: Obtained, days: float, says: str | None, served: bool) -> None:
    assert (one.complaint(days * DAY_S), one.is_served(days * DAY_S)) == (says, served)
