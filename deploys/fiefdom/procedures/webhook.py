"""A message to a chat, posted once: no failure of it is more than a word about it."""

from __future__ import annotations

import json
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping

from fiefdom.model.hooks import is_loopback

TIMEOUT_S = 5


def post(url: str, document: Mapping[str, object], timeout_s: float = TIMEOUT_S) -> str:
    """Post ``document`` as JSON to ``url``; why that failed, or nothing. The URL is never told, for it is a secret.

    A redirect is not followed: whoever it leads to is not whom the operator named.
    """
    found = [f"did not answer within {timeout_s:g} s"]

    def send() -> None:
        found[0] = _sent(url, document, timeout_s)

    # Beside this one, for the limit of a socket bounds neither the search for an address nor an answer that trickles.
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    sender.join(timeout_s)
    return found[0]


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        """None makes it an answer like any other."""


def _sent(url: str, document: Mapping[str, object], timeout_s: float) -> str:
    handlers: list[urllib.request.BaseHandler] = [_Stay()]
    if is_loopback(url):  # which no proxy of the environment has a way to
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        request = urllib.request.Request(  # noqa: S310 -- https, or http to this machine: see `require_webhook`
            url,
            data=json.dumps(document).encode(),
            headers={"Content-Type": "application/json", "User-Agent": "fiefdom"},
            method="POST",
        )
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout_s):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"answered with status {error.code}" + "; redirects are not followed" * (300 <= error.code < 400)
    except urllib.error.URLError as error:
        return _why(error.reason)
    except Exception as error:  # http.client raises many kinds, and some tell the URL
        return _why(error)


def _why(reason: object) -> str:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"has a certificate that is not good ({reason.verify_message})"
    if isinstance(reason, TimeoutError):
        return "did not answer in time"
    if isinstance(reason, OSError) and reason.strerror:
        return f"cannot be reached ({reason.strerror})"
    return f"cannot be reached ({type(reason).__name__})"
