"""`fiefdom lab`."""

from __future__ import annotations

import os
from dataclasses import asdict

import click

from fiefdom import lab as lab_module
from fiefdom.cli.frame import Command, Document, json_option, tell
from fiefdom.cli.group import Family
from fiefdom.cli.help_texts import Helped


@click.group(cls=Family)
def lab() -> None:
    """Real hosts on this machine: systemd, sshd and, after a converge, dockerd in each."""


@lab.command("up", cls=Helped)
@click.option(
    "--app-hosts", default=2, show_default=True, type=click.IntRange(1, 9), metavar="N", help="How many app hosts."
)
def lab_up(app_hosts: int) -> None:
    """Boot a gateway and app hosts; what runs already stays as it is."""
    lab_module.up(app_hosts, tell)


@lab.command("down", cls=Helped)
@click.option("--images", is_flag=True, help="Remove the hosts' images as well.")
def lab_down(images: bool) -> None:
    """Remove the lab and all that it left on this machine."""
    lab_module.down(tell, images=images)


@lab.command("status", cls=Command)
@json_option
def lab_status(**_: bool) -> Document:
    """Show the lab's hosts."""
    rows = [asdict(host) for host in lab_module.status()]
    return Document(rows, ("  ".join(f"{value:<12}" for value in row.values()).rstrip() for row in rows))


@lab.command("ssh", cls=Helped, context_settings={"ignore_unknown_options": True})
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def lab_ssh(host: str, command: tuple[str, ...]) -> None:
    """Log in to a lab host, or run a command there."""
    argv = lab_module.ssh_argv(host, command)
    os.execvp(argv[0], argv)  # noqa: S606 -- ssh takes this process over, with its terminal and exit code
