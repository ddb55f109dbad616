"""Who watches the cluster, and what hosts tell him."""

from __future__ import annotations

from pydantic import Field

from fiefdom.model.text import LAST_PORT, Cidr, Many, Model


class Monitoring(Model):
    """What Prometheus may ask."""

    node_exporter: bool = Field(
        False,
        description="Whether every host runs Debian's node exporter, which tells of the host and of the instances "
        "there.",
    )
    port: int = Field(9100, ge=1024, le=LAST_PORT, description="Port of the node exporter, at the host's `address`.")
    from_cidrs: Many[Cidr] = Field(
        (),
        description="Networks from which Prometheus asks: they may reach the node exporters, and the gateways' "
        "statistics as `network.admin_cidrs` may.",
    )
