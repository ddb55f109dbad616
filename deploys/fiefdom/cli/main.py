"""The `fiefdom` command: its parts by name, each loaded when it is asked for."""

from __future__ import annotations

import gc
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from fiefdom import __version__
from fiefdom.cli.group import Group, completions, first_sentence

COMMANDS: dict[str, tuple[str, str]] = {
    "apply": ("apply", "Bring hosts to what the inventory says, after asking."),
    "audit": ("cluster", "Show who did what to this cluster, when and how it ended, and who holds its lock."),
    "build": ("inventory", "Build the cluster's images on this machine, where their folders changed."),
    "check": ("check", "Tell all mistakes of an inventory at once; no host is asked."),
    "compose": (
        "dev",
        "Print a file for `docker compose` that runs the services on a laptop: all, or those named with what they link "
        "to.",
    ),
    "completion": (
        "completion",
        "Print what SHELL completes commands, options and files by: bash, zsh or fish.",
    ),
    "config": (
        "check",
        "Show what an inventory says, merged and with its defaults, and where each value comes from; "
        "with HOST, what is true there.",
    ),
    "demo": ("demo", "Bring up the lab, converge it and show its round robin. What `make demo` runs."),
    "doctor": (
        "doctor",
        "Show what hosts have of their own that Fiefdom would get into trouble with. Changes nothing.",
    ),
    "dev": ("dev", "The cluster's services on this machine, with the middleware of the inventory's `development`."),
    "docs": (
        "inventory",
        "Print what the model says of KEY and of all keys beneath it; without KEY, of the keys at the top.",
    ),
    "exec": ("shell", "Run COMMAND in an instance that runs, with a terminal where you have one."),
    "init": (
        "init",
        "Write a first inventory, the gossip key, .gitignore and a CI workflow into FOLDER, from your answers.",
    ),
    "keygen": (
        "inventory",
        "Make the gossip key, which all members share, where the inventory says; it never overwrites.",
    ),
    "lab": ("lab", "Real hosts on this machine: systemd, sshd and, after a converge, dockerd in each."),
    "lock": (
        "cluster",
        "Show who holds the cluster's lock; with --why keep releases, reboots and retirements off until "
        "`fiefdom unlock`.",
    ),
    "logs": ("logs", "Show what all instances say, or those of SERVICE, merged by time."),
    "maintenance": (
        "maintenance",
        "Close SERVICE at all gateways at once: clients get 503 and its page, until the same command opens it again.",
    ),
    "man": ("completion", "Print a page for `man`, with all commands on it."),
    "monitoring": (
        "monitoring",
        "Print what Prometheus is to ask of this cluster, as its scrape configuration; no host is asked.",
    ),
    "plan": (
        "apply",
        "Show what `fiefdom apply` would change, and change nothing.",
    ),
    "reboot": (
        "hosts",
        "Reboot the app hosts one after the other, with no request failed. A gateway only when --limit names it.",
    ),
    "retire": (
        "hosts",
        "Take HOST out of the cluster for good: drained, without what Fiefdom made there, forgotten by all members.",
    ),
    "rollback": (
        "rollout",
        "Bring SERVICE back to VERSION, or to the last one that was healthy, as gently as a rollout.",
    ),
    "rollout": (
        "rollout",
        "Bring the inventory's version of SERVICE (or of every service) to all hosts, with no request failed.",
    ),
    "rotate-key": (
        "hosts",
        "Give all members another gossip key, host by host, with no request failed; "
        "the old one opens nothing any more.",
    ),
    "run": (
        "run",
        "Run COMMAND once in a new container of SERVICE, as its instances on that host are, and without a port.",
    ),
    "schema": ("inventory", "Print the JSON schema of inventories."),
    "secret": ("inventory", "Secrets in the inventory's encrypted file, which only `secrets.recipients` can read."),
    "ssh": (
        "shell",
        "Log in to HOST the way Fiefdom does, or run COMMAND there: the inventory's user, key, jumps and known hosts.",
    ),
    "status": ("cluster", "Show hosts, members, offers, instances, versions and their state in HAProxy."),
    "trust": (
        "trust",
        "Show the host keys of hosts that are not known yet, and add to known_hosts those that you have compared.",
    ),
    "unlock": ("cluster", "Remove the lock that a person set, or with --take-over the one that a dead run left."),
    "upgrade": (
        "apply",
        "Bring all hosts to this Fiefdom's own images and files, turn by turn, with no request failed.",
    ),
    "weight": (
        "weight",
        "Give VERSION of SERVICE, which a canary brought, PERCENT of the requests, however many servers have it.",
    ),
}
"""By name: the module of this package where a command is the function of that name, and how its help begins."""


TASKS: dict[str, tuple[str, ...]] = {
    "Look": ("status", "plan", "doctor", "logs", "audit", "monitoring"),
    "Write an inventory": ("init", "check", "config", "docs", "schema", "keygen", "secret"),
    "Set hosts up": ("trust", "build", "apply"),
    "Release": ("rollout", "weight", "rollback", "run", "maintenance"),
    "Go inside": ("exec", "ssh"),
    "Look after hosts": ("upgrade", "reboot", "retire", "rotate-key", "lock", "unlock"),
    "On this machine": ("compose", "dev", "lab", "demo", "completion", "man"),
}
"""Commands by what one is about, in the order in which one meets them; each stands there once."""


class _Parts(Group):
    """What a command does not need would cost each start some tenths of a second; the list of all needs none."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        found: click.Command = getattr(import_module(f"fiefdom.cli.{module}"), cmd_name.replace("-", "_"))
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        width = max(map(len, self.commands))  # one column for all tasks
        for task, names in TASKS.items():
            with formatter.section(task):
                formatter.write_dl([(f"{name:<{width}}", first_sentence(self.commands[name])) for name in names])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return completions(self, ctx, incomplete)


@click.group(
    cls=_Parts,
    commands={name: click.Command(name, help=about) for name, (_, about) in COMMANDS.items()},
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__)
def main() -> None:
    """Containerised services on your own Debian hosts, behind a gateway.

    Start with `fiefdom plan INVENTORY`: it shows what `fiefdom apply INVENTORY` would do, and changes nothing.
    Where the variable FIEFDOM_INVENTORY names one, INVENTORY may be left out.
    """
    # What a command imports and works out stays to its end: to look for what is free by now, again at each 700 values
    # that are made, would take a sixth of its start.
    gc.set_threshold(50_000, 20, 20)
