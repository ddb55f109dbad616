"""Certificates beside an inventory and from secret sources: read once, and refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fiefdom.desired import gateway
from fiefdom.desired.context import Context
from fiefdom.errors import FiefdomError
from fiefdom.inventory import certificates, secret
from fiefdom.inventory.effective import as_data, effective
from fiefdom.inventory.read import load_written
from fiefdom.model import Cluster
from fiefdom.wording import dotted
from helpers.certificates import intermediate, issued
from helpers.inventories import TEXT, changed

KEY = {secret.VARIABLE: "dGVzdHMgb25seTogMzIgYnl0ZXMgb2Ygbm90aGluZyE="}
WWW = {"chain": "www.pem", "key": "www.key"}
ABOVE = "gateway.tls.certificates.www"


def cluster(folder: Path, of: dict[str, Any] | None = None, **changes: Any) -> Cluster:
    tls = {"certificates": {"www": of or WWW}}
    return Cluster.model_validate(changed({"gateway": {"tls": tls}, "base_dir": str(folder), **changes}))


def place(folder: Path, **of: Any) -> None:
    one = issued("www.example.org", intermediate(), **of)
    (folder / "www.pem").write_bytes(one.pem + intermediate().pem)
    (folder / "www.key").write_bytes(one.key)
    (folder / "www.key").chmod(0o600)


def told(found: Cluster) -> list[str]:
    return [f"{dotted(key)}: {says}" for key, says in certificates.problems(found)]


def refused(found: Cluster, **environ: str) -> str:
    with pytest.raises(FiefdomError) as error:
        secret.load(found, KEY | environ)
    assert "PRIVATE" not in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def test_files_are_read_as_they_are(tmp_path: Path) -> None:
    place(tmp_path)
    found = secret.load(cluster(tmp_path), KEY)
    assert found.contents == {path: (tmp_path / path).read_bytes() for path in WWW.values()}
    assert certificates.facts(cluster(tmp_path), found)["www"].names == ("www.example.org",)
    assert told(cluster(tmp_path)) == []


def test_a_key_may_come_from_a_secret_source(tmp_path: Path) -> None:
    place(tmp_path)
    key = (tmp_path / "www.key").read_text()
    of = {"chain": {"command": ["cat", "www.pem"]}, "key": {"env": "WWW_KEY"}}
    found = secret.load(cluster(tmp_path, of), KEY | {"WWW_KEY": key})
    assert sorted(found.contents.values()) == sorted([(tmp_path / "www.pem").read_bytes(), key.encode()])
    # Nobody runs a command to check an inventory.
    assert told(cluster(tmp_path, of)) == []
    other = issued("www.example.org").key.decode()
    says = f"{ABOVE}.key: the environment variable WWW_KEY is not the key of that certificate"
    assert refused(cluster(tmp_path, of), WWW_KEY=other).startswith(says)
    assert refused(cluster(tmp_path, of)) == (
        f"{ABOVE}.key: the environment variable WWW_KEY is not set; set it where Fiefdom runs"
    )


def test_what_is_wrong_is_told_with_its_key_and_file(tmp_path: Path) -> None:
    found = cluster(tmp_path)
    missing = f"there is no file {tmp_path}/www.pem; correct the path, which begins in the inventory's folder"
    assert refused(found) == f"{ABOVE}.chain: {missing}"
    assert len(told(found)) == 2
    place(tmp_path)
    (tmp_path / "www.key").chmod(0o640)
    says = f"others may read {tmp_path}/www.key (mode 0640); type: chmod 600 {tmp_path}/www.key"
    assert refused(found) == f"{ABOVE}.key: {says}" == told(found)[0]
    (tmp_path / "www.key").chmod(0o600)
    (tmp_path / "www.key").write_bytes(issued("www.example.org").key)
    says = f"{ABOVE}.key: www.key is not the key of that certificate; name the one that it was made with"
    assert told(found) == [says] and refused(found) == says
    (tmp_path / "www.pem").write_text("no PEM")
    says = f"{ABOVE}.chain: www.pem holds no certificate in PEM; it begins with -----BEGIN CERTIFICATE-----"
    assert told(found) == [says] and refused(found) == says


def test_who_touches_no_gateway_is_kept_from_nothing_by_a_certificate(tmp_path: Path) -> None:
    for of in (WWW, {"chain": "www.pem", "key": {"env": "UNSET"}}, {"chain": {"command": ["false"]}, "key": "no.key"}):
        found = cluster(tmp_path, of)
        seen = secret.load(found, KEY, certified=False)
        assert seen.contents == {} and certificates.facts(found, seen) == {}
        state = gateway.desired(Context("gw1", found, "trixie", seen))
        assert state.file(gateway.certificate_path("www")).content == b""


def test_a_host_that_no_certificate_is_for(tmp_path: Path) -> None:
    place(tmp_path, names=["www.example.org", "*.api.example.org"])
    for host, good in (("www.example.org", True), ("v1.api.example.org", True), ("example.org", False)):
        found = cluster(tmp_path, **{"services/web/route": {"host": host}})
        says = (
            f"services.web.route.host: no certificate of gateway.tls is for {host} (they are for www.example.org, "
            "*.api.example.org); add one that is"
        )
        assert told(found) == ([] if good else [says])
    plain = cluster(tmp_path, **{"services/web/route": {"host": "example.org", "port": 8080}})
    assert told(plain) == []


def test_an_expired_one_is_read_so_that_what_runs_can_be_looked_at(tmp_path: Path) -> None:
    place(tmp_path, days=-1, since_days=30)
    assert certificates.facts(cluster(tmp_path), secret.load(cluster(tmp_path), KEY))["www"].days_left(2e9) < 0


def test_config_shows_paths_and_where_secrets_come_from(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    tls = "gateway: {tls: {certificates: {www: {chain: tls/www.pem, key: {env: WWW_KEY}}}}}\n"
    path.write_text(TEXT + tls)
    found: Any = as_data(effective(*load_written(path)))["gateway"]
    shown = found["tls"]["certificates"]["www"]
    assert shown["chain"]["value"] == "tls/www.pem"
    assert shown["key"]["value"] == "***" and shown["key"]["source"].endswith("from the environment variable WWW_KEY")
