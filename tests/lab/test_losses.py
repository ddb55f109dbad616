"""What nobody planned: killed, cut off, hung. No request that may be repeated fails; rotation's time is measured."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fiefdom import lab
from helpers.load import POSTS, Load
from helpers.operator_view import GATEWAY_URL, TRAFFIC, Site, answers, await_true, tell

URL = f"{GATEWAY_URL}/predict"
METRICS = f"{GATEWAY_URL}:8404/metrics"
# A request that hangs is given up after this long, and goes to another host if it may be repeated.
SERVER_TIMEOUT_S = 5


@pytest.fixture(scope="module")
def impatient(_site: Site) -> Iterator[str]:
    """An inventory whose gateway gives a silent instance up soon."""

    def change(data: dict[str, Any]) -> None:
        data["gateway"] = {"server_timeout_s": SERVER_TIMEOUT_S}

    path = _site.inventory("impatient", change)
    _site.apply(path)
    yield path
    _site.apply()


def idempotent(load: Load) -> int:
    """Failures of requests that may be sent twice."""
    return load.failed - load.failed_of(*POSTS)


def down_after_s(host: str, break_it: Callable[[], object]) -> float:
    """Seconds from the beginning of a loss until HAProxy has none of the host's servers up."""
    began = time.monotonic()
    break_it()
    await_true(lambda: not servers_up(host), what=f"{host} out of rotation")
    return time.monotonic() - began


def servers_up(host: str) -> int:
    with urllib.request.urlopen(METRICS, timeout=5) as reply:
        text = reply.read().decode()
    pattern = rf'^haproxy_server_status{{proxy="predictor",server="{host}-[0-9]+",state="UP"}} 1$'
    return len(re.findall(pattern, text, re.MULTILINE))


@pytest.mark.parametrize(
    ("loss", "break_it", "mend_it"),
    [
        ("power cut", lab.power_cut, lab.power_on),
        pytest.param("hang", lab.freeze, lab.thaw, marks=pytest.mark.proof),
        pytest.param("partition", lab.disconnect, lab.reconnect, marks=pytest.mark.proof),
    ],
)
def test_a_lost_app_host(
    _site: Site, impatient: str, loss: str, break_it: Callable[[str], None], mend_it: Callable[[str], None]
) -> None:
    with Load(URL, at_least=20_000) as load:
        took_s = down_after_s("app2", lambda: break_it("app2"))
        await_true(lambda: not any(a.startswith("app2:") for a in answers(20)), what="answers of the others alone")
        mend_it("app2")
        lab.await_booted(["app2"])
        _site.await_serving(impatient)
    tell(f"{loss} of app2", load)
    TRAFFIC.append(f"{loss} of app2: out of rotation after {took_s:.1f} s")
    assert idempotent(load) == 0, load.report()
    assert _site.plan(impatient)[0] == 0


def test_a_killed_instance_is_back_without_help(_site: Site, impatient: str) -> None:
    pid = "docker inspect predictor-8000 --format '{{.State.Pid}}'"
    before = _site.ssh("app1", pid)
    with Load(URL, at_least=20_000) as load:
        _site.ssh("app1", f"kill -9 {before}")
        await_true(lambda: _site.ssh("app1", pid) not in ("0", before), timeout_s=10, what="a new process")
        _site.await_serving(impatient)
    tell("instance killed", load)
    assert idempotent(load) == 0, load.report()


@pytest.mark.proof
def test_a_killed_serf_agent_of_an_app_host(_site: Site, impatient: str) -> None:
    with Load(URL, at_least=20_000) as load:
        _site.ssh("app1", "pkill -9 -x serf")
        await_true(lambda: _site.status(impatient)["serving"], what="the agent back")
    tell("Serf of an app host killed", load)
    assert idempotent(load) == 0, load.report()


@pytest.mark.proof
def test_a_killed_worker_of_haproxy_is_back_in_a_moment(_site: Site, impatient: str) -> None:
    """With one gateway, what is open fails, and what comes while nobody listens; how long that is, is told."""
    worker = "pgrep -P $(pgrep -o -x haproxy) -x haproxy"
    before = _site.ssh("gw1", worker)
    with Load(URL, at_least=20_000) as load:
        began = time.monotonic()
        _site.ssh("gw1", f"kill -9 {before.splitlines()[-1]}")
        await_true(answered, timeout_s=30, what="an answer")
        took_s = time.monotonic() - began
        _site.await_serving(impatient)
    tell("HAProxy's worker killed", load)
    TRAFFIC.append(f"HAProxy's worker killed: answers again after {took_s:.1f} s")
    assert load.answered, load.report()
    assert _site.plan(impatient)[0] == 0


def answered() -> bool:
    try:
        return bool(answers(1))
    except OSError:
        return False
