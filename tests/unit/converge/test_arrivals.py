"""What a plan's images need of a host: room where Docker keeps them, and the processors they are built for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import pytest

from fiefdom.converge import arrivals
from fiefdom.converge.change import Change
from fiefdom.converge.plan import HostPlan, Plan
from fiefdom.converge.run import Known
from fiefdom.converge.snapshot import Disk, Snapshot, StoredImage
from fiefdom.desired.state import HostState, Image, LocalImage
from fiefdom.errors import FiefdomError
from helpers.example import context

MIB = 1 << 20
REF = "team/predictor:1.2.0"
SENT = Image(REF)
IMAGE = LocalImage("amd64", (("sha256:base", 100 * MIB), ("sha256:top", 20 * MIB)))
HOST = Snapshot(0, "debian", "trixie", docker="up", architecture="amd64", free_kib=1, disk=Disk(10 << 20, 8 << 20))


def known(images: Mapping[str, LocalImage], **changes: object) -> Known:
    cluster = context(**changes).cluster

    def local(refs: Collection[str]) -> dict[str, LocalImage]:
        return {ref: image for ref, image in images.items() if ref in refs}

    return Known(cluster, context().secrets, {}, local=local)


def plan(now: Snapshot = HOST, *more: Change, image: Image = SENT) -> HostPlan:
    return HostPlan("app1", (Change("image", "+", REF, "not on the host", image), *more), HostState(), now)


def findings(of: Known, host: HostPlan) -> list[tuple[str, str]]:
    return [(f.level, f.what) for f in arrivals.judged(of, [host])["app1"].findings]


def with_free(kib: int, **changes: object) -> Snapshot:
    return replace(HOST, disk=Disk(10 << 20, kib), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("free_mib", "said"),
    [(239, [("refused", "disk")]), (240, [("warning", "disk")]), (751, [("warning", "disk")]), (752, [])],
)
def test_what_comes_has_to_fit_twice_and_a_twentieth_should_be_left(free_mib: int, said: list[tuple[str, str]]) -> None:
    assert findings(known({REF: IMAGE}), plan(with_free(free_mib * 1024))) == said


def test_layers_that_the_host_has_do_not_come() -> None:
    there = {"sha256:old": StoredImage(layers=("sha256:base", "sha256:before"))}
    assert findings(known({REF: IMAGE}), plan(with_free(40 * 1024, stored=there))) == [("warning", "disk")]
    assert findings(known({REF: IMAGE}), plan(with_free(39 * 1024, stored=there))) == [("refused", "disk")]
    # A layer on another one is another layer.
    other = {"sha256:old": StoredImage(layers=("sha256:other", "sha256:base"))}
    assert findings(known({REF: IMAGE}), plan(with_free(200 * 1024, stored=other))) == [("refused", "disk")]


def test_a_layer_of_two_images_comes_once() -> None:
    second = "fiefdom/serf:1"
    both = {REF: IMAGE, second: replace(IMAGE, layers=(IMAGE.layers[0], ("sha256:more", MIB)))}
    host = plan(with_free(242 * 1024), Change("image", "+", second, "not on the host", Image(second)))
    assert findings(known(both), host) == [("warning", "disk")]


def test_a_refusal_tells_sizes_and_a_way_out() -> None:
    with pytest.raises(FiefdomError) as error:
        arrivals.require_fit(known({REF: IMAGE}), Plan((plan(with_free(100 * 1024)),)))
    assert str(error.value) == (
        "app1: 100 MiB are free where Docker has its images, and 240 MiB are needed: 120 MiB of layers, twice until "
        "Docker has unpacked them; make room there (`docker system df -v` tells of it), or give Docker another disk: "
        "docker.daemon.data-root"
    )


def test_where_nobody_knows_which_layer_has_how_much_nothing_is_refused() -> None:
    image = replace(IMAGE, exact=False)
    assert findings(known({REF: image}), plan(with_free(100 * 1024))) == [("warning", "disk")]


def test_of_a_registrys_images_a_modest_size_is_asked_for_and_told_as_such() -> None:
    of, pulled = known({REF: IMAGE}), Image(REF, pull=REF)
    (finding,) = arrivals.judged(of, [plan(with_free(199 * 1024), image=pulled)])["app1"].findings
    assert finding.level == "refused"
    assert finding.effect == f"200 MiB for {REF}, whose size nobody knows: it is known once the host has pulled it"
    assert findings(of, plan(with_free(200 * 1024), image=pulled)) == [("warning", "disk")]


def test_an_image_that_is_to_be_built_anew_is_not_known_by_the_one_before() -> None:
    before = replace(IMAGE, architecture="arm64", context="before")
    of = replace(known({REF: before}), identities={REF: "context:now"})
    (finding,) = arrivals.judged(of, [plan(with_free(199 * 1024))])["app1"].findings
    assert "whose size nobody knows: it is known once it is built" in finding.effect
    assert findings(replace(of, identities={REF: "context:before"}), plan()) == [("refused", "architecture")]


def test_packages_on_the_same_disk_come_first() -> None:
    package = Change("package", "+", "docker.io", "not installed")
    same = replace(with_free(800 * 1024), free_kib=800 * 1024)
    assert findings(known({REF: IMAGE}), plan(same, package)) == [("refused", "disk")]
    assert findings(known({REF: IMAGE}), plan(with_free(800 * 1024), package)) == []


def test_a_host_that_does_not_tell_of_its_disk_is_believed() -> None:
    assert findings(known({REF: IMAGE}), plan(replace(HOST, disk=None, free_kib=None))) == []


def test_a_plan_that_brings_no_image_asks_nobody() -> None:
    def asked(_: Collection[str]) -> dict[str, LocalImage]:
        raise AssertionError

    of = replace(known({}), local=asked)
    removal = HostPlan("app1", (Change("image", "-", REF, "3 newer are kept", REF),), HostState(), with_free(0))
    assert arrivals.judged(of, [removal])["app1"].findings == ()


def test_what_comes_with_a_pending_release_is_a_warning_until_that() -> None:
    pending = replace(plan().changes[0], release="predictor")
    host = replace(plan(with_free(0)), changes=(pending,))
    assert findings(known({REF: replace(IMAGE, architecture="arm64")}), host) == [
        ("warning", "architecture"),
        ("warning", "disk"),
    ]


@pytest.mark.parametrize(
    ("debians", "dockers"),
    [("amd64", "amd64"), ("arm64", "arm64"), ("armhf", "arm"), ("i386", "386"), ("ppc64el", "ppc64le"), ("", "s390x")],
)
def test_an_image_for_the_hosts_processors_is_taken(debians: str, dockers: str) -> None:
    now = replace(HOST, architecture=debians)
    assert findings(known({REF: replace(IMAGE, architecture=dockers)}), plan(now)) == []
    assert findings(known({REF: replace(IMAGE, architecture="")}), plan(now)) == []


def test_an_image_for_others_is_refused_with_the_way_to_make_another() -> None:
    laptops = replace(IMAGE, architecture="arm64")
    with pytest.raises(FiefdomError) as error:
        arrivals.require_fit(known({REF: laptops}), Plan((plan(),)))
    assert str(error.value) == (
        f"app1: {REF} on this machine is for arm64, and the host is amd64: its containers could not start there; build "
        "it with `docker build --platform linux/amd64`, or pull it with the same option"
    )
    (finding,) = arrivals.judged(known({REF: replace(laptops, context="c")}), [plan()])["app1"].findings
    assert finding.mend == (
        f"`docker image rm {REF}` here, and build it anew with DOCKER_DEFAULT_PLATFORM=linux/amd64 in the environment"
    )
