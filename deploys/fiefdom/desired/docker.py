"""Docker's daemon: Debian's own packages, and a daemon.json whose changes stop no container."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

from fiefdom.desired.context import Context
from fiefdom.desired.daemon_json import text_of
from fiefdom.desired.render import render
from fiefdom.desired.state import Codename, Directory, File, HostState, Package, Unit
from fiefdom.model import Registry, references
from fiefdom.model.text import LOGIN_IN_URL

CONFIG = "/etc/docker/daemon.json"
UNIT = "docker.service"
DATA_ROOT = "/var/lib/docker"
"""Where Docker keeps images and containers unless `docker.daemon` says otherwise."""
CLIENT_DIR = "/etc/fiefdom/docker"
CLIENT_CONFIG = f"{CLIENT_DIR}/config.json"  # steps.sh pulls with it where it is there
LIMITS = "/etc/systemd/system/docker.service.d/10-fiefdom.conf"

# docker.io only recommends the client on Debian 13, and iptables on neither pulls itself in without recommends.
PACKAGES: dict[Codename, tuple[str, ...]] = {
    "bookworm": ("docker.io", "iptables"),
    "trixie": ("docker.io", "docker-cli", "iptables"),
}

# 20.10 knows no `--validate`, and nothing else on a bare Debian 12 reads daemon.json but dockerd itself. There the
# file rests on json.dumps, the typed model, and a test that starts a real 20.10 with it.
CHECKS: dict[Codename, tuple[str, ...]] = {
    "bookworm": (),
    "trixie": ("dockerd", "--validate", "--config-file", "{}"),
}


def desired(context: Context) -> HostState:
    """The host's Docker. The first reload turns live-restore on, so that the restart after it stops no container."""
    return _login(context) + HostState(
        packages=tuple(Package(name) for name in PACKAGES[context.codename]),
        directories=(Directory("/etc/docker"), Directory("/etc/systemd/system/docker.service.d")),
        files=(
            # Without it, dockerd would begin on a network of its own choice, which may be the operator's.
            _daemon(context),
            File(LIMITS, render("docker.service.conf.j2").encode()),
        ),
        units=(Unit(UNIT, config=(CONFIG,), on_change=("reload", "restart")),),
    )


def _daemon(context: Context) -> File:
    text = text_of(daemon_config(context))
    # A proxy's password may be in it.
    secret = LOGIN_IN_URL.search(text) is not None
    mode = 0o600 if secret else 0o644
    return File(CONFIG, text.encode(), mode=mode, secret=secret, check=CHECKS[context.codename], precedes="docker.io")


def networks(config: bytes) -> frozenset[str]:
    """What a daemon.json says of addresses, as words that snapshot.sh takes from one."""
    return frozenset(re.findall('"(?:bip|base|size)":"?[^,}"]*', re.sub(r"\s", "", config.decode())))


def data_root(config: bytes) -> str:
    """Where Docker keeps images and containers by a daemon.json of Fiefdom's."""
    return str(json.loads(config).get("data-root", DATA_ROOT))


def _login(context: Context) -> HostState:
    """What root's `docker pull` shows the registry, as `docker login` would write it: no login, no password in argv."""
    auths = {}
    for registry in _registries(context):
        if registry.password is not None:
            pair = f"{registry.user}:{context.secrets.text(registry.password)}"
            auths[_authority(registry)] = {"auth": base64.b64encode(pair.encode()).decode()}
    if not auths:
        return HostState()
    text = json.dumps({"auths": auths}, indent=2) + "\n"
    return HostState(
        directories=(Directory("/etc/fiefdom"), Directory(CLIENT_DIR, mode=0o700)),
        files=(File(CLIENT_CONFIG, text.encode(), mode=0o600, secret=True, login=True),),
    )


def _registries(context: Context) -> Iterator[Registry]:
    """Those that this host pulls from, first the one that has Fiefdom's own images."""
    cluster = context.cluster
    if cluster.registry is not None and (context.is_gateway or context.is_app_host):
        yield cluster.registry
    for service in cluster.services:
        if cluster.count(context.name, service) and (registry := cluster.registry_of(service)) is not None:
            yield registry


def _authority(registry: Registry) -> str:
    """The registry's name in a client's configuration, which for Docker Hub is an old address of its."""
    domain = references.domain_of(registry.server)
    return domain if domain != references.HUB else "https://index.docker.io/v1/"


def daemon_config(context: Context) -> dict[str, Any]:
    """What daemon.json says: the keys that Fiefdom sets, and those of the inventory. A host may have others."""
    docker = context.cluster.docker
    nofile = {"Name": "nofile", "Hard": docker.nofile, "Soft": docker.nofile}
    return {
        **docker.daemon,
        "bip": docker.bridge_address,
        "default-address-pools": [{"base": docker.address_pool, "size": docker.address_pool_size}],
        "default-ulimits": {"nofile": nofile},
        "icc": False,
        "live-restore": docker.live_restore,
        "log-driver": "local",
        "log-level": "info",
        "log-opts": {"max-file": str(docker.log_max_file), "max-size": docker.log_max_size},
        "no-new-privileges": True,
        "userland-proxy": False,
    }
