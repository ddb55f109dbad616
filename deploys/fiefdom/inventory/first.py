"""The first inventory of a cluster and what belongs beside it, made of a person's answers: values in, texts out."""

from __future__ import annotations

import ipaddress
import json
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from fiefdom import RELEASE
from fiefdom.errors import FiefdomError
from fiefdom.files import NewFile
from fiefdom.inventory import reference, secret
from fiefdom.inventory.complaint import mistakes_of
from fiefdom.inventory.written import Written
from fiefdom.model import Cluster
from fiefdom.wording import KeyPath, dotted

Ci = Literal["github", "gitlab", "none"]
CI: tuple[Ci, ...] = ("github", "gitlab", "none")
IGNORED = "/secrets/"
"""The line of .gitignore that keeps gossip keys out."""
SCHEMA = "schema/fiefdom.schema.json"
_IGNORE = ".gitignore"

_WIDEST = 8
"""Bits of the widest network that hosts share: 10.0.0.0/8."""

Answers = Mapping[str, Any]
"""What an inventory says, by its own keys."""


def complaint(answers: Answers, key: KeyPath) -> str | None:
    """What the model has against the answer at ``key``, now that others are there; None where it is possible.

    What is yet to be answered is no mistake.
    """
    try:
        Cluster.model_validate(answers)
    except ValidationError as error:
        for mistake in mistakes_of(error, Written(dict(answers), {})):
            if not _is_answered(answers, mistake.key):
                continue
            if mistake.key[: len(key)] == key:
                inner = mistake.key[len(key) :]
                return f"{dotted(inner)}: {mistake.says}" if inner and not key else mistake.says
    return None


def _is_answered(answers: Answers, key: KeyPath) -> bool:
    found: Any = answers
    for part in key:
        if isinstance(found, dict) and part not in found:
            return False
        found = found[part]
    return True


def network_around(addresses: Iterable[str]) -> str | None:
    """The smallest network, and none smaller than /24, that all of some addresses lie in; None for what is no network
    of anybody's.
    """
    found = [ipaddress.IPv4Address(address) for address in addresses]
    network = ipaddress.IPv4Network((found[0], 24), strict=False)
    while not all(address in network for address in found):
        network = network.supernet()
    return str(network) if network.prefixlen >= _WIDEST else None


def inventory_path(cluster: str) -> str:
    """Where the inventory of that name is written."""
    return f"inventories/{cluster}.yaml"


def key_path(cluster: str) -> str:
    """Where the gossip key of the cluster of that name is written."""
    return f"secrets/{cluster}.gossip.key"


def workflow_path(ci: Ci, cluster: str) -> str:
    """Where a CI looks for what it runs. GitHub's takes a file of each cluster, GitLab's has one for all."""
    return {"github": f".github/workflows/fiefdom-{cluster}.yml", "gitlab": ".gitlab-ci.yml"}[ci]


def files_of(folder: Path, answers: Answers, ci: Ci) -> tuple[NewFile, ...]:
    """All files of a cluster's first day, less those that are there already just so; the inventory comes last.

    What clusters in one folder do not share has the cluster's name in its own.

    Raises:
        FiefdomError: ``folder`` has a .gitignore that would not keep the gossip key out.
    """
    cluster: str = answers["cluster"]
    path = inventory_path(cluster)
    own = "another cluster has another name; say it with --cluster"
    wanted = [NewFile(key_path(cluster), f"{secret.new_key()}\n".encode(), 0o600, mend=own)]
    if not _is_ignored(folder / _IGNORE):
        wanted.append(NewFile(_IGNORE, _ignore_text().encode()))
    renew = f"it is another version's; `fiefdom schema >{shlex.quote(str(folder / SCHEMA))}` makes it this one's"
    schema = NewFile(SCHEMA, reference.schema_text().encode(), mend=renew)
    if not _is_there(folder / SCHEMA, schema.content):
        wanted.append(schema)
    if ci != "none":
        mend = "say --ci none, which leaves it out"
        if ci == "gitlab":
            mend += ", and add jobs for this cluster to it"
        wanted.append(NewFile(workflow_path(ci, cluster), workflow_text(ci, answers).encode(), mend=mend))
    wanted.append(NewFile(f"{path.removesuffix('.yaml')}.py", _PYTHON.encode(), mend=own))
    wanted.append(NewFile(path, inventory_text(answers).encode(), mend=own))
    return tuple(wanted)


def repository_above(folder: Path) -> Path | None:
    """The Git repository that ``folder`` is beneath the top of, where CI looks for no workflow; None at a top."""
    folder = folder.resolve()
    found = next((each for each in (folder, *folder.parents) if os.path.lexists(each / ".git")), folder)
    return None if found == folder else found


def _is_there(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def _is_ignored(path: Path) -> bool:
    """Whether a .gitignore is there that keeps the key out. Raises FiefdomError for one that does not."""
    if not os.path.lexists(path):
        return False
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    if not {IGNORED, IGNORED[1:]} & {line.strip() for line in lines}:
        raise FiefdomError(
            f"{path}: is there already and stays as it is; nothing was written: add the line {IGNORED} to it, which "
            "keeps the gossip key out of the repository, and run this again"
        )
    return True


def _ignore_text() -> str:
    return f"""\
# The gossip key, and whatever else nobody else is to have.
{IGNORED}
/.fiefdom-new/
__pycache__/
.venv/
"""


_PYTHON = """\
from fiefdom.inventory import groups_beside

globals().update(groups_beside(__file__))
"""


def inventory_text(answers: Answers) -> str:
    """The inventory as a person reads it, with a word on each key; what it says is ``answers``."""
    network, ssh = answers["network"], answers["ssh"]
    (name, service), *_ = answers["services"].items()
    hosts = "\n".join(
        f"  {_scalar(host)}: {{address: {own['address']}, groups: [{', '.join(own['groups'])}]}}"
        for host, own in answers["hosts"].items()
    )
    admins = "\n".join(f"    - {cidr}" for cidr in network["admin_cidrs"])
    key = (
        f"  key: {_scalar(ssh['key'])}" if "key" in ssh else "  # key: ~/.ssh/id_ed25519 # else your agent's, or ~/.ssh"
    )
    base, count = service.get("base_port", 8000), service["instances"]
    ports = f"ports {base} to {base + count - 1}" if count > 1 else f"port {base}"
    return f"""\
# yaml-language-server: $schema=../{SCHEMA}
# Made by `fiefdom init`, and yours from here on. Every key: `fiefdom docs`. `fiefdom check` tells its mistakes.
cluster: {_scalar(answers["cluster"])}

network:
  cidr: {network["cidr"]} # every host's address; gossip and instances are reachable from here only
  admin_cidrs: # who may use SSH once it is applied, and nobody else: you, and the runner of your CI
{admins}
  # client_cidrs: [10.30.0.0/16] # who may send requests to the gateways; the cluster's own network when left out

ssh:
  user: {_scalar(ssh["user"])} # root, or a user with passwordless sudo
{key}
  known_hosts: {ssh["known_hosts"]} # `fiefdom trust` fills it; commit it, for CI has no other

serf:
  # Keep a copy of it, and never commit it: .gitignore keeps it out. FIEFDOM_GOSSIP_KEY comes first, which CI sets.
  key_file: {answers["serf"]["key_file"]}

hosts:
{hosts}

services:
  # The gateways answer for it at port 80.
  {_scalar(name)}:
    image: {_scalar(service["image"])}
    version: {_scalar(service["version"])}
    # Without `registry: {{server: ...}}` above, the image is your machine's own, and travels to the hosts over SSH.
    # build: ../images/{name} # a folder with a Dockerfile, from which your machine builds it
    instances: {count} # on each app host: {ports}
    container_port: {service["container_port"]} # what the process listens on in its container
    health: {{path: {json.dumps(service["health"]["path"])}}} # answers 200 to 399 once an instance can serve
    # environment: {{LOG_LEVEL: info}}
    # limits: {{memory_mib: 512, cpus: 1, pids: 256}}
"""


def _scalar(text: str) -> str:
    """``text`` as YAML reads it back: in quotes where it would be a number, a comment or something else."""
    try:
        plain = yaml.safe_load(f"key: {text} # words") == {"key": text}
    except yaml.YAMLError:
        plain = False
    return text if plain else json.dumps(text)


def workflow_text(ci: Ci, answers: Answers) -> str:
    """What a CI runs: the gate that `fiefdom check` and `fiefdom plan` make."""
    key: str = answers["ssh"].get("key", "~/.ssh/id_ed25519")
    cluster: str = answers["cluster"]
    values = {
        "INVENTORY": inventory_path(cluster),
        "CLUSTER": cluster,
        "GOSSIP_KEY": key_path(cluster),
        # Secrets of a repository are those of all its workflows.
        "OWN": cluster.upper().replace("-", "_"),
        "VERSION": RELEASE,
        # Where the inventory says, or where SSH looks by itself.
        "KEY": f'"$HOME/{key[2:]}"' if key.startswith("~/") else key,
    }
    text = (Path(__file__).parent / f"workflow.{ci}.yml").read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
