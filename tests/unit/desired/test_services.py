"""The services concern by value."""

from fiefdom.desired import services
from fiefdom.desired.state import Container, HostState, Image, Unit, spec_hash
from helpers.example import context


def instance(name: str, host: str = "app1", **changes: object) -> tuple[Container, HostState]:
    state = services.desired(context(host, **changes))
    return next(c for c in state.containers if c.name == name), state


def test_one_container_and_unit_for_each_port() -> None:
    state = services.desired(context("app2"))
    assert [c.name for c in state.containers] == ["predictor-8000", "predictor-8001", "web-9000"]
    assert state.units == (
        Unit("fiefdom-predictor@8000.service"),
        Unit("fiefdom-predictor@8001.service"),
        Unit("fiefdom-web@9000.service"),
    )
    assert state.images == (Image("team/predictor:1.2.0"), Image("team/web:7"))


def test_a_gateway_runs_none() -> None:
    assert services.desired(context("gw1")) == HostState()


def test_the_whole_of_an_instance() -> None:
    container, _ = instance("web-9000", "app2")
    assert container == Container(
        name="web-9000",
        unit="fiefdom-web@9000.service",
        role="instance",
        image="team/web:7",
        args=(
            "--network=bridge",
            "--publish=10.1.0.22:9000:3000",
            "--env-file=/etc/fiefdom/containers/web-9000.env",
            "--init",
            "--restart=no",
            "--read-only",
            "--tmpfs=/tmp:rw,noexec,nosuid,nodev,size=64m,mode=1777",
            "--tmpfs=/var/cache/web:rw,noexec,nosuid,nodev,size=64m,mode=1777",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            "--memory=256m",
            "--memory-swap=256m",
            "--pids-limit=256",
            "--ulimit=nofile=4096:4096",
            "--log-driver=local",
            "--log-opt=max-size=10m",
            "--log-opt=max-file=5",
            "--cpus=1",
            "--user=1000:1000",
        ),
        command=("serve", "--name", "two words"),
        config=("/etc/fiefdom/containers/web-9000.env",),
        probe="http://10.1.0.22:9000/ok",
        probe_timeout_s=1.5,
        start_timeout_s=20,
        stop_grace_s=5,
        version="7",
        service="web",
    )


def test_environment_is_the_services_then_the_hosts_then_ours() -> None:
    _, state = instance("predictor-8001")
    file = state.file("/etc/fiefdom/containers/predictor-8001.env")
    assert file.mode == 0o600
    assert file.content.decode() == (
        "FIEFDOM_HOST=app1\nFIEFDOM_PORT=8001\nFIEFDOM_SERVICE=predictor\nFIEFDOM_VERSION=1.2.0\n"
        "MODEL=small\nTOKEN=s3cret value # kept\n"
    )


def test_a_hosts_limits_replace_the_services() -> None:
    container, _ = instance("predictor-8000")
    assert {"--memory=1024m", "--cpus=2", "--tmpfs=/tmp:rw,noexec,nosuid,nodev,size=256m,mode=1777"} <= {
        *container.args
    }


def test_a_registry_stands_before_the_image() -> None:
    container, _ = instance("predictor-8000", registry={"server": "registry.example.org:5000/team"})
    assert container.image == "registry.example.org:5000/team/team/predictor:1.2.0"


def test_what_makes_an_instance_another_one() -> None:
    def spec(**service: object) -> str:
        return spec_hash(*instance("predictor-8000", services={"predictor": service}))

    before = spec()
    assert spec() == before
    assert spec(version="1.2.1") != before
    assert spec(environment={"TOKEN": "other"}) != before
    assert spec(container_port=9999) != before
    assert spec(stop_grace_s=31) != before
    # Neither how it is watched nor how many siblings it has.
    assert spec(health={"path": "/ready", "start_timeout_s": 5}) == before
    assert spec(health={"status": 204, "host": "www.example.org"}) == before
    assert spec(instances=2) == before
    assert spec(health=OWN_PORT) != before, "it publishes another port"


OWN_PORT = {"container_port": 3001, "base_port": 9100}


def test_checks_may_have_ports_of_their_own() -> None:
    container, state = instance("predictor-8001", services={"predictor": {"health": OWN_PORT}})
    assert container.probe == "http://10.1.0.21:9101/health"
    assert "--publish=10.1.0.21:8001:8000" in container.args
    assert {"--publish=10.1.0.21:9101:3001", "--label=fiefdom.checks=9101"} < {*container.args}
    assert next(c.probe for c in state.containers) == "http://10.1.0.21:9100/health"


def test_settings_of_checks_are_written_down_where_they_are_no_defaults() -> None:
    def settings(**health: object) -> list[str]:
        _, state = instance("predictor-8000", services={"predictor": {"health": health}})
        lines = state.file("/etc/fiefdom/containers/predictor-8000.conf").content.decode().splitlines()
        return [line for line in lines if line.startswith("probe_")]

    assert settings() == settings(status="200-399") == ["probe_timeout_s 2"]
    assert settings(status=[204, "300-399"], host="x.org:81") == [
        "probe_host x.org:81",
        "probe_status 204,300-399",
        "probe_timeout_s 2",
    ]


def test_systemd_waits_longer_than_the_container_may_take() -> None:
    _, state = instance("web-9000", "app2")
    unit = state.file("/etc/systemd/system/fiefdom-web@.service").content.decode()
    assert "TimeoutStartSec=145\n" in unit
    assert "TimeoutStopSec=35\n" in unit


GIVEN = {
    "writable_root": True,
    "capabilities": ["NET_BIND_SERVICE", "IPC_LOCK"],
    "shm_size": "128m",
    "devices": ["/dev/fuse", "/dev/snd:/dev/sound:r"],
    "gpus": "all",
    "extra_hosts": {"db": "10.9.0.1", "search.example.org": "10.9.0.2"},
    "tmpfs": ["/run", {"path": "/tmp", "exec": True}],
}


def test_hardening_gives_way_where_a_key_says_so_and_nowhere_else() -> None:
    before, _ = instance("web-9000", "app2")
    after, _ = instance("web-9000", "app2", services={"web": GIVEN})
    assert [arg for arg in before.args if arg not in after.args] == [
        "--read-only",
        "--tmpfs=/tmp:rw,noexec,nosuid,nodev,size=64m,mode=1777",
        "--tmpfs=/var/cache/web:rw,noexec,nosuid,nodev,size=64m,mode=1777",
        "--security-opt=no-new-privileges",
    ]
    assert [arg for arg in after.args if arg not in before.args] == [
        "--tmpfs=/run:rw,noexec,nosuid,nodev,size=64m,mode=1777",
        "--tmpfs=/tmp:rw,exec,nosuid,nodev,size=64m,mode=1777",
        "--security-opt=no-new-privileges=false",
        "--cap-add=NET_BIND_SERVICE",
        "--cap-add=IPC_LOCK",
        "--shm-size=128m",
        "--device=/dev/fuse",
        "--device=/dev/snd:/dev/sound:r",
        "--gpus=all",
        "--add-host=db:10.9.0.1",
        "--add-host=search.example.org:10.9.0.2",
    ]
    assert (before.devices, after.devices) == ((), ("/dev/fuse", "/dev/snd"))


def test_each_key_makes_another_instance_of_it() -> None:
    specs = {key: spec_hash(*instance("web-9000", "app2", services={"web": {key: GIVEN[key]}})) for key in GIVEN}
    specs["none"] = spec_hash(*instance("web-9000", "app2"))
    assert len(set(specs.values())) == len(specs)
