"""Where the images of an inventory are, which of them a digest pins, and what they may not contradict each other in."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fiefdom.model import Cluster
from fiefdom.wording import dotted
from helpers.example import INVENTORY, merged

D, E = "sha256:" + "0a" * 32, "sha256:" + "0b" * 32
PASSWORD, TOKEN = {"env": "PASSWORD"}, {"command": ["print-token"]}
GHCR = {"server": "ghcr.io", "user": "ann", "password": TOKEN}
HUB = {"server": "docker.io/team", "user": "ann", "password": PASSWORD}


def cluster(web: dict[str, Any], **changes: Any) -> Cluster:
    """The example with other settings of its service `web`."""
    return Cluster.model_validate(merged(merged(INVENTORY, {"services": {"web": web}}), changes))


def refused(web: dict[str, Any], **changes: Any) -> list[str]:
    with pytest.raises(ValidationError) as raised:
        cluster(web, **changes)
    (error,) = raised.value.errors()
    return [f"{dotted(key)}: {says}" for key, says in error["ctx"]["all"]]


@pytest.mark.parametrize(
    ("image", "own", "ref", "server"),
    [
        # As ever: one registry has all.
        ("team/web", {"registry": {"server": "r.org/x"}}, "r.org/x/team/web:7", "r.org/x"),
        ("team/web", {}, "team/web:7", None),
        ("ghcr.io/team/web", {}, "ghcr.io/team/web:7", None),
        # An image's own name comes first.
        ("ghcr.io/team/web", {"registries": {"gh": GHCR}}, "ghcr.io/team/web:7", "ghcr.io"),
        (
            "ghcr.io/team/web",
            {"registries": {"gh": GHCR}, "registry": {"server": "r.org"}},
            "ghcr.io/team/web:7",
            "ghcr.io",
        ),
        ("team/web", {"registries": {"gh": GHCR}, "registry": {"server": "r.org"}}, "r.org/team/web:7", "r.org"),
        ("team/web", {"registries": {"gh": GHCR}}, "team/web:7", None),
        ("docker.io/team/web", {"registries": {"hub": HUB}}, "docker.io/team/web:7", "docker.io/team"),
        ("team/web", {"registries": {"hub": HUB}}, "team/web:7", None),
        ("r.org/team/web", {"registry": {"server": "r.org/x"}}, "r.org/team/web:7", "r.org/x"),
    ],
)
def test_an_image_is_where_its_name_says_or_where_all_are(
    image: str, own: dict[str, Any], ref: str, server: str | None
) -> None:
    found = cluster({"image": image}, **own)
    registry = found.registry_of("web")
    assert (found.image_ref("web"), registry and registry.server) == (ref, server)


def test_a_service_chooses_its_registry() -> None:
    registries = {"gh": {**GHCR, "server": "ghcr.io/team"}, "hub": HUB}
    found = cluster({"image": "web", "registry": "gh"}, registries=registries, registry={"server": "r.org"})
    assert found.image_ref("web") == "ghcr.io/team/web:7"
    assert found.image_ref("predictor") == "r.org/team/predictor:1.2.0"
    found = cluster({"image": "ghcr.io/team/web", "registry": "gh"}, registries=registries)
    assert found.image_ref("web") == "ghcr.io/team/web:7"


def test_only_the_passwords_of_registries_that_somebody_pulls_from_are_asked_for() -> None:
    registries = {"gh": GHCR, "hub": HUB}
    found = dict(cluster({"image": "ghcr.io/team/web"}, registries=registries).secret_sources())
    assert [dotted(key) for key in found] == ["registries.gh.password"]
    assert not dict(cluster({"image": "team/web"}, registries=registries).secret_sources())


@pytest.mark.parametrize("image", [f"ghcr.io/team/web@{D}", f"ghcr.io/team/web:7@{D}"])
def test_a_digest_pins_what_a_version_is(image: str) -> None:
    found = cluster({"image": image}, registries={"gh": GHCR})
    assert found.image_ref("web") == "ghcr.io/team/web:7"
    assert found.with_version("web", "7").services["web"].image == image
    # It is of that version alone.
    assert found.with_version("web", "6").services["web"].image == "ghcr.io/team/web"


@pytest.mark.parametrize(
    ("web", "changes", "says"),
    [
        (
            {"image": f"ghcr.io/team/web:8@{D}"},
            {"registries": {"gh": GHCR}},
            "services.web.image: its tag 8 is not the version 7; make them equal, or leave the tag out",
        ),
        (
            {"image": f"ghcr.io/team/web@{D}", "build": "web"},
            {"registries": {"gh": GHCR}},
            "services.web.image: a digest is a registry's, and services.web.build says how it is built here; take one "
            "out",
        ),
        (
            {"image": f"team/web@{D}"},
            {},
            "services.web.image: a digest is a registry's, and this image is sent from the operator's machine; name "
            "its registry in `registries`, or leave the digest out",
        ),
        (
            {"image": f"team/web@{D}", "version": "7"},
            {
                "registry": {"server": "docker.io"},
                "services": {"predictor": {"image": f"docker.io/team/web@{E}", "version": "7"}},
            },
            "services.web.image: is team/web:7 with another digest than services.predictor; give one of the two "
            "another version",
        ),
        (
            {"registry": "gl"},
            {"registries": {"hub": HUB, "gh": GHCR}},
            "services.web.registry: gl is not in `registries`; known are gh, hub",
        ),
        ({"registry": "gl"}, {}, "services.web.registry: gl is not in `registries`; known are none"),
        (
            {"image": "quay.io/team/web", "registry": "gh"},
            {"registries": {"gh": GHCR}},
            "services.web.registry: the image is at quay.io by its name, and gh is ghcr.io; leave one out",
        ),
        (
            {},
            {"registries": {"gh": {"server": "ghcr.io", "user": "ann"}}},
            "registries.gh: user and password go together; add the other one",
        ),
        (
            {},
            {"registries": {"a": HUB, "b": {**HUB, "server": "index.docker.io/other", "user": "bob"}}},
            "registries.b: Docker keeps one login for docker.io, and registries.a has another; give both the same",
        ),
        (
            {},
            {"registry": HUB, "registries": {"b": {**HUB, "password": TOKEN}}},
            "registries.b: Docker keeps one login for docker.io, and registry has another; give both the same",
        ),
    ],
)
def test_what_contradicts_itself_is_one_sentence(web: dict[str, Any], changes: dict[str, Any], says: str) -> None:
    assert refused(web, **changes) == [says]


@pytest.mark.parametrize(
    "image",
    [
        "team/web:7",
        "team/web@sha256:12",
        f"team/web@{D}0",
        "Team/web",
        "team//web",
        "a..b",
        "a..b/web",
        "-a.b/web",
        "a_b:5000/web",
        "https://r.org/web",
    ],
)
def test_what_is_no_image_is_told(image: str) -> None:
    with pytest.raises(ValidationError, match="it must be an image name such as team/predictor"):
        cluster({"image": image})


def test_one_login_may_stand_for_two_folders_of_a_registry() -> None:
    both = {"a": HUB, "b": {**HUB, "server": "docker.io/other"}, "c": {"server": "docker.io/open"}}
    assert cluster({}, registries=both).registries.keys() == both.keys()


@pytest.mark.parametrize(
    "server", ["-r.org", "r..org", "r.org-", "r.org/../x", "r.org/-x", "r.org/x-", "r.org/X", "r.org:", "r.org:123456"]
)
@pytest.mark.parametrize("own", [lambda s: {"registry": s}, lambda s: {"registries": {"r": s}}])
def test_a_server_that_docker_could_not_name_is_refused(server: str, own: Any) -> None:
    with pytest.raises(ValidationError, match="it must be a registry such as registry"):
        cluster({}, **own({"server": server}))


def test_a_registry_has_a_port_that_there_is() -> None:
    for port in (0, 65536):
        says = f"r.org:{port} has no port from 1 to 65535; mend it"
        assert f"registry.server: {says}" in refused({}, registry={"server": f"r.org:{port}/x"})
        assert refused({}, registries={"r": {"server": f"r.org:{port}"}}) == [f"registries.r.server: {says}"]
        assert refused({"image": f"r.org:{port}/web"}) == [f"services.web.image: {says}"]
    assert cluster({"image": "r.org:65535/web"}, registries={"r": {"server": "r.org:65535"}})


def test_a_name_is_as_long_as_docker_takes_it() -> None:
    says = "services.web.image: with its registry the name has 256 characters, and Docker takes 255"
    path = "a/" + "b" * (256 - len("docker.io/a/"))
    assert refused({"image": path}) == [says]
    assert cluster({"image": path[:-1]})
    assert refused({"image": "web", "registry": "r"}, registries={"r": {"server": "r.org/" + "b" * 246}}) == [says]


def test_what_docker_takes_for_an_id_is_no_name() -> None:
    with pytest.raises(ValidationError, match="it must be an image name"):
        cluster({"image": "0a" * 32})
    assert cluster({"image": "team/" + "0a" * 32})
