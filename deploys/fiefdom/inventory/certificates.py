"""The gateways' certificates: read beside the inventory or from secret sources, and looked at before any host is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from fiefdom.errors import FiefdomError
from fiefdom.inventory import acme, files
from fiefdom.model import Cluster, Problem, Secrets, SecretSource
from fiefdom.model.acme_rules import acme_names
from fiefdom.model.certificates import Facts, facts_of, require_key_of, uncovered
from fiefdom.model.tls import Certificate
from fiefdom.wording import KeyPath, dotted

_ABOVE: KeyPath = ("gateway", "tls", "certificates")
Contents = Mapping[str | SecretSource, bytes]


def named(cluster: Cluster) -> Iterator[tuple[KeyPath, str]]:
    """Key and path, as it is written, of each file that holds a certificate or a key."""
    tls = cluster.gateway.tls
    yield from ((key, path) for key, path in (tls.holders() if tls is not None else ()) if isinstance(path, str))


def contents(cluster: Cluster) -> dict[str, bytes]:
    """What is in these files, by the path that stands in the inventory. Raises FiefdomError."""
    found = {}
    for key, path in named(cluster):
        try:
            found[path] = _read(key, cluster.path_here(path))
        except ValueError as error:
            raise FiefdomError(f"{dotted(key)}: {error}") from error
    return found


def problems(cluster: Cluster) -> Iterator[Problem]:
    """What is wrong with what lies open to the operator; a secret that has to be asked for is not."""
    found: dict[str | SecretSource, bytes] = {}
    for key, path in named(cluster):
        try:
            found[path] = _read(key, cluster.path_here(path))
        except ValueError as error:
            yield key, str(error)
    yield from of_contents(cluster, found)


def require_good(cluster: Cluster, secrets: Contents) -> None:
    """Raise FiefdomError for the first certificate or key that no gateway could serve with."""
    for key, says in of_contents(cluster, secrets):
        raise FiefdomError(f"{dotted(key)}: {says}")


def of_contents(cluster: Cluster, found: Contents) -> Iterator[Problem]:
    """What is wrong with certificates and keys, as far as they are known."""
    yield from acme.of_contents(cluster, found)
    facts: dict[str, Facts] = {}
    for name, certificate in _all(cluster).items():
        try:
            if certificate.chain in found:
                facts[name] = facts_of(found[certificate.chain])
        except ValueError as error:
            yield (*_ABOVE, name, "chain"), f"{certificate.chain} {error}"
            continue
        try:
            if certificate.chain in found and certificate.key in found:
                require_key_of(found[certificate.chain], found[certificate.key])
        except ValueError as error:
            yield (*_ABOVE, name, "key"), f"{certificate.key} {error}"
    if len(facts) == len(_all(cluster)):
        yield from _uncovered(cluster, list(facts.values()))


def facts(cluster: Cluster, secrets: Secrets) -> dict[str, Facts]:
    """What each certificate that was read says, by its name in the inventory."""
    found = {name: secrets.contents.get(certificate.chain) for name, certificate in _all(cluster).items()}
    return {name: facts_of(chain) for name, chain in found.items() if chain is not None}


def _uncovered(cluster: Cluster, known: list[Facts]) -> Iterator[Problem]:
    tls, obtained = cluster.gateway.tls, acme_names(cluster)
    for name, service in cluster.services.items():
        hosts = [("host", host) for host in service.route.host]
        hosts += [("redirect_from", host) for host in service.route.redirect_from]
        for part, host in hosts if tls is not None and tls.port in cluster.front_ports(name) else ():
            if host.lower().rstrip(".") not in obtained and uncovered(host, known):
                names = ", ".join(dict.fromkeys([*(name for facts in known for name in facts.names), *obtained]))
                yield (
                    ("services", name, "route", part),
                    f"no certificate of gateway.tls is for {host} (they are for {names}); add one that is",
                )


def _all(cluster: Cluster) -> Mapping[str, Certificate]:
    return {} if cluster.gateway.tls is None else cluster.gateway.tls.certificates


def _read(key: KeyPath, path: Path) -> bytes:
    content = files.read(path)
    mode = path.stat().st_mode & 0o777
    if key[-1] in ("key", "account_key") and mode & 0o077:
        raise ValueError(f"others may read {path} (mode {mode:04o}); type: chmod 600 {path}")
    return content
