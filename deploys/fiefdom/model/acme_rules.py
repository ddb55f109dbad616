"""Which host names gateways get certificates for, and what of that cannot be."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from fiefdom.model.draft import Draft
from fiefdom.model.text import Problem, twice
from fiefdom.wording import KeyPath, shown

_ACME: KeyPath = ("gateway", "tls", "acme")
# A gateway keeps it as NAME.pem, and beside that as NAME.pem.new; a file's name has 255 letters at most.
_LONGEST_NAME = 240


def acme_names(cluster: Draft) -> tuple[str, ...]:
    """Host names that each gateway gets a certificate for, in lower case; none where there is no authority."""
    tls = cluster.gateway.tls
    if tls is None or tls.acme is None:
        return ()
    routes = [s.route for name, s in cluster.services.items() if tls.port in cluster.front_ports(name)]
    routed = [host for route in routes for host in (*route.host, *route.redirect_from)]
    found = tls.acme.names or [host for host in routed if not host.startswith("*.") and not _is_address(host)]
    return tuple(dict.fromkeys(host.lower().rstrip(".") for host in found))


def acme_problems(cluster: Draft) -> Iterator[Problem]:
    tls = cluster.gateway.tls
    if tls is None:
        return
    if tls.acme is None:
        if not tls.certificates:
            says = "there is none; give one, or an authority to get them from in gateway.tls.acme"
            yield ("gateway", "tls", "certificates"), says
        return
    key: KeyPath = (*_ACME, "names")
    yield from twice(key, [name.lower() for name in tls.acme.names])
    for name in filter(_is_address, tls.acme.names):
        yield key, f"{name} is an address; an authority is asked for host names"
    for name in acme_names(cluster):
        if len(name) > _LONGEST_NAME:
            yield (
                key,
                f"{shown(name)} has {len(name)} letters, and a certificate can be kept for {_LONGEST_NAME} at most",
            )
        if name in tls.certificates:
            says = f"gateway.tls.certificates has one of the name {name} as well; call that another name"
            yield key, says
    if not acme_names(cluster):
        yield key, "no route that is reached over TLS has a host name that could be asked for; write names here"
    for name, service in cluster.services.items():
        if service.kind == "tcp" and service.gateway_port == tls.plain_port:
            says = f"{name} has port {tls.plain_port}, where authorities ask gateways over HTTP; give it another one"
            yield ("services", name, "route", "port"), says


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
