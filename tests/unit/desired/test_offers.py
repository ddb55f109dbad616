"""The offers concern by value."""

from dataclasses import replace

from fiefdom.desired import offers
from fiefdom.desired.state import HostState
from helpers.example import context


def word(state: HostState, service: str) -> str:
    return next(offer.word for offer in state.offers if offer.service == service)


def test_only_app_hosts_make_any() -> None:
    assert offers.desired(context("gw1")) == HostState()


def test_a_host_offers_each_of_its_services_by_itself() -> None:
    state = offers.desired(context("app2"))
    assert {o.service: o.word for o in state.offers} == {"predictor": "1.2.0;8000-8001", "web": "7;9000-9000"}
    assert [u.name for u in state.units] == ["fiefdom-offer-predictor.service", "fiefdom-offer-web.service"]
    none_here = {"app2": {"services": {"web": {"instances": 0}}}}
    assert [o.service for o in offers.desired(context("app2", hosts=none_here)).offers] == ["predictor"]


def test_what_a_host_says_is_what_its_unit_reads() -> None:
    state = offers.desired(context("app2"))
    conf = state.file(offers.conf_path("predictor")).content.decode()
    assert "\nword 1.2.0;8000-8001\n" in conf
    assert "\ncontainer predictor-8000\ncontainer predictor-8001\n" in conf
    running = replace(context("app2"), running={"predictor": "1.1.0"})
    assert word(offers.desired(running), "predictor") == "1.1.0;8000-8001"


def test_its_unit_comes_after_what_it_needs_and_needs_nothing_of_other_services() -> None:
    unit = offers.desired(context("app2")).file("/etc/systemd/system/fiefdom-offer-web.service").content.decode()
    for needed in ("fiefdom-serf-agent.service", "fiefdom-web@9000.service"):
        assert f"\nAfter={needed}\n" in unit or f"After=docker.service {needed}\n" in unit
    assert "predictor" not in unit and "Requires=" not in unit and "BindsTo=" not in unit
    # Also where its start was cut short, which ExecStop would leave out.
    assert "\nExecStopPost=-/usr/local/lib/fiefdom/offer withdraw web\n" in unit


def test_a_service_may_drain_in_a_time_of_its_own() -> None:
    state = offers.desired(context("app2", services={"web": {"drain": {"timeout_s": 7}}}))
    assert "\ndrain_timeout_s 7\n" in state.file(offers.conf_path("web")).content.decode()
    assert "\ndrain_timeout_s 60\n" in state.file(offers.conf_path("predictor")).content.decode()
    assert "TimeoutStopSec=52\n" in state.file("/etc/systemd/system/fiefdom-offer-web.service").content.decode()


def test_a_tag_tells_the_ports_of_checks_where_they_have_some_and_what_runs_has_them() -> None:
    own = {"web": {"health": {"container_port": 3001, "base_port": 9100}}}
    there = context("app2", services=own)

    def tag(**running: object) -> str:
        found = replace(there, **running)
        return word(offers.desired(found), "web")

    assert tag() == "7;9000-9000;9100"
    # A release is pending: what runs may have none yet, or others.
    assert tag(running={"web": "6"}) == "6;9000-9000"
    assert tag(running={"web": "6"}, checks={"web": 200}) == "6;9000-9000;9200"


def test_an_instance_of_a_service_that_is_called_like_an_offer_is_none() -> None:
    assert offers.is_offer(offers.unit_of("web"))
    assert not offers.is_offer("fiefdom-offer-web@8000.service")
