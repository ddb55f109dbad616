"""What a gateway gets certificates with: whom it asks, for which names, and the account that it asks for."""

from __future__ import annotations

import json

from fiefdom.desired.account import UID
from fiefdom.desired.context import Context
from fiefdom.desired.state import Directory, File, HostState, digest
from fiefdom.model.acme import account_key, authorities, thumbprint
from fiefdom.model.acme_rules import acme_names

DIR = "/etc/fiefdom/gateway/acme"
SETTINGS = f"{DIR}/acme.json"
ACCOUNT_KEY = f"{DIR}/account.pem"
AUTHORITIES = f"{DIR}/authorities.pem"
OBTAINED_DIR = "/var/lib/fiefdom/gateway/certificates"
"""Where the container keeps what it got: no file of Fiefdom's, so that what is renewed there is no drift."""


def desired(context: Context) -> HostState:
    """Files that the container asks with; nothing where certificates are given alone.

    They sort before the configuration that names what is got, and so they are in place before it: the container puts
    a certificate of its own making where there is none yet.
    """
    tls = context.cluster.gateway.tls
    if tls is None or tls.acme is None:
        return HostState()
    acme, contents = tls.acme, context.secrets.contents
    key = contents.get(acme.account_key)
    signers = None if acme.ca_file is None else contents.get(acme.ca_file)
    settings = {
        "directory": acme.directory,
        "email": acme.email,
        "names": list(acme_names(context.cluster)),
        "account_key": ACCOUNT_KEY,
        "thumbprint": answer(context),
        "ca_file": None if acme.ca_file is None else AUTHORITIES,
        # So that another one's content is another setting.
        "ca_digest": None if signers is None else digest(authorities(signers))[:12],
        # They share what the authority lets one account try.
        "gateways": len(context.cluster.gateways),
    }
    return HostState(
        directories=(Directory(DIR),),
        files=(
            # Empty for who reads no certificates, as they are.
            File(ACCOUNT_KEY, b"" if key is None else account_key(key), mode=0o400, uid=UID, gid=UID, secret=True),
            *((File(AUTHORITIES, b"" if signers is None else authorities(signers)),) if acme.ca_file else ()),
            File(SETTINGS, (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()),
        ),
    )


def answer(context: Context) -> str | None:
    """What every gateway says behind a token of the authority's (RFC 8555, 8.1); None where there is no authority."""
    tls = context.cluster.gateway.tls
    if tls is None or tls.acme is None:
        return None
    key = context.secrets.contents.get(tls.acme.account_key)
    return "unknown" if key is None else thumbprint(key)


def paths(context: Context) -> tuple[str, ...]:
    """Where a gateway has the certificates that it gets."""
    return tuple(f"{OBTAINED_DIR}/{name}.pem" for name in acme_names(context.cluster))
