"""A scikit-learn model behind HTTP, with a redis as its cache where it is linked to one.

A WSGI application, `service:application`. `GET /predict?features=1,2,...` or `POST /predict` with
`{"features": [...]}` or `{"features": {"name": value, ...}}`; `GET /health`. Environment: REDIS_HOST and REDIS_PORT, of
the link; CACHE_S, how long an answer is kept there; FIEFDOM_VERSION, FIEFDOM_HOST and FIEFDOM_PORT to answer with.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import joblib
import redis

BODY_LIMIT_BYTES = 64 * 1024
# A cache that takes longer than the model is none: it is left alone for a while then.
CACHE_TIMEOUT_S = 0.1
CACHE_REST_S = 5.0

StartResponse = Callable[[str, list[tuple[str, str]]], object]


class BadRequest(ValueError):
    """The request cannot be answered; the message is meant for the client."""


class Model:
    def __init__(self, path: Path) -> None:
        kept = joblib.load(path)
        self.features: list[str] = kept["features"]
        self._estimator = kept["estimator"]
        self._classes: list[str] = kept["classes"]
        # The first prediction is the slowest, and tells whether library and model fit together.
        self.predict(kept["example"])

    def predict(self, features: list[float]) -> dict[str, Any]:
        """The likeliest class and the probability of each, rounded to four digits."""
        (row,) = self._estimator.predict_proba([features]).tolist()
        probabilities = {name: round(share, 4) for name, share in zip(self._classes, row, strict=True)}
        return {"prediction": max(probabilities, key=probabilities.__getitem__), "probabilities": probabilities}

    def vector(self, given: object) -> list[float]:
        """Features as numbers in the model's order, from a list or from a mapping of names. Raises BadRequest."""
        if isinstance(given, Mapping):
            missing = [name for name in self.features if name not in given]
            if missing:
                raise BadRequest(f"missing {', '.join(missing)}")
            given = [given[name] for name in self.features]
        if not isinstance(given, list) or len(given) != len(self.features):
            raise BadRequest(f"features must be {len(self.features)} numbers: {', '.join(self.features)}")
        try:
            numbers = [float(value) for value in given]
        except (TypeError, ValueError, OverflowError):
            raise BadRequest("features must be numbers") from None
        # A forest compares in single precision.
        if not all(math.isfinite(number) and abs(number) < 1e30 for number in numbers):
            raise BadRequest("features must be finite numbers")
        return numbers


class Cache:
    """Answers of this version, in the redis of the link. That it is away costs nobody an answer."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        host, version = environ.get("REDIS_HOST"), environ.get("FIEFDOM_VERSION", "unknown")
        self._prefix = f"predictions:{version}:"
        self._keep_s = int(environ.get("CACHE_S", "300"))
        self._rests_until_s = 0.0
        self._redis = host and redis.Redis(
            host=host,
            port=int(environ.get("REDIS_PORT", "6379")),
            password=environ.get("REDIS_PASSWORD") or None,
            socket_timeout=CACHE_TIMEOUT_S,
            socket_connect_timeout=CACHE_TIMEOUT_S,
            retry=None,
        )

    def answer(self, features: list[float], work_out: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], str]:
        """The answer, and whether it was a hit, a miss, or made with the cache off."""
        key = self._prefix + hashlib.sha256(json.dumps(features).encode()).hexdigest()
        kept = self._ask(lambda store: store.get(key))
        if isinstance(kept, bytes):
            return json.loads(kept), "hit"
        found = work_out()
        stored = self._ask(lambda store: store.set(key, json.dumps(found), ex=self._keep_s))
        return found, "miss" if stored else "off"

    def _ask(self, question: Callable[[Any], object]) -> object:
        if not self._redis or time.monotonic() < self._rests_until_s:
            return None
        try:
            return question(self._redis)
        except redis.RedisError:
            self._rests_until_s = time.monotonic() + CACHE_REST_S
            return None


MODEL = Model(Path(__file__).with_name("model.joblib"))
CACHE = Cache(os.environ)
WHO = {name: os.environ.get(f"FIEFDOM_{name.upper()}", "unknown") for name in ("version", "host", "port")}


def application(environ: Mapping[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    try:
        status, document, cache = respond(environ)
    except BadRequest as error:
        status, document, cache = "400 Bad Request", {"error": str(error)}, None
    body = json.dumps({**document, **WHO}).encode() + b"\n"
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response(status, headers + ([("X-Cache", cache)] if cache else []))
    return [body]


def respond(environ: Mapping[str, Any]) -> tuple[str, dict[str, Any], str | None]:
    """Status, document, and what the cache did. Raises BadRequest."""
    match environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""):
        case "GET" | "HEAD", "/health":
            return "200 OK", {"status": "healthy"}, None
        case (("GET" | "HEAD" | "POST"), "/predict"):
            features = MODEL.vector(asked_features(environ))
            answer, cache = CACHE.answer(features, lambda: MODEL.predict(features))
            return "200 OK", answer, cache
        case _:
            return "404 Not Found", {"error": "there is /predict and /health"}, None


def asked_features(environ: Mapping[str, Any]) -> object:
    if environ["REQUEST_METHOD"] != "POST":
        return parse_qs(environ.get("QUERY_STRING", "")).get("features", [""])[0].split(",")
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        raise BadRequest("the body has no length") from None
    if length > BODY_LIMIT_BYTES:
        raise BadRequest(f"the body may have {BODY_LIMIT_BYTES} bytes")
    try:
        return json.loads(environ["wsgi.input"].read(length))["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadRequest('the body must be JSON: {"features": [...]}') from None
