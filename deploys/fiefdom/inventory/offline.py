"""What an inventory names on this machine: whether it is there, and is what the inventory takes it for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

from fiefdom.errors import FiefdomError
from fiefdom.inventory import certificates, files, hooks, secret, vault
from fiefdom.inventory.written import Mistake, Written
from fiefdom.model import Cluster, Problem, schedules
from fiefdom.wording import KeyPath, shown


def mistakes(cluster: Cluster, written: Written, environ: Mapping[str, str]) -> list[Mistake]:
    """What is wrong with files and folders that ``cluster`` names. Nothing is run, and nobody is asked for anything.

    A secret is looked at only if it lies open to the operator: one that is not given here is no mistake of the
    inventory, nor is a private key that somebody else has.
    """
    found = [*impossible(cluster), *missing_middleware(cluster), *files.problems(cluster), *_ssh_problems(cluster)]
    found += [*certificates.problems(cluster), *_gossip_problems(cluster), *_encrypted_problems(cluster, environ)]
    found += hooks.problems(cluster)
    return [Mistake(written.origin(key), key, says) for key, says in found]


def impossible(cluster: Cluster) -> Iterator[Problem]:
    """What an inventory asks for that cannot be, by this machine's folders and this day."""
    yield from missing_folders(cluster)
    yield from schedules_over(cluster, datetime.now(timezone.utc).date())


def missing_folders(cluster: Cluster) -> Iterator[Problem]:
    """Folders that images are to be built from, and cannot be. What a registry has is not built."""
    for name, service in cluster.services.items():
        if service.build is not None and cluster.registry_of(name) is None:
            yield from _folder_problems(cluster.path_here(service.build), ("services", name, "build"))


def schedules_over(cluster: Cluster, today: date) -> Iterator[Problem]:
    """Times of jobs that cannot come any more, wherever it is still the day before."""
    for name, service in cluster.services.items():
        for job, wanted in service.jobs.items():
            last = schedules.last_day(wanted.schedule)
            if last is not None and last < today - timedelta(days=1):
                key = ("services", name, "jobs", job, "schedule")
                yield key, f"{shown(wanted.schedule)} came last on {last}; write a time that is to come, or take it out"


def missing_middleware(cluster: Cluster) -> Iterator[Problem]:
    """Folders that a laptop's middleware is to be built from, and cannot be; no host asks for them."""
    for name, middleware in cluster.development.services.items():
        if middleware.build is not None:
            yield from _folder_problems(cluster.path_here(middleware.build), ("development", "services", name, "build"))


def _folder_problems(folder: Path, key: KeyPath) -> Iterator[Problem]:
    if not folder.is_dir():
        yield key, f"there is no folder {folder}; correct it, or take `build` out"
    elif not (folder / "Dockerfile").is_file():
        yield key, f"{folder} has no Dockerfile; correct the folder"


def _ssh_problems(cluster: Cluster) -> Iterator[Problem]:
    keys: dict[KeyPath, str | None] = {("ssh", "key"): cluster.ssh.key}
    keys |= {("hosts", name, "ssh", "key"): host.ssh.key for name, host in cluster.hosts.items()}
    for key, path in keys.items():
        # One that is not there may be on the machine of whoever logs in.
        if path is None or not (file := cluster.path_here(path)).exists():
            continue
        try:
            with file.open("rb") as opened:
                begin = opened.read(4096)
        except OSError as error:
            yield key, f"{file} cannot be read ({error.strerror}); check its owner and mode"
            continue
        if begin.startswith((b"ssh-", b"ecdsa-", b"sk-")):
            yield key, f"{file} is a public key; name the private one, mostly the same name without .pub"
        elif b"PRIVATE KEY" not in begin:
            yield key, f"{file} is no private key; name a file that `ssh-keygen` has made"


def _gossip_problems(cluster: Cluster) -> Iterator[Problem]:
    # `fiefdom keygen` makes one that is not there.
    if cluster.serf.key_file is not None and cluster.path_here(cluster.serf.key_file).exists():
        try:
            secret.gossip_key_in(cluster.path_here(cluster.serf.key_file))
        except FiefdomError as error:
            yield ("serf", "key_file"), str(error)


def _encrypted_problems(cluster: Cluster, environ: Mapping[str, str]) -> Iterator[Problem]:
    sources = [*cluster.secret_sources(), *cluster.laptop_secrets(), *cluster.operators_secrets()]
    named = {key: source.secret for key, source in sources if source.secret is not None}
    if cluster.secrets is None or not named:
        return
    path: Path = cluster.path_here(cluster.secrets.file)
    if not vault.is_there(path):
        yield ("secrets", "file"), f"there is no file {path}; `fiefdom secret set INVENTORY NAME` makes it"
        return
    try:
        entries = vault.read_unasked(cluster, environ)
    except FiefdomError as error:
        yield ("secrets", "file"), str(error)
        return
    if entries is None:
        return
    for key, name in named.items():
        if name not in entries:
            yield key, f"{name} is not in secrets.file; `fiefdom secret set INVENTORY {name}` puts it there"
        elif key == ("serf", "key"):
            try:
                secret.require_gossip_key(entries[name], f"the secret {name}")
            except FiefdomError as error:
                yield key, str(error)
