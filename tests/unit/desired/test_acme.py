"""A gateway that gets certificates itself: what it asks with, what all of them answer, and what is no drift."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from fiefdom.desired import acme, firewall, gateway
from fiefdom.desired.account import UID
from fiefdom.desired.context import Context
from fiefdom.desired.state import HostState, spec_hash
from fiefdom.model import SecretSource
from fiefdom.model.acme import account_key, thumbprint
from helpers.certificates import unchanging
from helpers.example import check_expected, context

SOURCE = {"secret": "acme_account"}
KEY = unchanging("account", 11).key
ACME: dict[str, Any] = {"directory": "https://acme.example.org/directory", "account_key": SOURCE}
CONTENTS: dict[Any, bytes] = {
    SecretSource.model_validate(SOURCE): KEY,
    "ca.pem": unchanging("ca", 12).pem,
    "a.pem": unchanging("api.example.org", 8).pem,
    "a.key": unchanging("api.example.org", 8).key,
}
GIVEN = {"certificates": {"api": {"chain": "a.pem", "key": "a.key"}}}
VAULT = {"file": "s.age", "recipients": ["age1g3wca0mag5tcesluvzsvhqwgqukltsy83tdsnfdszxv2s4y22g2q4azqtw"]}


def at(host: str = "gw1", *, tls: Any = None, route: Any = None, contents: Any = None, **changes: Any) -> Context:
    own = {"redirect": True, "acme": {**ACME, **changes}, **(tls or {})}
    services = {"web": {"route": {"port": 80, "host": "www.example.org", **(route or {})}}}
    it = context(host, "trixie", gateway={"tls": own}, services=services, secrets=VAULT)
    return replace(it, secrets=replace(it.secrets, contents={**CONTENTS, **(contents or {})}))


def state(*arguments: Any, **changes: Any) -> HostState:
    return gateway.desired(at(*arguments, **changes))


def frontend(number: int, **changes: Any) -> list[str]:
    text = state(**changes).file(gateway.HAPROXY_CONFIG).content.decode()
    found = re.search(rf"^frontend port-{number}\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert found
    return [line.strip() for line in found[1].splitlines()]


def answers(lines: list[str]) -> list[int]:
    return [n for n, line in enumerate(lines) if "acme-challenge" in line]


def test_the_expected_files() -> None:
    found = state(ca_file="ca.pem", email="ops@example.org")
    paths = (acme.SETTINGS, acme.AUTHORITIES, gateway.CERTIFICATES, gateway.HAPROXY_CONFIG)
    check_expected("trixie/gw1-acme", HostState(files=tuple(f for f in found.files if f.path in paths)))


def test_the_accounts_key_is_for_the_containers_user_alone() -> None:
    key = state().file(acme.ACCOUNT_KEY)
    assert (key.mode, key.uid, key.gid, key.secret, key.content) == (0o400, UID, UID, True, account_key(KEY))
    assert "PRIVATE KEY" not in repr(key)
    assert not [f for f in state().files if b"PRIVATE KEY" in f.content and f.path != acme.ACCOUNT_KEY]


def test_every_gateway_gives_the_same_answer_before_it_leads_anybody_elsewhere() -> None:
    lines = frontend(80, route={"allow_from": ["10.0.0.0/8"], "maintenance": {"active": True}})
    answer, nothing = answers(lines)
    assert f'lf-string "%[path,field(4,/)].{thumbprint(KEY)}"' in lines[answer]
    assert lines[nothing].startswith("http-request return status 404 "), "what is no token is no service's either"
    others = [n for n, line in enumerate(lines) if re.match("http-request (redirect|deny)|use_backend", line)]
    assert answer < nothing < min(others)
    assert not answers(frontend(443))
    assert not answers(frontend(80, tls={"acme": None, **GIVEN}, route={"host": "api.example.org"}))


def test_an_authority_is_answered_where_no_service_is_reached() -> None:
    alone: dict[str, Any] = {"route": {"port": 443}, "tls": {"plain_port": 8081}}
    lines = frontend(8081, **alone)
    assert answers(lines) and lines[-1] == "default_backend fiefdom-unrouted"
    rules = firewall.desired(at(**alone)).file(firewall.RULES).content.decode()
    assert "tcp dport { 80, 443, 8081 } accept" in rules


def test_given_ones_come_first_and_what_is_asked_with_is_in_place_before_haproxy_is_told() -> None:
    listed = state(tls=GIVEN).file(gateway.CERTIFICATES).content.decode().splitlines()[1:]
    assert listed == [gateway.certificate_path("api"), f"{acme.OBTAINED_DIR}/www.example.org.pem"]
    paths = sorted(f.path for f in state(tls=GIVEN).files if f.path.startswith(gateway.CONFIG_DIR))
    assert paths.index(acme.SETTINGS) < paths.index(gateway.CERTIFICATES) < paths.index(gateway.HAPROXY_CONFIG)


def settings(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(state(**changes).file(acme.SETTINGS).content)
    return found


def test_what_is_asked_for() -> None:
    assert settings()["names"] == ["www.example.org"] and settings()["ca_file"] is None
    assert settings(ca_file="ca.pem")["ca_file"] == acme.AUTHORITIES
    other = {"ca.pem": unchanging("other", 13).pem}
    assert settings(ca_file="ca.pem") != settings(ca_file="ca.pem", contents=other), "is seen to be another one"


def digests(**changes: Any) -> list[str]:
    found = re.search(r" ssl crt-list \S+ alpn h2,http/1.1  # (\S+) (\S+)$", "\n".join(frontend(443, **changes)), re.M)
    assert found
    return list(found.groups())


def test_what_was_got_is_no_file_of_fiefdoms_and_another_name_is_a_reload() -> None:
    assert not [f for f in state().files if f.path.startswith(acme.OBTAINED_DIR)]
    before, after = digests(), digests(names=["www.example.org", "example.org"])
    assert before[0] != after[0] and before[1] == after[1]


def test_no_other_container() -> None:
    plain = gateway.desired(context("gw1", "trixie", services={"web": {"route": {"port": 80}}}))
    assert spec_hash(state().containers[0], state()) == spec_hash(plain.containers[0], plain)


@pytest.mark.parametrize("host", ["app1"])
def test_an_app_host_has_none_of_it(host: str) -> None:
    assert gateway.desired(at(host)) == HostState()


def test_who_reads_no_certificates_writes_none() -> None:
    it = at()
    found = gateway.desired(replace(it, secrets=replace(it.secrets, contents={})))
    assert found.file(acme.ACCOUNT_KEY).content == b""
