"""What a gateway is asked for: a part of its status where that is enough, all of it where it is an older one."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from fiefdom.cluster.views import GATEWAY_STATUS, SUMMARY, Silent, gateway_view
from fiefdom.converge.run import Hosts

WHOLE = json.dumps({"config": {"ok": True, "digest": "d"}})
USAGE = "usage: fiefdom-gateway run|status|healthy\n"


class Gateway:
    """Answers one command after the other."""

    def __init__(self, *answers: tuple[bool, str, str]) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []

    def shell(self, _name: str, argv: Any) -> tuple[bool, str, str]:
        self.asked.append(tuple(argv)[len(GATEWAY_STATUS) :])
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("part", "answers", "asked"),
    [
        ((), [(True, WHOLE, "")], [()]),
        (SUMMARY, [(True, WHOLE, "")], [SUMMARY]),
        (("host", "app1"), [(False, "", USAGE), (True, WHOLE, "")], [("host", "app1"), ()]),
    ],
)
def test_an_older_gateway_is_asked_for_all(part, answers, asked):
    gateway = Gateway(*answers)
    view = gateway_view(cast(Hosts, gateway), "gw1", part)
    assert (gateway.asked, view.config.digest) == (asked, "d")


def test_one_that_does_not_answer_is_not_asked_again():
    gateway = Gateway((False, "", "no such container"))
    assert gateway_view(cast(Hosts, gateway), "gw1", SUMMARY) == Silent("no such container")
    assert gateway.asked == [SUMMARY]
