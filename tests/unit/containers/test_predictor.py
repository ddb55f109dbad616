"""The example service: its model, its answers, and its stop, against the real process."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

FOLDER = Path(__file__).parents[3] / "images" / "predictor"
sys.path.insert(0, str(FOLDER))

import linear  # noqa: E402
import predictor  # noqa: E402

MODEL = linear.load(FOLDER / "model.json")
SETOSA, VERSICOLOR, VIRGINICA = [5.1, 3.5, 1.4, 0.2], [5.9, 2.8, 4.3, 1.3], [6.7, 3.0, 5.8, 2.3]


# --- The model


@pytest.mark.parametrize(
    ("features", "label"), [(SETOSA, "setosa"), (VERSICOLOR, "versicolor"), (VIRGINICA, "virginica")]
)
def test_known_flowers(features, label):
    predicted, probabilities = linear.predict(MODEL, features)
    assert predicted == label == max(probabilities, key=probabilities.get)
    assert sum(probabilities.values()) == pytest.approx(1, abs=0.001)


def test_features_by_name_come_in_the_models_order():
    named = dict(zip(reversed(MODEL.features), reversed(SETOSA), strict=True))
    assert linear.vector(MODEL, named) == SETOSA


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(MODEL.features) | st.text(), inner),
    max_leaves=8,
)


@given(st.lists(st.floats() | st.integers() | st.text(max_size=5), min_size=4, max_size=4) | json_values)
def test_whatever_is_given_is_predicted_or_refused(given_value):
    try:
        features = linear.vector(MODEL, given_value)
    except linear.BadFeatures:
        return
    label, probabilities = linear.predict(MODEL, features)
    assert label in probabilities


@pytest.mark.long
@given(st.binary(max_size=100) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_read_or_refused(body):
    try:
        linear.vector(MODEL, predictor.given_features(MODEL, {}, body))
    except linear.BadFeatures:
        return


# --- The process


@contextmanager
def running(**environment: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"PORT": str(port), "FIEFDOM_HOST": "app1", "FIEFDOM_PORT": "8003", "FIEFDOM_VERSION": "1.2.3", **environment}
    process = subprocess.Popen(
        [sys.executable, str(FOLDER / "predictor.py")],
        env={**os.environ, **own, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert f"listens on port {port}" in process.stdout.readline()
        yield port, process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running() as (port, _):
        yield port


def ask(port: int, path: str, method: str = "GET", body: object = None) -> tuple[int, dict]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def test_an_answer_says_where_it_comes_from(port):
    status, answer = ask(port, "/predict")
    assert status == 200
    assert answer["prediction"] == "setosa"
    assert {key: answer[key] for key in ("service", "version", "host", "port")} == {
        "service": "predictor",
        "version": "1.2.3",
        "host": "app1",
        "port": 8003,
    }


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("/predict?features=6.7,3.0,5.8,2.3", "GET", None),
        ("/predict?sepal_length=6.7&sepal_width=3&petal_length=5.8&petal_width=2.3", "GET", None),
        ("/predict", "POST", {"features": VIRGINICA}),
        ("/predict", "POST", VIRGINICA),
        ("/predict", "POST", dict(zip(MODEL.features, VIRGINICA, strict=True))),
    ],
)
def test_the_ways_to_give_features(port, path, method, body):
    status, answer = ask(port, path, method, body)
    assert (status, answer["prediction"]) == (200, "virginica")


@pytest.mark.parametrize(
    ("request_", "status", "error"),
    [
        (("/predict?features=1,2", "GET", None), 400, "features must be 4 numbers"),
        (("/predict?features=1,2,3,nan", "GET", None), 400, "out of range"),
        (("/predict?sepal_length=1", "GET", None), 400, "missing sepal_width"),
        (("/predict?delay_ms=-1", "GET", None), 400, "delay_ms must lie between"),
        (("/predict?delay_ms=x", "GET", None), 400, "delay_ms must be a number"),
        (("/predict", "POST", {"features": [True, 1, 1, 1]}), 400, "true is not a number"),
        (("/predict", "POST", "x" * 70000), 413, "at most"),
        (("/nothing", "GET", None), 404, "nothing at /nothing"),
    ],
)
def test_what_cannot_be_answered_is_said(port, request_, status, error):
    got, answer = ask(port, *request_)
    assert got == status
    assert error in answer["error"]


def test_the_delay_is_obeyed(port):
    began_s = time.monotonic()
    assert ask(port, "/predict?delay_ms=200")[0] == 200
    assert time.monotonic() - began_s >= 0.2


def test_a_connection_is_kept(port):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        local = set()
        for _ in range(3):
            connection.request("GET", "/predict")
            assert connection.getresponse().read()
            local.add(connection.sock.getsockname())
        assert len(local) == 1


def test_switches_for_failing():
    with running(FAIL_HEALTH="1", FAIL_PREDICT="1", BASE_PATH="iris") as (port, _):
        assert ask(port, "/health")[0] == 503
        assert ask(port, "/iris/predict")[0] == 500


def test_a_stop_finishes_every_open_request_and_ends_with_0():
    with running() as (port, process):
        idle = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        idle.request("GET", "/predict")
        idle.getresponse().read()
        answers: list[tuple[int, str | None]] = []

        def slow() -> None:
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
                connection.request("GET", "/predict?delay_ms=700")
                response = connection.getresponse()
                response.read()
                answers.append((response.status, response.getheader("Connection")))

        clients = [threading.Thread(target=slow) for _ in range(20)]
        for client in clients:
            client.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.15)
        # An idle connection that happens to carry a request now still gets its answer, and is told to be the last.
        idle.request("GET", "/predict")
        last = idle.getresponse()
        assert (last.status, last.getheader("Connection")) == (200, "close")
        with pytest.raises(ConnectionRefusedError):
            ask(port, "/predict")
        for client in clients:
            client.join()
        assert answers == [(200, "close")] * 20
        assert process.wait(5) == 0
