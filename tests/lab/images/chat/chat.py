"""The predictor with a chat window: `GET /chat`, upgraded to WebSocket, says back what it is sent, until told to stop.

The frames of RFC 6455 are not looked into: whoever tests with it sends bytes and gets them back.
"""

import base64
import hashlib
import select
from http import HTTPStatus
from urllib.parse import urlsplit

import predictor

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Handler(predictor.Handler):
    def do_GET(self) -> None:
        if urlsplit(self.path).path != "/chat" or self.headers.get("Upgrade", "").lower() != "websocket":
            super().do_GET()
            return
        key = self.headers.get("Sec-WebSocket-Key", "").encode()
        self.close_connection = True
        self.send_response(HTTPStatus.SWITCHING_PROTOCOLS)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "websocket")
        self.send_header(
            "Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest()).decode()
        )
        self.end_headers()
        own = self.server.own
        self.wfile.write(f"{own.host}:{own.port}\n".encode())
        self.wfile.flush()
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        poll.register(self.server.stop_reader, select.POLLIN)
        while self.server.stop_reader not in dict(poll.poll()):
            data = self.connection.recv(4096)
            if not data:
                return
            self.connection.sendall(data)

    do_HEAD = predictor.Handler.do_GET


predictor.Handler = Handler
predictor.main()
