"""What an authority of certificates is asked with: the account's key, and who the authority is signed by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fiefdom.model import Cluster, Problem, SecretSource
from fiefdom.model.acme import account_key, authorities
from fiefdom.wording import KeyPath

ABOVE: KeyPath = ("gateway", "tls", "acme")


def of_contents(cluster: Cluster, found: Mapping[str | SecretSource, bytes]) -> Iterator[Problem]:
    """What is wrong with these, as far as they are known."""
    tls = cluster.gateway.tls
    if tls is None or tls.acme is None:
        return
    acme = tls.acme
    try:
        if acme.account_key in found:
            account_key(found[acme.account_key])
    except ValueError as error:
        yield (*ABOVE, "account_key"), f"{acme.account_key} {error}"
    try:
        if acme.ca_file is not None and acme.ca_file in found:
            authorities(found[acme.ca_file])
    except ValueError as error:
        yield (*ABOVE, "ca_file"), f"{acme.ca_file} {error}"
