"""How fast a run with nothing to do is, against two things measured in the same minute.

`make bench` runs it on a converged lab and prints ratios:
- floor: `ssh HOST true` to every host in parallel, then a Python start that imports pyinfra; nothing that uses
  pyinfra over SSH can be faster;
- the hosts' own part: the same, with what an apply asks each host in place of `true`: its snapshot, then its gossip;
- Ansible: ansible-core from PyPI with pipelining and forks for every host, with a playbook that manages the same
  files, packages and units on the same hosts. It needs python3 on the hosts, which this script installs; the next
  `fiefdom lab down` takes it away again.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from fiefdom import inventory, lab
from fiefdom.cluster import gossip
from fiefdom.converge import snapshot
from fiefdom.desired import concerns
from fiefdom.desired.state import HostState
from fiefdom.inventory import secret
from fiefdom.model import Cluster

ROOT = Path(__file__).resolve().parents[1]
INVENTORY = "inventories/lab.yaml"
FIEFDOM = [str(Path(sys.executable).with_name("fiefdom"))]
FLOOR, ASKED = "ssh true + python -c 'import pyinfra'", "the same, with an apply's questions"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each; the median counts (default 5)")
    parser.add_argument("--no-ansible", action="store_true", help="leave the comparison with Ansible out")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # where it is set, each start would compile what it imports
    cluster = inventory.load(INVENTORY)
    names = list(cluster.hosts)
    apply = [*FIEFDOM, "apply", INVENTORY, "--yes"]
    _run(apply)  # converged, and everything is in the page cache
    with tempfile.TemporaryDirectory() as scratch:
        playbook = [] if options.no_ansible else _prepare_ansible(cluster, Path(scratch))
        questions = _questions(cluster)
        contenders: dict[str, Callable[[], None]] = {
            FLOOR: lambda: _floor(names),
            ASKED: lambda: _floor(names, questions),
            "fiefdom plan": lambda: _run([*FIEFDOM, "plan", INVENTORY]),
            "fiefdom apply": lambda: _run(apply),
        }
        if playbook:
            _run(playbook)
            contenders["ansible-playbook"] = lambda: _run(playbook)
        times = {name: _median(work, options.runs) for name, work in contenders.items()}
    floor, ours = times[FLOOR], times["fiefdom apply"]
    for name, seconds in times.items():
        print(f"{name:<40} {seconds:7.2f} s  {seconds / ours:6.2f} x fiefdom apply")
    print(f"\nno-op apply over the floor: {ours / floor:.2f} (1.3 is wanted)")
    print(f"... of which the hosts:     {times[ASKED] / floor:.2f}")
    if playbook:
        print(f"Ansible over no-op apply:   {times['ansible-playbook'] / ours:.1f} (at least 20)")


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(argv)} exited {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _median(work: Callable[[], None], runs: int) -> float:
    times = []
    for _ in range(runs):
        start = time.monotonic()
        work()
        times.append(time.monotonic() - start)
    return statistics.median(times)


def _floor(names: list[str], scripts: Mapping[str, str] | None = None) -> None:
    scripts = scripts or dict.fromkeys(names, "true")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    logins = {
        name: subprocess.Popen(lab.ssh_argv(name, ["sh", "-s"]), stdin=subprocess.PIPE, **quiet) for name in names
    }
    for name, login in logins.items():
        assert login.stdin is not None
        login.stdin.write(scripts[name].encode())
        login.stdin.close()
    if any(login.wait() for login in logins.values()):
        sys.exit("ssh failed")
    _run([sys.executable, "-c", "import pyinfra, pyinfra.api, pyinfra.connectors.ssh"])


def _questions(cluster: Cluster) -> dict[str, str]:
    """What an apply that finds nothing to do asks each host, as one script."""
    secrets = secret.load(cluster)
    found = {}
    for name in cluster.hosts:
        query = snapshot.query_of(concerns.states_of(cluster, name, secrets))
        looks = shlex.join(["printf", "%s", query]) + " | " + shlex.join(["sh", "-c", snapshot.SCRIPT, "", ""])
        about = gossip.question(cluster, name, cluster.app_hosts, cluster.gateways, 0)
        asks = shlex.join(["sh", "-c", gossip.SCRIPT, "", *about])
        found[name] = f"{looks}\n{asks}\n"
    return found


def _prepare_ansible(cluster: Cluster, scratch: Path) -> list[str]:
    """The command that runs a playbook equivalent to the lab's inventory."""
    environment = ROOT / ".bench-venv"
    ansible = environment / "bin" / "ansible-playbook"
    if not ansible.exists():
        venv.create(environment, with_pip=True)
        _run([str(environment / "bin" / "pip"), "install", "--quiet", "ansible-core"])
    for name in cluster.hosts:
        _run(lab.ssh_argv(name, ["apt-get", "-qq", "install", "-y", "python3", "python3-apt"]))
    secrets = secret.load(cluster)
    for host in lab.status():
        if host.name in cluster.hosts:
            codename = "bookworm" if host.release == "bookworm" else "trixie"
            state = concerns.states_of(cluster, host.name, secrets)[codename]
            tasks = _tasks(state, scratch / host.name)
            (scratch / f"{host.name}.yml").write_text(yaml.safe_dump(tasks, sort_keys=False))
    # The free strategy lets every host go at its own pace, which is the fastest that Ansible has.
    include = {"ansible.builtin.include_tasks": f"{scratch}/{{{{ inventory_hostname }}}}.yml"}
    play = {"hosts": "all", "gather_facts": False, "strategy": "free", "tasks": [include]}
    (scratch / "site.yml").write_text(yaml.safe_dump([play], sort_keys=False))
    (scratch / "hosts").write_text(
        "".join(f"{name} ansible_python_interpreter=/usr/bin/python3\n" for name in cluster.hosts)
    )
    (scratch / "ansible.cfg").write_text(
        f"[defaults]\nforks = 20\ninventory = {scratch}/hosts\ngathering = explicit\n"
        f"[ssh_connection]\npipelining = True\nssh_args = -F {lab.lab_root()}/ssh_config"
        f" -o ControlMaster=auto -o ControlPersist=60s -o ControlPath={scratch}/cm-%h\n"
    )
    return ["env", f"ANSIBLE_CONFIG={scratch}/ansible.cfg", str(ansible), str(scratch / "site.yml")]


def _tasks(state: HostState, folder: Path) -> list[dict[str, object]]:
    folder.mkdir()
    tasks: list[dict[str, object]] = [
        {"ansible.builtin.apt": {"name": [p.name for p in state.packages], "state": "present"}}
    ]
    for directory in state.directories:
        mode = f"{directory.mode:04o}"
        tasks.append({"ansible.builtin.file": {"path": directory.path, "state": "directory", "mode": mode}})
    for number, file in enumerate(state.files):
        source = folder / str(number)
        source.write_bytes(file.content)
        owner = {"owner": str(file.uid), "group": str(file.gid), "mode": f"{file.mode:04o}"}
        tasks.append({"ansible.builtin.copy": {"src": str(source), "dest": file.path, **owner}})
    for unit in state.units:
        if unit.active:
            tasks.append({"ansible.builtin.systemd_service": {"name": unit.name, "enabled": True, "state": "started"}})
    return tasks


if __name__ == "__main__":
    main()
