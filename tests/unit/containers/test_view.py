"""What is read of HAProxy's word for one host is what all of it says of that host."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "images" / "gateway"))

from fiefdom_gateway import view
from fiefdom_gateway.members import Unreadable

RECORDED = Path(__file__).parent / "data" / "haproxy-3.0"
STATE = (RECORDED / "show_servers_state.txt").read_text()
STAT = (RECORDED / "show_stat.txt").read_text()
# A host's name may begin with another one's, or be the end of one.
MORE = [
    line.replace("app1-", name) for name in ("app1-x-", "xapp1-") for line in STATE.splitlines() if " app1-" in line
]


@pytest.mark.parametrize("host", ["app1", "app2", "app1-x", "xapp1", "x", "app", "nobody"])
def test_one_hosts_servers_are_those_that_all_rows_have_of_it(host: str) -> None:
    state = STATE.rstrip() + "\n" + "\n".join(MORE) + "\n\n"
    wanted = view.by_host(view.rows(state, STAT))
    assert list(view.Current(state, STAT).get(host, ())) == wanted.get(host, [])
    assert list(view.Replaced([STAT, STAT]).get(host, ())) == 2 * view.by_host(view.busy(STAT)).get(host, [])


@pytest.mark.parametrize("cut", [1, 5, 40, 300])
def test_a_word_that_breaks_off_hides_nothing(cut: int) -> None:
    cut_state, cut_stat = STATE.rstrip()[:-cut], STAT.rstrip()[:-cut]
    for state, stat in ((cut_state, STAT), (STATE, cut_stat)):
        with pytest.raises(Unreadable):
            view.Current(state, stat)
    with pytest.raises(Unreadable):
        view.Replaced([cut_stat])
    with pytest.raises(Unreadable):
        view.Current("Can't find backend.\n", STAT).get("app1", ())
