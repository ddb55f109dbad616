"""Asks the running gateway for its status: few imports, for `docker exec` starts it anew each time."""

import socket

STATUS_SOCKET = "/run/fiefdom-gateway.sock"


def fetch(path: str, timeout_s: float = 10.0) -> str:
    """Return the status document as text. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        connection.connect(path)
        chunks = iter(lambda: connection.recv(65536), b"")
        return b"".join(chunks).decode()
