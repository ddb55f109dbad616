"""A gateway with certificates: its files against expected ones, and who may read them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from fiefdom.desired import firewall, gateway, network
from fiefdom.desired.account import UID
from fiefdom.desired.context import Context
from fiefdom.desired.state import HostState, spec_hash
from fiefdom.model import SecretSource
from helpers.certificates import unchanging
from helpers.example import check_expected, context

KEY_SOURCE = {"command": ["pass", "show", "www"]}
TLS: dict[str, Any] = {
    "redirect": True,
    "hsts": {"max_age_s": 86400, "subdomains": True},
    "certificates": {
        "www": {"chain": "tls/www.pem", "key": KEY_SOURCE},
        "api": {"chain": "tls/api.pem", "key": "tls/api.key"},
    },
}
CONTENTS: dict[Any, bytes] = {
    "tls/www.pem": b"of www\n" + unchanging("www.example.org", 7).pem,
    "tls/api.pem": unchanging("api.example.org", 8).pem,
    "tls/api.key": unchanging("api.example.org", 8).key,
    SecretSource.model_validate(KEY_SOURCE): unchanging("www.example.org", 7).key,
}
RENEWED = unchanging("api.example.org", 9)
ROUTES = {"web": {"route": {"port": 80}}}


def at(host: str = "gw1", contents: dict[Any, bytes] | None = None, proxies: Any = None, **tls: Any) -> Context:
    own = {"tls": {**TLS, **tls}, **({"proxies": proxies} if proxies else {})}
    it = context(host, "trixie", gateway=own, services=ROUTES)
    return replace(it, secrets=replace(it.secrets, contents={**CONTENTS, **(contents or {})}))


def state(*arguments: Any, **tls: Any) -> HostState:
    return gateway.desired(at(*arguments, **tls))


def frontend(number: int, **tls: Any) -> list[str]:
    text = state(**tls).file(gateway.HAPROXY_CONFIG).content.decode()
    found = re.search(rf"^frontend port-{number}\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert found
    return [line.strip() for line in found[1].splitlines()]


def test_the_expected_files() -> None:
    files = tuple(f for f in state().files if f.path in (gateway.CERTIFICATES, gateway.HAPROXY_CONFIG))
    assert len(files) == 2
    check_expected("trixie/gw1-tls", HostState(files=files))


def test_a_certificate_and_its_key_are_for_the_containers_user_alone() -> None:
    for name, number in (("www", 7), ("api", 8)):
        pem = state().file(gateway.certificate_path(name))
        assert (pem.mode, pem.uid, pem.gid, pem.secret) == (0o400, UID, UID, True)
        one = unchanging(f"{name}.example.org", number)
        assert pem.content == one.pem + one.key
        assert "PRIVATE KEY" not in repr(pem)


def test_certificates_are_in_place_before_the_configuration_that_names_them() -> None:
    paths = sorted(f.path for f in state().files if f.path.startswith(gateway.CONFIG_DIR))
    assert all(p < gateway.HAPROXY_CONFIG for p in paths if "/certificates/" in p)


def digests(**given: Any) -> list[str]:
    found = re.search(r" ssl crt-list \S+ alpn h2,http/1.1  # (\S+) (\S+)$", "\n".join(frontend(443, **given)), re.M)
    assert found
    return list(found.groups())


def test_a_renewed_certificate_is_seen_in_the_configuration_and_makes_no_other_container() -> None:
    names, chains = digests()
    again = digests(contents={"tls/api.pem": RENEWED.pem})
    assert again[0] == names and again[1] != chains
    # What stands around certificates is not served.
    assert digests(contents={"tls/api.pem": b"of api\n" + CONTENTS["tls/api.pem"]}) == [names, chains]
    # Whatever the digest is of, it is of no key.
    assert digests(contents={"tls/api.key": RENEWED.key}) == [names, chains]
    assert digests(certificates={"www": TLS["certificates"]["www"]})[0] != names
    before, after = state(), state(contents={"tls/api.pem": RENEWED.pem})
    assert spec_hash(before.containers[0], before) == spec_hash(after.containers[0], after)


def test_a_container_that_has_certificates_is_the_one_that_has_none() -> None:
    plain = gateway.desired(context("gw1", "trixie", services=ROUTES))
    assert spec_hash(state().containers[0], state()) == spec_hash(plain.containers[0], plain)


def test_clients_are_told_of_truly() -> None:
    assert "http-request set-header X-Forwarded-Proto https" in frontend(443)
    assert "http-request set-header X-Forwarded-Port 443" in frontend(443)
    assert "http-request set-header X-Forwarded-Proto http" in frontend(80)
    lines = frontend(443, proxies=["10.9.0.0/16"])
    told = "unless by-proxy { req.hdr(X-Forwarded-Proto) -m found }"
    assert lines.index("acl by-proxy src 10.9.0.0/16") < lines.index(
        "http-request del-header Forwarded unless by-proxy"
    )
    assert f"http-request set-header X-Forwarded-Proto https {told}" in lines


def test_no_line_of_many_proxies_has_more_words_than_haproxy_takes() -> None:
    many = [f"10.9.{n}.0/24" for n in range(100)]
    plain = gateway.desired(context("gw1", "trixie", gateway={"proxies": many}, services=ROUTES))
    for text in (plain.file(gateway.HAPROXY_CONFIG).content.decode(), "\n".join(frontend(443, proxies=many))):
        assert text.count("acl by-proxy src ") % 5 == 0 and "10.9.99.0/24" in text
        assert max(len(line.split()) for line in text.splitlines() if not line.lstrip().startswith("#")) <= 64


def test_the_plain_port_leads_to_the_other_before_it_takes_a_body() -> None:
    lines = frontend(80)
    (redirect,) = (n for n, line in enumerate(lines) if line.startswith("http-request redirect "))
    assert "location https://%[req.hdr(host),host_only]%[pathq] if " in lines[redirect]
    assert lines[redirect + 1] == "http-request deny deny_status 403 unless { req.hdr(X-Forwarded-Proto) -i https }"
    assert next(n for n, line in enumerate(lines) if " wait-for-body " in line) > redirect
    # What it is said to have come by is the gateway's own word by then.
    assert next(n for n, line in enumerate(lines) if " X-Forwarded-Proto http" in line) < redirect
    assert not [line for line in frontend(443) if " redirect " in line]
    assert not [line for line in frontend(80, redirect=False) if " redirect " in line]
    assert "host_only]:8443%[pathq]" in "".join(frontend(80, port=8443))


@pytest.mark.parametrize(
    ("hsts", "value"),
    [
        (None, None),
        ({"max_age_s": 300}, '"max-age=300"'),
        ({"max_age_s": 0, "subdomains": True}, '"max-age=0; includeSubDomains"'),
    ],
)
def test_strict_transport_security_is_said_over_tls_alone(hsts: Any, value: str | None) -> None:
    line = [f"http-after-response set-header Strict-Transport-Security {value}"] if value else []
    assert [line for line in frontend(443, hsts=hsts) if "Strict" in line] == line
    assert not [line for line in frontend(80, hsts=hsts) if "Strict" in line]


def test_http_2_names_one_host_as_well() -> None:
    assert [line.endswith("|| HTTP_2.0 { req.hdr_cnt(host) 1 }") for line in frontend(443) if " 400 " in line] == [True]
    assert not [line for line in frontend(80) if "HTTP_2.0" in line]


def test_the_port_is_open_reserved_and_may_be_bound() -> None:
    rules = firewall.desired(at()).file(firewall.RULES).content.decode()
    assert "tcp dport { 80, 443 } accept" in rules
    assert "tcp dport" in firewall.desired(at("app1")).file(firewall.RULES).content.decode()
    assert ", 443 }" not in firewall.desired(at("app1")).file(firewall.RULES).content.decode()
    sysctls = {s.key: s.value for s in network.desired(at()).sysctls}
    assert "443" in sysctls["net.ipv4.ip_local_reserved_ports"].split(",")
    assert sysctls["net.ipv4.ip_unprivileged_port_start"] == "80"
    high = {s.key: s.value for s in network.desired(at(port=8443)).sysctls}
    assert "8443" in high["net.ipv4.ip_local_reserved_ports"].split(",")


def test_an_app_host_has_no_certificate() -> None:
    assert gateway.desired(at("app1")) == HostState()
