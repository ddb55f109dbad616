"""`fiefdom init`: a person's answers, one by one, and the files that come of them."""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import click

from fiefdom import files
from fiefdom.cli.frame import Command, Document
from fiefdom.cli.outlet import is_terminal
from fiefdom.errors import FiefdomError
from fiefdom.inventory import first
from fiefdom.model.hosts import APP_HOSTS, GATEWAYS, Service
from fiefdom.wording import from_here, shown

_KEY_PATH = re.compile(r"(~/)?[A-Za-z0-9_./@+-]+")


@click.command(cls=Command)
@click.argument("folder", type=click.Path(), default=".")
@click.option(
    "--cluster", metavar="NAME", help="Name of the cluster, and of its inventory; the folder's own otherwise."
)
@click.option(
    "--gateway",
    multiple=True,
    metavar="[NAME=]ADDRESS",
    help="A gateway, as often as there are some; gw1, gw2 without a name.",
)
@click.option(
    "--app-host",
    multiple=True,
    metavar="[NAME=]ADDRESS",
    help="A host of instances, as often as there are some; app1, app2 without a name.",
)
@click.option("--cidr", metavar="CIDR", help="Network of all hosts; otherwise the /24 around them, or what it takes.")
@click.option("--admin-cidr", multiple=True, metavar="CIDR", help="Who may use SSH; this machine's address otherwise.")
@click.option("--user", metavar="NAME", help="Login user: root, or one with passwordless sudo.")
@click.option("--key", metavar="PATH", help="Private SSH key; your agent's and ~/.ssh's own otherwise.")
@click.option("--service", metavar="NAME", help="Name of the service.")
@click.option("--image", metavar="IMAGE[:VERSION]", help="Its image.")
@click.option("--version", metavar="TAG", help="Its version, which is the image's tag.")
@click.option("--instances", metavar="N", help="Its instances on each app host.")
@click.option("--container-port", metavar="PORT", help="Port that it listens on in its container.")
@click.option("--health-path", metavar="PATH", help="Path that it answers once it can serve.")
@click.option("--ci", type=click.Choice(first.CI), help="Whose workflow is written; that of GitHub otherwise.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask: take the default of all that is not said.")
def init(folder: str, yes: bool, **given: Any) -> Document:
    """Write a first inventory, the gossip key, .gitignore and a CI workflow into FOLDER, from your answers.

    It asks for what no option says, on a terminal. It never overwrites a file, and writes all of them or none. FOLDER
    may have other clusters already.
    """
    asked = _Asked(given, asks=not yes and is_terminal(sys.stdin) and is_terminal(sys.stderr))
    _ask_all(asked, Path(folder))
    asked.require_whole()
    ci: first.Ci = given["ci"] or asked.choice("Workflow for which CI?", first.CI, "github")
    wanted = first.files_of(Path(folder), asked.answers, ci)
    files.write_new(Path(folder), wanted)
    name: str = asked.answers["cluster"]
    inventory = shlex.quote(str(Path(folder) / first.inventory_path(name)))
    key = Path(folder) / first.key_path(name)
    return Document(
        words=[
            *(f"wrote {Path(folder) / new.path}" for new in wanted),
            f"{key} is the one secret among them: keep a copy, and out of version control.",
            *_misplaced(Path(folder), ci, name),
            "Next:",
            f"  fiefdom trust {inventory}",
            f"  fiefdom plan {inventory}",
            f"  fiefdom apply {inventory}",
        ]
    )


def _misplaced(folder: Path, ci: first.Ci, cluster: str) -> Iterator[str]:
    top = first.repository_above(folder)
    if ci != "none" and top is not None:
        below = folder.resolve().relative_to(top)
        path = first.workflow_path(ci, cluster)
        there = from_here(top / path)
        yield f"{folder / path} is to move to {there}, for CI looks there alone; write {below}/ before its paths."


@dataclass
class _Asked:
    """What was said by options, and by answers to questions where somebody ``asks``."""

    given: dict[str, Any]
    asks: bool
    answers: dict[str, Any] = field(default_factory=dict)
    """As an inventory says them."""
    missing: list[str] = field(default_factory=list)
    """Options of what nobody said and that has no default."""

    def text(self, option: str, question: str, default: str | None, take: Callable[[str], None]) -> None:
        """Get one answer; ``take`` keeps it, or raises ValueError for one that is not possible."""
        said: str | None = self.given[option]
        if said is None and self.asks:
            click.prompt(
                question,
                default=default,
                show_default=default != "",
                value_proc=lambda text: _told(take, text),
                err=True,
            )
        elif (answer := default if said is None else said) is not None:
            _take_option(option, take, answer)
        else:
            self.missing.append(f"--{option.replace('_', '-')}")

    def several(self, option: str, question: str, default: str | None, take: Callable[[str], None]) -> None:
        """As `text`, of an option that may be said more than once; answers stand side by side."""
        said: Sequence[str] = self.given[option]
        if said:
            for each in said:
                _take_option(option, take, each)
            return

        def take_all(text: str) -> None:
            before = dict(self.answers)
            try:
                for each in re.split(r"[,\s]+", text.strip()):
                    take(each)
            except ValueError:
                self.answers = before
                raise

        self.given[option] = None
        self.text(option, question, default, take_all)

    def choice(self, question: str, choices: Sequence[Any], default: Any) -> Any:
        """One of some words."""
        return click.prompt(question, type=click.Choice(choices), default=default, err=True) if self.asks else default

    def put(self, key: tuple[str, ...], value: object) -> None:
        """Keep ``value`` as what the inventory says at ``key``. Raises ValueError where the model refuses it."""
        before, place = dict(self.answers), self.answers
        for part in key[:-1]:
            place[part] = place = dict(place.get(part, {}))
        place[key[-1]] = value
        if (says := first.complaint(self.answers, key)) is not None:
            self.answers = before
            raise ValueError(says)

    def require_whole(self) -> None:
        """Raise FiefdomError where something was said by nobody, or answers do not go together."""
        if self.missing:
            raise FiefdomError(
                f"{', '.join(self.missing)}: missing; say so, or let it ask on a terminal without --yes; nothing was "
                "written"
            )
        if (says := first.complaint(self.answers, ())) is not None:
            raise FiefdomError(f"{says}; nothing was written")


def _told(take: Callable[[str], None], text: str) -> str:
    try:
        take(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error  # which click tells in a line, and asks again
    return text


def _take_option(option: str, take: Callable[[str], None], said: str) -> None:
    try:
        take(said)
    except ValueError as error:
        raise FiefdomError(f"--{option.replace('_', '-')} {said}: {error}; nothing was written") from error


def _ask_all(asked: _Asked, folder: Path) -> None:
    name = re.sub("[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    default = name if first.complaint({"cluster": name}, ("cluster",)) is None else "mine"
    asked.text("cluster", "Name of the cluster", default, lambda text: asked.put(("cluster",), text))
    asked.several(
        "gateway",
        "Addresses of the gateways, with blanks between",
        None,
        lambda text: _take_host(asked, text, GATEWAYS, "gw"),
    )
    asked.several(
        "app_host",
        "Addresses of the app hosts, with blanks between",
        None,
        lambda text: _take_host(asked, text, APP_HOSTS, "app"),
    )
    addresses = [host["address"] for host in asked.answers.get("hosts", {}).values()]
    network = first.network_around(addresses) if addresses else None
    if addresses or asked.given["cidr"]:
        asked.text("cidr", "Network of all hosts", network, lambda text: _take_network(asked, text, addresses))

    def take_admin(text: str) -> None:
        before = asked.answers.get("network", {}).get("admin_cidrs", [])
        asked.put(("network", "admin_cidrs"), [*before, text])

    here = _address_here(addresses)
    question = "Networks that may use SSH (this machine must be in them)"
    asked.several("admin_cidr", question, here and f"{here}/32", take_admin)
    asked.text("user", "Login user", "root", lambda text: asked.put(("ssh", "user"), text))
    asked.text("key", "Private SSH key (nothing: your agent's, or ~/.ssh's)", "", lambda text: _take_key(asked, text))
    asked.put(("ssh", "known_hosts"), "../known_hosts")
    asked.put(("serf", "key_file"), f"../{first.key_path(asked.answers['cluster'])}")
    _ask_service(asked)


def _take_network(asked: _Asked, text: str, addresses: Sequence[str]) -> None:
    asked.put(("network", "cidr"), text)
    network = ip_network(asked.answers["network"]["cidr"])
    if outside := [address for address in addresses if ip_address(address) not in network]:
        raise ValueError(f"{outside[0]} is outside of it; each host is to be in it")


def _ask_service(asked: _Asked) -> None:
    found: list[str] = []

    def take_name(text: str) -> None:
        asked.put(("services", text), {})
        found[:] = [text]

    asked.text("service", "Name of the service", "web", take_name)
    at = ("services", found[0]) if found else ("services",)

    def take_image(text: str) -> None:
        name, colon, tag = text.rpartition(":")
        tagged = bool(colon) and "/" not in tag and "@" not in text  # else a registry's port, or a digest
        asked.put((*at, "image"), name if tagged else text)
        if tagged and asked.given["version"] is None:
            asked.put((*at, "version"), tag)
            asked.given["version"] = tag

    asked.text("image", "Its image, such as team/predictor:1.4.2", None, take_image)
    asked.text("version", "Its version (the image's tag)", None, lambda text: asked.put((*at, "version"), text))
    model = Service.model_fields
    for option, question, default in (
        ("instances", "Its instances on each app host", "2"),
        ("container_port", "Port that it listens on in its container", str(model["container_port"].default)),
    ):
        asked.text(option, question, default, lambda text, key=option: asked.put((*at, key), _number(text)))  # type: ignore[misc]
    path = "Path that it answers once it can serve"
    asked.text("health_path", path, "/health", lambda text: asked.put((*at, "health"), {"path": text}))


def _take_host(asked: _Asked, text: str, group: str, prefix: str) -> None:
    hosts: dict[str, Any] = asked.answers.get("hosts", {})
    name, equals, address = text.rpartition("=")
    if not equals:
        name = next(n for i in range(1, len(hosts) + 2) if (n := f"{prefix}{i}") not in hosts)
    if name in hosts:
        raise ValueError(f"{shown(name)} is there already; choose another name")
    asked.put(("hosts", name), {"address": address, "groups": [group]})
    if taken := [other for other, host in hosts.items() if host["address"] == address]:
        asked.answers["hosts"] = hosts
        raise ValueError(f"{address} is {taken[0]}'s already; each host has its own")


def _take_key(asked: _Asked, text: str) -> None:
    if not text:
        return
    path = Path(text).expanduser()
    home = Path.home()
    text = f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(Path(os.path.abspath(path)))  # noqa: PTH100
    if _KEY_PATH.fullmatch(text) is None:
        raise ValueError(f"{shown(text)} is not possible here: the workflow's shell would read it otherwise; rename it")
    asked.put(("ssh", "key"), text)


def _number(text: str) -> int | str:
    return int(text) if re.fullmatch("[0-9]{1,9}", text.strip()) else text


def _address_here(addresses: Sequence[str]) -> str | None:
    """This machine's address on the way to a host: nothing is sent."""
    for address in (*addresses[:1], "192.0.2.1"):
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
            opened.connect((address, 22))
            found: str = opened.getsockname()[0]
            return found
    return None
