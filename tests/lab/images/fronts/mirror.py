"""The predictor with a mirror: `GET /headers` says which headers it got. With SPEAKS=h2c it is the server of calls."""

import os
from http import HTTPStatus
from urllib.parse import urlsplit

import calls
import predictor


class Handler(predictor.Handler):
    def do_GET(self) -> None:
        if urlsplit(self.path).path != "/headers":
            super().do_GET()
            return
        self._send(HTTPStatus.OK, {"headers": [[name.lower(), value] for name, value in self.headers.items()]})

    do_HEAD = predictor.Handler.do_GET


if os.environ.get("SPEAKS") == "h2c":
    calls.main()
else:
    predictor.Handler = Handler
    predictor.main()
