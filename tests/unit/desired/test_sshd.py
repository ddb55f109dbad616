"""The sshd concern by value."""

import pytest
from ssh_audit.builtin_policies import BUILTIN_POLICIES

from fiefdom.desired import sshd
from fiefdom.desired.state import CODENAMES, Codename
from fiefdom.errors import FiefdomError
from helpers.example import context


def settings(host: str = "app1", codename: Codename = "bookworm", **ssh: object) -> dict[str, str]:
    """Keywords of the drop-in; of those that stand twice the last."""
    text = sshd.desired(context(host, codename, ssh=ssh)).file(sshd.CONFIG).content.decode()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split(" ", 1) for line in lines)


@pytest.mark.parametrize("codename", CODENAMES)
def test_keys_only(codename: Codename) -> None:
    found = settings(codename=codename)
    assert found["PubkeyAuthentication"] == "yes"
    for way in ("Password", "KbdInteractive", "Hostbased", "Kerberos", "GSSAPI"):
        assert found[f"{way}Authentication"] == "no"


@pytest.mark.parametrize("codename", CODENAMES)
def test_pyinfras_ssh_client_finds_a_key_exchange(codename: Codename) -> None:
    # paramiko 4 knows no post-quantum one; without these two Fiefdom locks itself out.
    assert {"curve25519-sha256", "curve25519-sha256@libssh.org"} <= set(
        settings(codename=codename)["KexAlgorithms"].split(",")
    )


@pytest.mark.parametrize("codename", CODENAMES)
def test_nothing_weak_is_offered(codename: Codename) -> None:
    offered = " ".join(name for names in sshd.COMPAT[codename].values() for name in names)
    for weak in ("sha1", "nistp", "diffie-hellman", "umac-64", "cbc", "ssh-rsa,", "ecdsa"):
        assert weak not in offered


def test_keywords_that_debian_12_does_not_know_are_left_out() -> None:
    assert "PerSourcePenaltyExemptList" not in settings(codename="bookworm")
    assert settings(codename="trixie")["PerSourcePenaltyExemptList"] == "192.0.2.7/32,10.9.0.0/16"
    assert "mlkem768x25519-sha256" not in settings(codename="bookworm")["KexAlgorithms"]


@pytest.mark.parametrize("codename", CODENAMES)
def test_pq_offers_what_ssh_audits_policy_of_this_debian_lists(codename: Codename) -> None:
    name = {"bookworm": "Hardened Debian 12 (version 3)", "trixie": "Hardened Debian 13 (version 1)"}[codename]
    policy = BUILTIN_POLICIES[name]
    found = settings(codename=codename, crypto="pq")
    # What sshd announces by itself is no algorithm.
    kex = [k for k in policy["kex"] if not k.startswith(("kex-strict-", "ext-info-"))]
    assert found["KexAlgorithms"].split(",") == kex
    assert found["Ciphers"].split(",") == policy["ciphers"]
    assert found["MACs"].split(",") == policy["macs"]


def test_pq_makes_its_own_keys_before_sshd_reads_them() -> None:
    state = sshd.desired(context(ssh={"crypto": "pq"}))
    assert [u.name for u in state.units] == [sshd.KEYS_UNIT, "ssh.service"]
    text = state.file(f"/etc/systemd/system/{sshd.KEYS_UNIT}").content.decode()
    assert "Before=ssh.service" in text
    assert f'-b 4096 -N "" -C "" -f {sshd.RSA_KEY}' in text
    found = settings(crypto="pq")
    assert found["HostKey"] == sshd.RSA_KEY
    assert found["ModuliFile"] == sshd.MODULI in text
    # It has no group exchange.
    trixie = sshd.desired(context(codename="trixie", ssh={"crypto": "pq"}))
    assert not any(sshd.MODULI.encode() in f.content for f in trixie.files)


@pytest.mark.parametrize("crypto", ["compat", "pq"])
def test_who_knows_the_host_by_its_ed25519_key_goes_on_knowing_it(crypto: str) -> None:
    text = sshd.desired(context(ssh={"crypto": crypto})).file(sshd.CONFIG).content.decode()
    keys = [line.split()[1] for line in text.splitlines() if line.startswith("HostKey ")]
    assert keys[0] == "/etc/ssh/ssh_host_ed25519_key"
    assert len(keys) == 2


def test_the_port_is_the_hosts() -> None:
    assert settings("app1")["Port"] == "2222"
    assert settings("app2")["Port"] == "22"


def test_an_address_to_listen_at_may_come_later_than_sshd() -> None:
    """Debian's unit gives up for good where sshd ends with 255, as it does for an address that is not there yet."""
    calm = sshd.desired(context())
    patient = sshd.desired(context(hosts={"app1": {"ssh": {"listen": ["10.1.0.21"]}}}))
    assert not [f for f in calm.files if f.path == sshd.UNIT_DROP_IN]
    lines = patient.file(sshd.UNIT_DROP_IN).content.decode().splitlines()
    assert {"RestartPreventExitStatus=", "StartLimitIntervalSec=0"} <= set(lines)


def test_operators_keys_are_added_to_each_login_users_own() -> None:
    state = sshd.desired(context("app1"))
    keys = [f for f in state.files if f.path.startswith(sshd.KEYS_DIR)]
    assert [f.path.rpartition("/")[2] for f in keys] == ["operator", "root"]
    assert all((f.mode, f.uid) == (0o644, 0) for f in keys)
    assert settings("app1")["AuthorizedKeysFile"] == f".ssh/authorized_keys {sshd.KEYS_DIR}/%u"


def test_without_operators_keys_there_is_no_file() -> None:
    state = sshd.desired(context(ssh={"authorized_keys": []}))
    assert [f.path for f in state.files] == [sshd.CONFIG]
    assert settings(authorized_keys=[])["AuthorizedKeysFile"] == ".ssh/authorized_keys"


def test_root_may_be_shut_out_where_fiefdom_logs_in_as_somebody_else() -> None:
    assert settings("app1")["PermitRootLogin"] == "prohibit-password"
    assert settings("app1", permit_root=False)["PermitRootLogin"] == "no"
    state = sshd.desired(context("app1", ssh={"permit_root": False}))
    assert f"{sshd.KEYS_DIR}/root" not in {f.path for f in state.files}


def test_it_does_not_saw_off_the_branch_it_sits_on() -> None:
    with pytest.raises(FiefdomError, match=r"ssh\.permit_root: false would lock root out"):
        sshd.desired(context("app2", ssh={"permit_root": False}))


def test_a_change_is_checked_and_reloaded() -> None:
    state = sshd.desired(context())
    assert state.file(sshd.CONFIG).check == ("sshd", sshd.CONFIG, "{}")
    (unit,) = state.units
    assert (unit.name, unit.on_change) == ("ssh.service", ("reload",))


@pytest.mark.parametrize(
    ("cluster", "host", "sshd_says"),
    [
        (None, None, "no"),
        ("all", None, "yes"),
        (None, "local", "local"),
        ("all", "none", "no"),
    ],
)
def test_what_sshd_forwards_is_the_clusters_or_the_hosts_own(
    cluster: str | None, host: str | None, sshd_says: str
) -> None:
    own = {"app1": {"ssh": {"tcp_forwarding": host}}}
    made = context("app1", ssh={"tcp_forwarding": cluster}, hosts=own)
    text = sshd.desired(made).file(sshd.CONFIG).content.decode()
    assert f"\nAllowTcpForwarding {sshd_says}\n" in text
