"""Asks the running gateway for its status: few imports, for `docker exec` starts it anew each time."""

import socket
from contextlib import suppress

# The container's own; and the one of whose turn it is, for a container and its successor.
STATUS_SOCKET = "/run/fiefdom-gateway.sock"


def shared_socket(state_dir: str) -> str:
    """Return where the gateway answers whose turn it is."""
    return f"{state_dir}/run/status.sock"


def fetch(path: str, part: str = "", timeout_s: float = 10.0) -> str:
    """Return the status document as text, or a part of it: `summary`, `host NAME...`, `service NAME...`.

    An older gateway answers with all of it. Raises OSError.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        connection.connect(path)
        with suppress(OSError):  # an older one may have answered already
            connection.sendall(f"{part}\n".encode())
        chunks = iter(lambda: connection.recv(65536), b"")
        return b"".join(chunks).decode()
