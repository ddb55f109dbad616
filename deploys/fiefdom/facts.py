"""Fiefdom's facts for other pyinfra repositories, beside its `deploys`: what a host has and is, and what it lacks.

    from pyinfra import host
    from fiefdom.facts import Drift, Instances, Member

    if host.get_fact(Drift):
        ...

From the command line: `pyinfra INVENTORY fact fiefdom.facts.Instances`. None of them changes a host or tells a secret,
and what they return is plain data, which `--json` prints.
"""

from __future__ import annotations

from fiefdom.cluster.itself import Instance, Membership
from fiefdom.engine.facts import Drift, Instances, Member

__all__ = ["Drift", "Instance", "Instances", "Member", "Membership"]
