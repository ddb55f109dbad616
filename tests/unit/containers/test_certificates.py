"""Certificates of the gateway's HAProxy: what is renewed without a reload, and how the worker is told."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import certificates  # noqa: E402
from fiefdom_gateway.edges import Failed  # noqa: E402

RECORDED = Path(__file__).parent / "data" / "haproxy-3.0"
CREATED, DONE = "Transaction created for certificate /x!\n\n", "Committing /x.\nSuccess!\n\n"


def static(names: str = "1" * 12, chains: str = "2" * 12, more: str = "") -> str:
    listener = f"    bind :443 ssl crt-list /certificates/list.txt alpn h2,http/1.1  # {names} {chains}\n"
    return f"frontend port-80\n    bind :80\n\nfrontend port-443\n{listener}{more}"


@pytest.mark.parametrize(
    ("after", "is_that"),
    [
        (static(chains="3" * 12), True),
        (static(), False),
        (static(names="3" * 12), False),
        (static(names="3" * 12, chains="3" * 12), False),
        (static(chains="3" * 12, more="    option x\n"), False),
        (static(chains="no digest"), False),
        (static().replace(" ssl ", " "), False),
        ("", False),
    ],
)
def test_only_what_is_in_certificates_is_renewed_without_a_reload(after: str, is_that: bool) -> None:
    assert certificates.renewed(static(), after) == (Path("/certificates/list.txt") if is_that else None)


class Worker:
    """A worker that answers as HAProxy does, but for what it is told to refuse."""

    def __init__(self, refuses: str = "") -> None:
        self.asked: list[str] = []
        self._refuses = refuses

    async def ask(self, command: str) -> str:
        self.asked.append(command)
        if self._refuses and command.startswith(self._refuses):
            return "Can't update it:\n no such thing\n"
        return CREATED if command.startswith("set") else DONE


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    (tmp_path / "www.pem").write_text("-----BEGIN\nwww\n\n-----END\n\n")
    (tmp_path / "api.pem").write_text("-----BEGIN\napi\n-----END\n")
    path = tmp_path / "list.txt"
    path.write_text(f"# Managed\n{tmp_path}/www.pem\n{tmp_path}/api.pem\n")
    return path


def test_one_is_committed_before_the_next_is_begun(listed: Path) -> None:
    worker = Worker()
    asyncio.run(certificates.renew(worker.ask, listed))
    www, api = listed.with_name("www.pem"), listed.with_name("api.pem")
    # An empty line would end what is sent; each command gets its own line break behind it.
    assert worker.asked == [
        f"set ssl cert {www} <<\n-----BEGIN\nwww\n-----END\n",
        f"commit ssl cert {www}",
        f"set ssl cert {api} <<\n-----BEGIN\napi\n-----END\n",
        f"commit ssl cert {api}",
    ]


@pytest.mark.parametrize("step", ["set", "commit"])
def test_one_that_is_refused_leaves_none_begun(listed: Path, step: str) -> None:
    api = listed.with_name("api.pem")
    worker = Worker(refuses=f"{step} ssl cert {api}")
    with pytest.raises(Failed, match=r"HAProxy did not renew api\.pem: Can't update it: no such thing"):
        asyncio.run(certificates.renew(worker.ask, listed))
    assert worker.asked[-2].startswith(f"{step} ssl cert {api}") and worker.asked[-1] == f"abort ssl cert {api}"


def test_one_that_is_not_there(listed: Path) -> None:
    listed.with_name("api.pem").unlink()
    with pytest.raises(Failed, match=r"api\.pem cannot be read"):
        asyncio.run(certificates.renew(Worker().ask, listed))


def test_what_the_worker_says_of_a_certificate() -> None:
    path = "/etc/fiefdom/gateway/certificates/www.pem"
    assert certificates.row(path, (RECORDED / "show_ssl_cert.txt").read_text()) == {
        "name": "www",
        "names": ["www.example.org", "*.api.example.org"],
        "ends": "2027-02-27T23:09:13Z",
    }
    early = "notAfter: Feb  7 23:09:13 2027 GMT\nSubject Alternative Name: \n"
    assert certificates.row(path, early) == {"name": "www", "names": [], "ends": "2027-02-07T23:09:13Z"}
    assert certificates.row(path, "Can't display the certificate: Not found or the certificate is a bundle!\n") is None


def test_a_worker_without_certificates_serves_with_none() -> None:
    async def ask(_: str) -> str:
        return "# filename\n\n"

    assert asyncio.run(certificates.served(ask)) == []
