"""Names of the systemd units that Fiefdom makes: under a prefix of its own, so that none shadows a package's."""

from __future__ import annotations

PREFIX = "fiefdom-"


def unit_of(name: str) -> str:
    """The unit called ``name``, or NAME@INSTANCE: `fiefdom-serf-agent.service`."""
    return f"{PREFIX}{name}.service"


def template_of(service: str) -> str:
    """The template of a service's instances: `fiefdom-predictor@.service`."""
    return unit_of(f"{service}@")


def former_of(unit: str) -> str:
    """What an older Fiefdom, whose names had no prefix, calls the unit of a container: `predictor@8000.service`."""
    return unit.removeprefix(PREFIX)
