"""TLS at the gateways: certificates that are given or got from an authority, and what clients are told of it."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from fiefdom.model.acme import Acme
from fiefdom.model.secrets import FileOrSource, SecretSource
from fiefdom.model.text import FIRST_GATEWAY_PORT, LAST_PORT, Model, Name
from fiefdom.wording import KeyPath


class Certificate(Model):
    """A certificate and its private key."""

    chain: FileOrSource = Field(
        description="PEM of the certificate and, after it, of the authorities between it and the root: a file, "
        "relative to the inventory, or a source as for secrets."
    )
    key: FileOrSource = Field(
        description="PEM of its private key, without passphrase: a file that its owner alone may read, relative to the "
        "inventory, or where the secret comes from."
    )


class Hsts(Model):
    """What browsers are to remember: that these hosts are to be asked over TLS alone (RFC 6797)."""

    max_age_s: int = Field(
        ge=0, le=63072000, description="Seconds for which browsers remember it; 0 makes them forget it."
    )
    subdomains: bool = Field(False, description="Whether it holds for all names below these as well.")


class Tls(Model):
    """HTTPS at the gateways."""

    port: int = Field(443, ge=FIRST_GATEWAY_PORT, le=LAST_PORT, description="Gateway port of HTTPS.")
    plain_port: int = Field(
        80,
        ge=FIRST_GATEWAY_PORT,
        le=LAST_PORT,
        description="Gateway port whose services are reached over TLS as well; one whose `route.port` is `port` is "
        "reached over TLS alone.",
    )
    certificates: dict[Name, Certificate] = Field(
        default_factory=dict,
        description="Certificates by name. A client gets the one for the host name that it asks for, and the first "
        "where there is none.",
    )
    acme: Acme | None = Field(
        None,
        description="Authority that gateways get certificates from, beside those that are given; none when absent.",
    )
    redirect: bool = Field(
        False, description="Whether `plain_port` answers nothing but where to find the same over TLS (308)."
    )
    hsts: Hsts | None = Field(None, description="Strict-Transport-Security in answers over TLS; none when absent.")

    def holders(self) -> Iterator[tuple[KeyPath, str | SecretSource]]:
        """The file or source that holds each certificate and key, with the key of the inventory that says so."""
        for name, certificate in self.certificates.items():
            above: KeyPath = ("gateway", "tls", "certificates", name)
            yield (*above, "chain"), certificate.chain
            yield (*above, "key"), certificate.key
        if self.acme is not None:
            yield ("gateway", "tls", "acme", "account_key"), self.acme.account_key
            if self.acme.ca_file is not None:
                yield ("gateway", "tls", "acme", "ca_file"), self.acme.ca_file
