"""What a container's supervisor reads, and the script itself as far as it can be judged without running it."""

import subprocess
import sys
from pathlib import Path

import pytest

from fiefdom.desired import containers, programs
from fiefdom.desired.containers import FACTS, conf_file, env_file, env_path, with_containers
from fiefdom.desired.state import Container, HostState, digest, spec_hash
from fiefdom.errors import FiefdomError

CONTAINER = Container(
    name="predictor-8000",
    unit="fiefdom-predictor@8000.service",
    role="instance",
    image="predictor:1",
    args=("--read-only", "--label=a b", f"--env-file={env_path('predictor-8000')}"),
    command=("serve", " two words "),
    config=("/etc/fiefdom/containers/predictor-8000.env",),
    probe="http://10.1.0.21:8000/health",
    probe_timeout_s=1.5,
    version="1",
)
STATE = HostState(files=(env_file("predictor-8000", {"B": "2 # kept", "A": "1"}),))


def test_the_configuration_is_lines_of_key_and_value() -> None:
    file = conf_file(CONTAINER, STATE)
    assert file.path == "/etc/fiefdom/containers/predictor-8000.conf"
    assert file.content.decode().splitlines()[1:] == [
        f"spec {spec_hash(CONTAINER, STATE)}",
        "image predictor:1",
        "role instance",
        "version 1",
        "probe http://10.1.0.21:8000/health",
        "probe_timeout_s 1.5",
        "start_timeout_s 60",
        "stop_signal SIGTERM",
        "stop_grace_s 30",
        f"env_sha256 {STATE.files[0].digest}",
        "arg --read-only",
        "arg --label=a b",
        "arg --env-file=/etc/fiefdom/containers/predictor-8000.env",
        "cmd serve",
        "cmd  two words ",
    ]


def test_the_environment_is_closed_and_sorted() -> None:
    (file,) = STATE.files
    assert file.content == b"A=1\nB=2 # kept\n"
    assert (file.mode, file.secret) == (0o600, True)


def test_a_line_break_is_refused() -> None:
    with pytest.raises(FiefdomError, match=r"predictor-8000: cmd 'a\\nb' holds a line break"):
        conf_file(Container("predictor-8000", "u", "instance", "i", (), ("a\nb",)), HostState())


def test_the_supervisor_travels_with_its_containers() -> None:
    state = with_containers(STATE, CONTAINER)
    assert state.file("/usr/local/lib/fiefdom/container").mode == 0o755
    assert state.file("/etc/fiefdom/containers/predictor-8000.conf")
    assert state.containers == (CONTAINER,)
    assert state + state == state


@pytest.mark.long
def test_the_script_is_clean_for_shellcheck(tmp_path: Path) -> None:
    path = tmp_path / "container"
    path.write_bytes(with_containers(STATE, CONTAINER).file("/usr/local/lib/fiefdom/container").content)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, path], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == 0


def facts(command: str, stdin: str = "") -> str:
    """What ``command`` prints where the facts are known."""
    words = ["sh", "-eu", "-c", f"{FACTS}\n{command}"]
    return subprocess.run(words, input=stdin, capture_output=True, text=True, check=True).stdout


def test_the_facts_format_fits_into_single_quotes_and_two_lines() -> None:
    found = facts('printf %s "$facts_format"')
    assert "'" not in found
    assert len(found.splitlines()) == 2


def test_the_facts_are_what_every_stamp_out_there_is_a_digest_of() -> None:
    # With any other format or order, every container of every cluster would be taken for changed by hand, and replaced.
    asked = facts('printf %s "$facts_format"')
    assert digest(asked) == "bb33872f503713759087e240ab535278ea88890ccb96f9a129c06c2ea6c49aaa"
    assert asked.startswith("{{.Name}} {{json .Image}} {{json .Config.User}} ")
    env = '["TOKEN=s3cret"]'
    assert facts("container_facts", f"/web x\n{env}\n") == f"/web x\nenv {digest(env)}\n"


def test_the_script_has_its_paths_and_limits_where_this_library_looks_for_them() -> None:
    text = programs.text_of("container")
    assert f"\nhandover={programs.DIR}/handover\n" in text
    assert f"\nconf_dir={containers.CONF_DIR}\n" in text
    assert f"\nstamp_dir={containers.STAMP_DIR}\n" in text
    assert f"\ndocker_timeout_s={containers.DOCKER_TIMEOUT_S}\n" in text
