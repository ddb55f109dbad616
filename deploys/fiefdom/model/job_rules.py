"""What jobs of a service ask of its hosts."""

from __future__ import annotations

from collections.abc import Iterator

from fiefdom.model.draft import Draft
from fiefdom.model.text import Problem


def job_problems(cluster: Draft) -> Iterator[Problem]:
    """Jobs whose hosts could not agree who runs them: only members of the cluster's gossip know who is alive."""
    for name, service in cluster.services.items():
        hosts = cluster.runs_on(name)
        outside = [host for host in hosts if host not in cluster.app_hosts]
        if service.jobs and len(hosts) > 1 and outside:
            says = f"app hosts alone can agree which of them runs a job, and {outside[0]}, which runs {name}, is none"
            mend = f"add app_hosts to hosts.{outside[0]}.groups, or let {name} run on one host"
            yield ("services", name, "jobs"), f"{says}; {mend}"
