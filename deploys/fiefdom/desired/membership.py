"""What a Serf agent is told: its name, key, tags and whom to join, the same for app hosts and gateways."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping

from fiefdom.desired.account import UID
from fiefdom.desired.context import Context
from fiefdom.desired.state import File


def rpc_auth(context: Context) -> str:
    """Token that opens the RPC port of the host's agent; each host has its own, none of them tells the gossip key."""
    key = context.secrets.gossip_key.encode()
    return hmac.new(key, f"fiefdom rpc {context.name}".encode(), hashlib.sha256).hexdigest()


def rpc_environment(context: Context) -> dict[str, str]:
    """Environment that lets `serf` in the agent's container talk to the agent."""
    return {"SERF_RPC_ADDR": f"127.0.0.1:{context.cluster.serf.rpc_port}", "SERF_RPC_AUTH": rpc_auth(context)}


def agent_file(context: Context, path: str, *, tags: Mapping[str, str] | None, state_dir: str) -> File:
    """The agent's configuration, which holds the gossip key, for the container's user alone.

    Where there are no ``tags``, another file of the agent's has them.
    """
    serf = context.cluster.serf
    own = f"{context.host.address}:{serf.port}"
    gateways = sorted(f"{context.cluster.hosts[name].address}:{serf.port}" for name in context.cluster.gateways)
    config = {
        "node_name": context.name,
        **({} if tags is None else {"tags": dict(tags)}),
        "event_handlers": [],
        "bind": own,
        "advertise": own,
        **_key(context, path),
        "rpc_addr": f"127.0.0.1:{serf.rpc_port}",
        "rpc_auth": rpc_auth(context),
        "profile": serf.profile,
        "log_level": "warn",
        "snapshot_path": f"{state_dir}/snapshot",
        # A host that boots before any gateway keeps asking. To join oneself always works, and would end the asking.
        "retry_join": [address for address in gateways if address != own],
        "retry_interval": "1s",
        "reconnect_interval": "5s",
        # Without it an agent that left is never asked back by its snapshot, and a lone gateway has nobody to ask.
        "rejoin_after_leave": True,
        "leave_on_terminate": True,
        "disable_name_resolution": True,
    }
    return _private(path, config)


def ring_path(agent_path: str) -> str:
    """Where the keys stand beside an agent's configuration: sorted before it, and so in place before it names them."""
    return f"{agent_path.removesuffix('.json')}-keys.json"


def ring_files(context: Context, agent_path: str) -> tuple[File, ...]:
    """The agent's keys while one gives way to another, the one it encrypts with first; at other times none."""
    secrets = context.secrets
    if not secrets.other_gossip_keys:
        return ()
    return (_private(ring_path(agent_path), [secrets.gossip_key, *secrets.other_gossip_keys]),)


def _key(context: Context, path: str) -> dict[str, str]:
    # Serf takes a key or a file of them, not both.
    if context.secrets.other_gossip_keys:
        return {"keyring_file": ring_path(path)}
    return {"encrypt_key": context.secrets.gossip_key}


def _private(path: str, data: object) -> File:
    text = json.dumps(data, indent=2, sort_keys=True) + "\n"
    return File(path, text.encode(), mode=0o400, uid=UID, gid=UID, secret=True)
