"""Ways to real sshds on this machine: jump hosts, ~/.ssh/config, agents, encrypted keys, certificates of hosts."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers import forked, sshds
from helpers.inventories import changed
from helpers.sshds import Sshd, keygen, sshd

pytestmark = pytest.mark.skipif(bool(sshds.missing()), reason=sshds.missing() or "-")

# In a process of its own: engine patches the standard library for everything that is imported after it.
LOGIN = """
import json, sys
import fiefdom.engine
from fiefdom.engine.session import Session
from fiefdom.model import Cluster
cluster = Cluster.model_validate(json.loads(sys.argv[1]))
with Session(cluster, tuple(sys.argv[2:]), looks=True) as session:
    for name in sys.argv[2:]:
        print(session.silent.get(name) or session.shell(name, ["echo", "in"])[1])
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's home, empty, and no agent."""
    found = tmp_path / "home"
    (found / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(found))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return found


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return keygen(tmp_path / "key")


@pytest.fixture
def server(tmp_path: Path, key: Path) -> Iterator[Sshd]:
    """An sshd that takes three keys of a client, as Fiefdom's own do."""
    with sshd(tmp_path / "a", [key], ["MaxAuthTries 3"]) as found:
        (tmp_path / "known").write_text(f"{found.known_as} {found.host_key()}\n")
        yield found


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An agent without keys."""
    socket = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    while not socket.exists():
        assert process.poll() is None
    yield
    process.terminate()
    process.wait()


def ssh_add(*keys: Path) -> None:
    subprocess.run(["ssh-add", "-q", *map(str, keys)], check=True, stdin=subprocess.DEVNULL)


def log_in(tmp_path: Path, hosts: Mapping[str, Mapping[str, Any]], **ssh: Any) -> list[str]:
    """For each of ``hosts``, which have these SSH settings: "in", or why not."""
    cluster = changed({f"hosts/{name}/ssh": dict(own) for name, own in hosts.items()})
    cluster["ssh"] = {"known_hosts": str(tmp_path / "known"), **ssh}
    done = forked.run(LOGIN, json.dumps(cluster), *hosts, timeout_s=60)
    assert done.stderr == ""
    return done.stdout.splitlines()


def at(server: Sshd, **ssh: Any) -> dict[str, Any]:
    return {"address": "127.0.0.1", "port": server.port, "user": sshds.USER, **ssh}


@pytest.mark.long
def test_hosts_behind_a_jump_host_share_one_connection_to_it(tmp_path: Path, key: Path, server: Sshd) -> None:
    with sshd(tmp_path / "b", [key]) as b, sshd(tmp_path / "c", [key]) as c:
        lines = [f"{each.known_as} {each.host_key()}\n" for each in (server, b, c)]
        (tmp_path / "known").write_text("".join(lines))
        hosts = {
            "gw1": at(server, tcp_forwarding="local"),
            "app1": at(b, jump="gw1"),
            "app2": at(c, jump="gw1"),
        }
        assert log_in(tmp_path, hosts, key=str(key)) == ["in"] * 3
    # One of its own, and one for both.
    assert server.said().count("Accepted publickey") == 2


def test_a_jump_host_that_does_not_forward_is_named(tmp_path: Path, key: Path) -> None:
    with sshd(tmp_path / "b", [key], ["AllowTcpForwarding no"]) as bastion:
        (tmp_path / "known").write_text(f"{bastion.known_as} {bastion.host_key()}\n")
        jump = f"{sshds.USER}@127.0.0.1:{bastion.port}"
        Path(os.environ["HOME"], ".ssh", "id_ed25519").symlink_to(key)
        (said,) = log_in(tmp_path, {"app1": {"address": "127.0.0.1", "port": 22, "jump": jump}})
    assert said.startswith(f"the jump host {jump} may not forward to 127.0.0.1:22; its sshd needs ")


@pytest.mark.long
@pytest.mark.skipif(bool(sshds.missing_ipv6()), reason=sshds.missing_ipv6() or "-")
def test_a_jump_host_at_an_ipv6_address(tmp_path: Path, home: Path, key: Path, server: Sshd) -> None:
    """By the inventory, however the address is written, and by ~/.ssh/config; known_hosts has it in one way."""
    (home / ".ssh" / "id_ed25519").symlink_to(key)
    with sshd(tmp_path / "b", [key], address="::1") as bastion:
        assert bastion.known_as == f"[::1]:{bastion.port}"
        with (tmp_path / "known").open("a") as known:
            known.write(f"{bastion.known_as} {bastion.host_key()}\n")
        hosts = {"app1": at(server, jump=f"[::1]:{bastion.port}"), "app2": at(server)}
        hosts["app2"]["jump"] = f"{sshds.USER}@[0:0::0001]:{bastion.port}"
        assert log_in(tmp_path, hosts) == ["in", "in"]
        assert bastion.said().count("Accepted publickey") == 2
        inner = f"Host inner\n  HostName 127.0.0.1\n  Port {server.port}\n  User {sshds.USER}\n"
        (home / ".ssh" / "config").write_text(f"{inner}  ProxyJump {sshds.USER}@[::1]:{bastion.port}\n")
        assert log_in(tmp_path, {"app1": {"address": "inner"}}) == ["in"]
        assert bastion.said().count("Accepted publickey") == 3
    jump = hosts["app1"]["jump"]
    (said,) = log_in(tmp_path, {"app1": hosts["app1"]})
    assert said.startswith(f"the jump host {jump} lets nobody through: Could not connect to {jump} (")


@pytest.mark.long
def test_the_operators_configuration_names_address_user_port_key_and_jump(
    tmp_path: Path, home: Path, key: Path, server: Sshd
) -> None:
    with sshd(tmp_path / "b", [key]) as behind:
        (tmp_path / "known").write_text(
            f"{server.known_as} {server.host_key()}\n{behind.known_as} {behind.host_key()}\n"
        )
        (home / ".ssh" / "config").write_text(
            f"Host inner\n  HostName 127.0.0.1\n  Port {behind.port}\n  ProxyJump bastion\n"
            f"Host bastion\n  HostName 127.0.0.1\n  Port {server.port}\n"
            f"Host *\n  User {sshds.USER}\n  IdentityFile {key}\n  ProxyJump bastion\n"
        )
        assert log_in(tmp_path, {"app1": {"address": "inner"}}) == ["in"]
        # What the inventory says comes first.
        (said,) = log_in(tmp_path, {"app1": {"address": "inner", "user": "somebody"}})
        assert said.startswith("Authentication error as somebody at 127.0.0.1:")
        assert said.endswith(" through bastion: no key of yours is let in")


@pytest.mark.long
def test_a_command_of_the_operators_leads_to_a_host(tmp_path: Path, home: Path, key: Path, server: Sshd) -> None:
    with sshd(tmp_path / "b", [key]) as behind:
        with (tmp_path / "known").open("a") as known:
            known.write(f"{behind.known_as} {behind.host_key()}\n")
        command = f"ssh -F none -i {key} -o UserKnownHostsFile={tmp_path}/known -p {server.port} -W %h:%p 127.0.0.1"
        config = f"Host inner\n  HostName 127.0.0.1\n  Port {behind.port}\n  ProxyCommand {command}\n"
        (home / ".ssh" / "config").write_text(config)
        inner = {"address": "inner", "user": sshds.USER}
        assert log_in(tmp_path, {"app1": inner}, key=str(key)) == ["in"]
        assert server.said().count("Accepted publickey") == 1
        # It would lead to the port that the configuration has.
        (said,) = log_in(tmp_path, {"app1": inner | {"port": 2222}}, key=str(key))
        assert said == (
            f"inner: the ProxyCommand of ~/.ssh/config leads to port {behind.port}, and 2222 is wanted; write "
            "`Port 2222` beside it"
        )


@pytest.mark.long
def test_an_agent_with_many_keys_finds_the_one(tmp_path: Path, agent: None, key: Path, server: Sshd) -> None:
    """Although the host hears three of a connection, and for other hosts it is the first then."""
    ssh_add(*(keygen(tmp_path / f"other{n}") for n in range(7)), key)
    with sshd(tmp_path / "b", [key], ["MaxAuthTries 3"]) as b:
        with (tmp_path / "known").open("a") as known:
            known.write(f"{b.known_as} {b.host_key()}\n")
        assert log_in(tmp_path, {"gw1": at(server), "app1": at(b)}) == ["in"] * 2
        refused = (server.said() + b.said()).count("maximum authentication attempts exceeded")
        assert refused == 2
    # A key that is named is the only one, its public half will do, and nobody has to be asked for what an agent has.
    key.unlink()
    before = server.said()
    assert log_in(tmp_path, {"gw1": at(server)}, key=f"{key}.pub") == ["in"]
    assert "Failed publickey" not in server.said()[len(before) :]


@pytest.mark.long
def test_an_encrypted_key_is_the_agents_or_wants_a_terminal(tmp_path: Path, agent: None) -> None:
    locked = keygen(tmp_path / "locked", "ed25519", "open sesame")
    with sshd(tmp_path / "b", [locked]) as b:
        (tmp_path / "known").write_text(f"{b.known_as} {b.host_key()}\n")
        (said,) = log_in(tmp_path, {"gw1": at(b)}, key=str(locked))
        assert said == (
            f"Authentication error as {sshds.USER} at 127.0.0.1:{b.port}: {locked}: is encrypted, and there is no "
            f"terminal to ask on: `ssh-add {locked}` first"
        )
        opened = tmp_path / "opened"
        opened.write_bytes(locked.read_bytes())
        opened.chmod(0o600)
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "open sesame", "-N", "", "-f", str(opened)], check=True)
        ssh_add(opened)
        Path(f"{locked}.pub").unlink()  # the file itself says which it is
        assert log_in(tmp_path, {"gw1": at(b)}, key=str(locked)) == ["in"]


@pytest.mark.long
def test_a_passphrase_is_asked_for_once_for_all_hosts(tmp_path: Path) -> None:
    locked = keygen(tmp_path / "locked", "ed25519", "open sesame")
    program = f"""
import getpass, sys
asked = []
sys.stdin.isatty = sys.stderr.isatty = lambda: True
getpass.getpass = lambda *_, **__: asked.append(1) or "open sesame"
{LOGIN}
print(len(asked))
"""
    with sshd(tmp_path / "b", [locked]) as b, sshd(tmp_path / "c", [locked]) as c:
        (tmp_path / "known").write_text("".join(f"{e.known_as} {e.host_key()}\n" for e in (b, c)))
        cluster = changed({"hosts/gw1/ssh": at(b), "hosts/app1/ssh": at(c)})
        cluster["ssh"] = {"known_hosts": str(tmp_path / "known"), "key": str(locked)}
        done = forked.run(program, json.dumps(cluster), "gw1", "app1", timeout_s=60)
    assert (done.stdout.splitlines(), done.stderr) == (["in", "in", "1"], "")


@pytest.mark.long
def test_a_host_that_knows_nobody_and_one_that_nobody_knows(tmp_path: Path, key: Path, server: Sshd) -> None:
    (said,) = log_in(tmp_path, {"gw1": at(server)}, key=str(keygen(tmp_path / "other")))
    assert said == f"Authentication error as {sshds.USER} at 127.0.0.1:{server.port}: no key of yours is let in"
    (tmp_path / "known").write_text("")
    (said,) = log_in(tmp_path, {"gw1": at(server)}, key=str(key))
    assert said.startswith(f"SSH host key error: the host key of {server.known_as} (ssh-ed25519 SHA256:")
    assert said.endswith(") is not known; `fiefdom trust` shows and keeps the keys of new hosts")
    other = keygen(tmp_path / "another")
    (tmp_path / "known").write_text(f"\n{server.known_as} {' '.join(Path(f'{other}.pub').read_text().split()[:2])}\n")
    (said,) = log_in(tmp_path, {"gw1": at(server)}, key=str(key))
    assert f"is not the one in {tmp_path}/known line 2; " in said
    assert f"`ssh-keygen -R '{server.known_as}' -f {tmp_path}/known`" in said


@pytest.mark.parametrize(
    ("line", "comes_in"),
    [
        ("{name} {ecdsa}", True),  # the one that is known, although the host has a better one
        ("*,!{name} {ed25519}", False),
        ("[127.0.*]:* {ed25519}", True),
        ("@revoked * {ed25519}\n{name} {ed25519}", False),
        ("# {name} {ed25519}", False),
    ],
)
def test_known_hosts_is_read_as_openssh_reads_it(tmp_path: Path, key: Path, line: str, comes_in: bool) -> None:
    with sshd(tmp_path / "b", [key], kinds=("ed25519", "ecdsa")) as b:
        text = line.format(name=b.known_as, ed25519=b.host_key(), ecdsa=b.host_key("ecdsa"))
        (tmp_path / "known").write_text(f"{text}\n")
        assert (log_in(tmp_path, {"gw1": at(b)}, key=str(key)) == ["in"]) is comes_in


@pytest.mark.long
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_hosts_certificate_is_worth_what_its_ca_and_it_say(tmp_path: Path, key: Path, kind: str) -> None:
    ca, other = keygen(tmp_path / "ca", kind), keygen(tmp_path / "other", kind)
    trusted = " ".join(Path(f"{ca}.pub").read_text().split()[:2])
    (tmp_path / "known").write_text(f"@cert-authority [127.0.0.1]:*,127.0.0.* {trusted}\n")
    folder = tmp_path / "b"
    with sshd(folder, [key], [f"HostCertificate {folder}/host_{kind}-cert.pub"], [kind]) as b:

        def signed(*options: str, by: Path = ca) -> str:
            argv = ["ssh-keygen", "-q", "-s", str(by), "-I", "b", *options, str(folder / f"host_{kind}.pub")]
            subprocess.run(argv, check=True, capture_output=True)
            # It reads its files anew for every connection.
            return log_in(tmp_path, {"gw1": at(b)}, key=str(key))[0]

        assert signed("-h", "-n", "127.0.0.1") == "in"
        assert "is for app9; have one signed for 127.0.0.1" in signed("-h", "-n", "app9")
        assert "is not valid at this time" in signed("-h", "-n", "127.0.0.1", "-V", "20200101:20200102")
        assert "is of a CA that known_hosts does not have" in signed("-h", "-n", "127.0.0.1", by=other)


def trust(tmp_path: Path, hosts: Mapping[str, Mapping[str, Any]], *options: str) -> tuple[int, list[str], str]:
    """Exit code, states by host, and what was asked, of `fiefdom trust`."""
    cluster = changed({f"hosts/{name}/ssh": dict(own) for name, own in hosts.items()})
    cluster["ssh"] = {"known_hosts": str(tmp_path / "known"), "key": str(tmp_path / "key")}
    (tmp_path / "inventory.yaml").write_text(yaml.safe_dump(cluster, sort_keys=False))
    done = forked.fiefdom("trust", str(tmp_path / "inventory.yaml"), *hosts, "--json", *options)
    found = json.loads(done.stdout)
    shown = found.get("hosts", [found])
    return done.returncode, [f"{each.get('name')} {each.get('state')}" for each in shown], done.stderr


@pytest.mark.long
def test_keys_of_new_hosts_are_shown_and_kept_jump_hosts_first(tmp_path: Path, key: Path, server: Sshd) -> None:
    known = tmp_path / "known"
    with sshd(tmp_path / "b", [key]) as b:
        # A file whose names are hashed gets another hashed one, and stays who may read it.
        known.write_text("|1|AAAAAAAAAAAAAAAAAAAAAAAAAAA=|AAAAAAAAAAAAAAAAAAAAAAAAAAA= ssh-ed25519 AAAA")
        known.chmod(0o640)
        hosts = {"app1": at(b, jump="gw1"), "gw1": at(server, tcp_forwarding="local")}
        code, _, said = trust(tmp_path, hosts)
        assert code == 1 and "no terminal to ask on" in said
        code, states, said = trust(tmp_path, hosts, "--yes")
        assert (code, states) == (0, ["gw1 trusted", "app1 trusted"])
        printed = subprocess.run(
            ["ssh-keygen", "-lf", str(b.folder / "host_ed25519.pub")], capture_output=True, text=True, check=True
        )
        assert f"app1 at 127.0.0.1:{b.port} through gw1 shows ssh-ed25519 {printed.stdout.split()[1]}" in said
        lines = known.read_text().splitlines()
        assert len(lines) == 3 and all(line.startswith("|1|") for line in lines)
        assert known.stat().st_mode & 0o777 == 0o640
        found = subprocess.run(
            ["ssh-keygen", "-F", b.known_as, "-f", str(known)], capture_output=True, text=True, check=True
        )
        assert b.host_key() in found.stdout
        assert trust(tmp_path, hosts)[0] == 1
        assert trust(tmp_path, hosts, "--yes")[:2] == (0, ["gw1 known", "app1 known"])
        assert log_in(tmp_path, hosts, key=str(key)) == ["in", "in"]


def test_a_key_that_is_another_than_the_known_one_is_not_taken(tmp_path: Path, key: Path, server: Sshd) -> None:
    other = " ".join(Path(f"{key}.pub").read_text().split()[:2])
    (tmp_path / "known").write_text(f"{server.known_as} {other}\n")
    hosts = {"gw1": at(server), "app1": at(server) | {"address": "127.0.0.9", "port": 1}}
    assert trust(tmp_path, hosts, "--yes")[:2] == (1, ["gw1 refused", "app1 silent"])
    assert (tmp_path / "known").read_text() == f"{server.known_as} {other}\n"


def test_an_answer_at_another_port_than_wanted_names_both(tmp_path: Path, key: Path) -> None:
    (said,) = log_in(tmp_path, {"gw1": {"address": "127.0.0.9", "port": 2222}}, key=str(key))
    assert said.startswith("Could not connect to 127.0.0.9:2222 (Connection refused); ")
    assert "at port 22, where a new host is" in said
