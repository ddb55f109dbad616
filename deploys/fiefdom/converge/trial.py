"""The trial of an sshd that is not live yet: this client's own key exchange with it, over the connection that is there.

sshd serves the one channel instead of a port (`sshd -i`), so a trial passes every firewall, needs no address and leaves
nothing that listens. It ends before anybody logs in.
"""

from __future__ import annotations

import logging
from importlib.metadata import version
from pathlib import Path

from paramiko import Channel, SSHException, Transport
from paramiko.ssh_exception import IncompatiblePeer

HANDSHAKE_S = 15.0
"""Seconds that the candidate may take to answer; a loaded host takes two."""

SCRIPT = (Path(__file__).parent / "trial.sh").read_text()
"""For a root shell at the far end of the channel; its argument is the text of the candidate's configuration."""

_LOG = "fiefdom.trial"
# What goes wrong is our answer; paramiko would print a traceback of it as well.
logging.getLogger(_LOG).addHandler(logging.NullHandler())
logging.getLogger(_LOG).propagate = False


def negotiates(channel: Channel, crypto: str = "compat", timeout_s: float = HANDSHAKE_S) -> str | None:
    """Why this client could not come back through the sshd that serves ``channel``; None where it could.

    ``crypto`` is the inventory's choice of algorithms; the reason ends in the mend where that choice is to blame.

    Offers what the connection below the channel offered, so the operator's own settings count, and wants the same host
    key where it is one of the same kind; whether the operator knows the host by another kind as well is for the login
    to tell. ``channel`` runs SCRIPT and is closed afterwards.
    """
    below = channel.get_transport()
    trial = Transport(channel)
    trial.set_log_channel(_LOG)
    ours, theirs = trial.get_security_options(), below.get_security_options()
    ours.kex, ours.ciphers, ours.digests, ours.key_types = theirs.kex, theirs.ciphers, theirs.digests, theirs.key_types
    trial.disabled_algorithms = below.disabled_algorithms
    try:
        trial.start_client(timeout=timeout_s)
        shown, known = trial.get_remote_server_key(), below.get_remote_server_key()
    except IncompatiblePeer as error:
        mend = "; write `ssh.crypto: compat`" if crypto == "pq" else ""
        return f"this client (paramiko {version('paramiko')}) has no algorithm in common with it: {_words(error)}{mend}"
    except (SSHException, EOFError, OSError) as error:
        return f"it does not answer this client: {_words(error)}{_said(channel)}"
    finally:
        trial.close()
    if shown.get_name() == known.get_name() and shown != known:
        return "it shows this client another host key than the host's"
    return None


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _said(channel: Channel) -> str:
    lines = channel.recv_stderr(10_000).decode(errors="replace").splitlines() if channel.recv_stderr_ready() else []
    return f" ({'; '.join(line.strip() for line in lines[-2:])})" if lines else ""
