"""What each command's help ends with, and its page: how it exits, and how it is typed. By what follows `fiefdom`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

_DONE = "0 when it is done, 1 after an error."
_AT_ALL = "0 where all gateways have done it, 3 where some have and others did not answer, 1 after an error."
EXIT_CODES: Mapping[str, str] = {
    "apply": "0 only where the hosts are as the inventory says, but for releases that are pending; 1 otherwise.",
    "audit": "0 where it is shown, 3 where it is shown but for a gateway that does not answer, 1 after an error.",
    "check": "0 where the inventory is fine, 1 where it is not.",
    "dev up": "0 only where every container answers, 1 otherwise.",
    "doctor": "0 where nothing is in the way, 2 for warnings, 3 where some host does not answer, 1 where apply would "
    "refuse.",
    "exec": "that of the command; 1 where nothing began, or where it was interrupted.",
    "lab ssh": "that of `ssh`, which is that of the command; 1 where there is no such host.",
    "lock": "0 where it is shown or the cluster is locked, 3 where it is shown but for a gateway that does not answer, "
    "1 after an error.",
    "logs": "0 where all was read, 3 where some host does not answer or was gone meanwhile, 141 where nobody reads any "
    "more, 1 after an error. An interrupt is the end that -f has: 0.",
    "maintenance": _AT_ALL,
    "plan": "0 where nothing is to be changed, 2 where changes are pending, 3 where some host does not answer, "
    "whatever the others need, 1 after an error.",
    "rollback": "0 only where every host has that version and serves; 1 otherwise.",
    "rollout": "0 only where every host has its version and serves, or the canary; 1 otherwise.",
    "run": "that of the command; 1 where nothing began, or where it was interrupted.",
    "ssh": "that of the command or of the shell; 1 where the host does not answer.",
    "status": "0 where it is shown, with `--check` or `--wait` only where every instance is in rotation, 2 where one "
    "is not, 3 where some host does not answer, 1 after an error.",
    "trust": "0 where all keys are known now, 1 where one was not taken, 3 where some host does not answer.",
    "upgrade": "0 only where every host is of this Fiefdom, also where nothing was to be done; 1 otherwise.",
    "weight": _AT_ALL,
}
"""How a command exits, where that is not `_DONE`."""

EXAMPLES: Mapping[str, Sequence[str]] = {
    "apply": (
        "fiefdom apply mine.yaml",
        "fiefdom apply mine.yaml --limit app2 --diff",
        "fiefdom apply mine.yaml --plan 3f9c2a71 --json",
    ),
    "audit": ("fiefdom audit mine.yaml", "fiefdom audit mine.yaml --last 100 --json"),
    "build": ("fiefdom build mine.yaml", "fiefdom build mine.yaml --contents"),
    "check": ("fiefdom check mine.yaml", "fiefdom check mine.yaml --json"),
    "completion": (
        'eval "$(fiefdom completion bash)"',
        "fiefdom completion zsh >~/.zfunc/_fiefdom",
        "fiefdom completion fish >~/.config/fish/completions/fiefdom.fish",
    ),
    "compose": ("fiefdom compose mine.yaml", "fiefdom compose mine.yaml predictor --output compose.yaml"),
    "config": ("fiefdom config mine.yaml", "fiefdom config mine.yaml app1"),
    "demo": ("fiefdom demo",),
    "dev down": ("fiefdom dev down mine.yaml", "fiefdom dev down mine.yaml --volumes"),
    "dev logs": ("fiefdom dev logs mine.yaml", "fiefdom dev logs mine.yaml predictor --follow"),
    "dev up": ("fiefdom dev up mine.yaml", "fiefdom dev up mine.yaml predictor"),
    "docs": ("fiefdom docs", "fiefdom docs services", "fiefdom docs health.path"),
    "doctor": ("fiefdom doctor mine.yaml", "fiefdom doctor mine.yaml --limit app2 --json"),
    "exec": (
        "fiefdom exec mine.yaml shop -- sh",
        "fiefdom exec mine.yaml shop@app2:8001 -- env",
        "fiefdom exec mine.yaml shop -- sh -c 'ls /srv; id'",
    ),
    "init": (
        "fiefdom init",
        "fiefdom init mine --gateway edge=10.20.0.11 --app-host 10.20.0.21 --ci gitlab",
        "fiefdom init --gateway 10.20.0.11 --app-host 10.20.0.21 --image web:1 --yes",
    ),
    "keygen": ("fiefdom keygen mine.yaml",),
    "lab down": ("fiefdom lab down", "fiefdom lab down --images"),
    "lab ssh": ("fiefdom lab ssh app1", "fiefdom lab ssh app1 docker ps"),
    "lab status": ("fiefdom lab status", "fiefdom lab status --json"),
    "lab up": ("fiefdom lab up", "fiefdom lab up --app-hosts 3"),
    "lock": ("fiefdom lock mine.yaml", "fiefdom lock mine.yaml --why 'the sale, until Monday'"),
    "logs": (
        "fiefdom logs mine.yaml --since '-10min'",
        "fiefdom logs mine.yaml predictor -f --grep 'status=5..'",
        "fiefdom logs mine.yaml --gateway --host gw1 --format json",
    ),
    "maintenance": ("fiefdom maintenance on mine.yaml shop", "fiefdom maintenance off mine.yaml shop"),
    "man": (
        "fiefdom man | man -l -",
        "fiefdom man >~/.local/share/man/man1/fiefdom.1",
    ),
    "monitoring": (
        "fiefdom monitoring mine.yaml >prometheus.yml",
        "fiefdom monitoring mine.yaml --alerts >alerts.yml",
        "fiefdom monitoring mine.yaml --dashboard >dashboard.json",
    ),
    "plan": (
        "fiefdom plan mine.yaml",
        "fiefdom plan mine.yaml --diff --limit gateways",
        "fiefdom plan mine.yaml --json",
    ),
    "reboot": (
        "fiefdom reboot mine.yaml",
        "fiefdom reboot mine.yaml --upgrade --limit app2",
        "fiefdom reboot mine.yaml --dry",
    ),
    "retire": ("fiefdom retire mine.yaml app2 --dry", "fiefdom retire mine.yaml app2"),
    "rollback": ("fiefdom rollback mine.yaml predictor", "fiefdom rollback mine.yaml predictor 1.4.1 --yes"),
    "rollout": (
        "fiefdom rollout mine.yaml predictor --dry",
        "fiefdom rollout mine.yaml predictor --canary app2",
        "fiefdom rollout mine.yaml predictor --continue",
        "fiefdom rollout mine.yaml --batch 25% --json",
    ),
    "rotate-key": ("fiefdom rotate-key mine.yaml --dry", "fiefdom rotate-key mine.yaml"),
    "run": (
        "fiefdom run mine.yaml shop -- manage createsuperuser",
        "fiefdom run mine.yaml shop --host app2 -- sh -c 'env | sort'",
    ),
    "schema": ("fiefdom schema >fiefdom.schema.json",),
    "secret list": ("fiefdom secret list mine.yaml",),
    "secret rekey": ("fiefdom secret rekey mine.yaml",),
    "secret remove": ("fiefdom secret remove mine.yaml chat",),
    "secret set": ("fiefdom secret set mine.yaml chat", "fiefdom secret set mine.yaml tls-key <key.pem"),
    "ssh": (
        "fiefdom ssh mine.yaml app2",
        "fiefdom ssh mine.yaml app2 -- uptime",
        "fiefdom ssh mine.yaml app2 -- sh -c 'uptime; df -h'",
    ),
    "status": (
        "fiefdom status mine.yaml",
        "fiefdom status mine.yaml --all",
        "fiefdom status mine.yaml --watch",
        "fiefdom status mine.yaml --wait 60",
    ),
    "trust": ("fiefdom trust mine.yaml", "fiefdom trust mine.yaml app3"),
    "unlock": ("fiefdom unlock mine.yaml", "fiefdom unlock mine.yaml --take-over"),
    "upgrade": (
        "fiefdom upgrade mine.yaml --dry",
        "fiefdom upgrade mine.yaml",
        "fiefdom upgrade mine.yaml --yes --json",
    ),
    "weight": ("fiefdom weight mine.yaml shop 2.0 10", "fiefdom weight mine.yaml shop off"),
}
"""How a command is typed, the plainest first."""


def exit_codes(path: str) -> str:
    """How the command exits that ``path``, such as "lab up", is typed for."""
    return EXIT_CODES.get(path, _DONE)


def examples(path: str) -> Sequence[str]:
    """Lines that use the command; none where nobody wrote any, which a test does not let pass."""
    return EXAMPLES.get(path, ())


def path_of(context: click.Context) -> str:
    """What follows the name of the program, whatever that is."""
    names: list[str] = []
    at: click.Context | None = context
    while at is not None and at.parent is not None:
        names.insert(0, at.info_name or "")
        at = at.parent
    return " ".join(names)


class Helped(click.Command):
    """A command whose help ends with its exit codes and examples."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        path = path_of(ctx)
        with formatter.section("Exit code"):
            formatter.write_text(exit_codes(path).replace("`", ""))
        with formatter.section("Examples"):
            for line in examples(path):
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
