"""The client that asks an authority, and openssl, which looks at what came of it: Debian's programs, run briefly."""

import json
import re
import tempfile
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from fiefdom_gateway import edges
from fiefdom_gateway.acme import Asked, Facts
from fiefdom_gateway.edges import Failed
from fiefdom_gateway.log import printable

# An authority asks from several places, and some take their time for an order.
CLIENT_TIMEOUT_S = 180.0
OPENSSL_TIMEOUT_S = 20.0
# Of nobody else's certificates.
PLACEHOLDER = "Fiefdom placeholder"
# The client asks it before and after; HAProxy has the answer already.
HOOK = "/usr/local/lib/fiefdom-gateway/http-01"
TRUSTED = "/etc/ssl/certs/ca-certificates.crt"


async def obtain(asked: Asked, name: str) -> str:
    """Return a new key's certificate for `name`, the chain first and then the key, in PEM. Raises Failed.

    The client has a folder for this once: it is left with nothing that it could be confused by the next time.
    """
    with tempfile.TemporaryDirectory(prefix="acme-") as folder:
        private = Path(folder) / "private"
        private.mkdir(mode=0o700)
        try:
            edges.write_atomically(private / "key.pem", asked.account_key.read_text())
        except OSError as error:
            raise Failed(f"the account's key cannot be read: {error}") from None
        await _register(asked, folder)
        await _client(
            asked, folder, "--type=EC", "--bits=256", "--no-ari", "--no-ocsp", f"--hook={HOOK}", "issue", name
        )
        try:
            pem = (Path(folder) / name / "cert.pem").read_text() + (private / name / "key.pem").read_text()
        except OSError as error:
            raise Failed(f"the client got nothing: {error}") from None
    return "".join(f"{line}\n" for line in pem.splitlines() if line.strip())


async def _register(asked: Asked, folder: str) -> None:
    """Have an account; one that is there already is told where to write to."""
    try:
        await _client(asked, folder, "--never-create", "new", *filter(None, [asked.email]))
    except Failed as error:
        if "already exists" not in error.output:
            raise
        if asked.email:
            with suppress(Failed):  # nothing depends on it
                await _client(asked, folder, "--never-create", "update", asked.email)


async def _client(asked: Asked, folder: str, *words: str) -> None:
    argv = ["uacme", "--yes", f"--acme-url={asked.directory}", f"--confdir={folder}"]
    try:
        await edges.run([*argv, *words], {"UACME_CAINFO": str(asked.ca_file or TRUSTED)}, CLIENT_TIMEOUT_S)
    except Failed as error:
        raise Failed(reason(error.output) or str(error), error.output) from None


def reason(output: str) -> str:
    """Return what the client says of a failure in one sentence: the authority's own words where it has some."""
    details = re.findall(r'^\s*"detail": ("(?:[^"\\]|\\.)*")', output, re.MULTILINE)
    lines = [line.removeprefix("uacme: ") for line in output.splitlines() if line.startswith("uacme: ")]
    said = [line for line in lines if " waiting " not in line and "autoaccepted" not in line]
    if details:
        return printable(f"the authority says: {json.loads(details[-1])}", 300)
    unreached = [line for line in said if line.startswith("curl_") and " failed: " in line]
    if unreached:
        return printable(f"the authority cannot be asked: {unreached[-1].partition(': ')[2]}", 300)
    return printable(said[-1], 300) if said else ""


async def placeholder(name: str) -> str:
    """Return a certificate for `name` that nobody will believe, with its key. Raises Failed."""
    with tempfile.TemporaryDirectory(prefix="placeholder-") as folder:
        key, certificate = Path(folder) / "key.pem", Path(folder) / "cert.pem"
        await _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"),
            *("-subj", f"/O={PLACEHOLDER}", "-addext", f"subjectAltName=DNS:{name}"),
            *("-keyout", str(key), "-out", str(certificate)),
        )
        return certificate.read_text() + key.read_text()


async def facts(path: Path) -> Facts:
    """Return what the certificate in a file says. Raises Failed."""
    said = await _openssl("x509", "-in", str(path), "-noout", "-subject", "-startdate", "-enddate")
    values = dict(line.partition("=")[::2] for line in said.splitlines())
    try:
        begins_s, ends_s = (_seconds(values[key]) for key in ("notBefore", "notAfter"))
    except (KeyError, ValueError):
        raise Failed(f"openssl says nothing of {path.name} that could be read") from None
    return Facts(begins_s, ends_s, PLACEHOLDER in values.get("subject", ""))


def _seconds(text: str) -> float:
    return datetime.strptime(text, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=timezone.utc).timestamp()


async def require_good(pem: str, name: str) -> None:
    """Raise Failed where a certificate is not for `name`, or its key not its own: HAProxy could not start with it."""
    with tempfile.TemporaryDirectory(prefix="obtained-") as folder:
        path = Path(folder) / "obtained.pem"
        edges.write_atomically(path, pem)
        if "does match" not in await _openssl("x509", "-in", str(path), "-noout", "-checkhost", name):
            raise Failed(f"what the authority gave is not for {name}")
        own = await _openssl("x509", "-in", str(path), "-noout", "-pubkey")
        if own != await _openssl("pkey", "-in", str(path), "-pubout"):
            raise Failed("what the authority gave has another key")


async def _openssl(*words: str) -> str:
    return await edges.run(["openssl", *words], {}, OPENSSL_TIMEOUT_S)
