"""References of images: the same image is the same however a person, an inventory or Docker writes it."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiefdom.model import references

D = "sha256:" + "0a" * 32
PARTS = (*"/.:-_@aB0", "r.org/", "r.org:5000/", "r:1/", "localhost/", "team/web", ":1", f"@{D}")


@pytest.mark.parametrize(
    ("written", "canonical", "familiar"),
    [
        ("nginx", "docker.io/library/nginx", "nginx"),
        ("nginx:1", "docker.io/library/nginx:1", "nginx:1"),
        ("docker.io/nginx:1", "docker.io/library/nginx:1", "nginx:1"),
        ("docker.io/library/nginx:1", "docker.io/library/nginx:1", "nginx:1"),
        ("index.docker.io/nginx:1", "docker.io/library/nginx:1", "nginx:1"),
        ("index.docker.io/team/web:1", "docker.io/team/web:1", "team/web:1"),
        ("team/web:1", "docker.io/team/web:1", "team/web:1"),
        ("library/team/web:1", "docker.io/library/team/web:1", "library/team/web:1"),
        # A first word is a registry by a dot, a port, its name, or a capital.
        ("ghcr.io/team/web:1", "ghcr.io/team/web:1", "ghcr.io/team/web:1"),
        ("ghcr.io/web:1", "ghcr.io/web:1", "ghcr.io/web:1"),
        ("registry:5000/web:1", "registry:5000/web:1", "registry:5000/web:1"),
        ("localhost/web:1", "localhost/web:1", "localhost/web:1"),
        ("Registry/web:1", "Registry/web:1", "Registry/web:1"),
        ("[::1]:5000/web:1", "[::1]:5000/web:1", "[::1]:5000/web:1"),
        ("local/web:1", "docker.io/local/web:1", "local/web:1"),
        ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
        # A digest, with a tag or without.
        (f"nginx@{D}", f"docker.io/library/nginx@{D}", f"nginx@{D}"),
        (f"docker.io/team/web:1@{D}", f"docker.io/team/web:1@{D}", f"team/web:1@{D}"),
        (
            f"r.org:5000/a/b__c/d---e:V_1.0@{D}",
            f"r.org:5000/a/b__c/d---e:V_1.0@{D}",
            f"r.org:5000/a/b__c/d---e:V_1.0@{D}",
        ),
    ],
)
def test_docker_reads_them_so(written: str, canonical: str, familiar: str) -> None:
    found = references.parse(written)
    assert (found.canonical, found.familiar) == (canonical, familiar)
    assert references.familiar(written) == familiar
    assert references.same(written, canonical) and references.same(canonical, written)


@pytest.mark.parametrize(
    "text",
    [
        *("", "Web", "a//b", "/web", "web/", "-web", "web-", "a..b", "a___b", "web:", "web:-1", "web@sha256:12"),
        *("r.org/", "a b", f"web@md5:{'0' * 32}", f"web@{D}:1", f"web@{D.upper()}", "web\n", "-r.org/web"),
        "<none>:<none>",
    ],
)
def test_what_docker_would_not_take_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no reference of an image"):
        references.parse(text)
    assert references.familiar(text) == text


def test_different_images_are_not_the_same() -> None:
    written = [
        "nginx:1",
        "nginx:2",
        "team/nginx:1",
        "r.org/nginx:1",
        "r.org/library/nginx:1",
        f"nginx@{D}",
        f"nginx:1@{D}",
    ]
    assert len({references.familiar(w) for w in written}) == len(written)


words = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=4)
paths = st.lists(words, min_size=1, max_size=3).map("/".join)
hubs = st.sampled_from(["", "docker.io/", "index.docker.io/"])
others = st.sampled_from(["r.org/", "localhost/", "r:5000/"])


@pytest.mark.long
@given(hubs | others, paths, st.sampled_from(["", ":1"]), st.sampled_from(["", f"@{D}"]))
def test_both_forms_are_read_as_what_they_were_made_from(domain: str, path: str, tag: str, digest: str) -> None:
    found = references.parse(f"{domain}{path}{tag}{digest}")
    for form in (found.canonical, found.familiar):
        again = references.parse(form)
        assert (again.canonical, again.familiar) == (found.canonical, found.familiar)


written = st.text(".:/@-_aZ0", max_size=12) | st.builds("".join, st.lists(st.sampled_from(PARTS), max_size=6))


@given(written)
def test_docker_takes_what_an_inventory_may_say(image: str) -> None:
    if re.fullmatch(references.IMAGE, image):
        assert references.parse(references.tagged(image, "1")).tag == "1"


@pytest.mark.parametrize(
    ("server", "domain"),
    [
        ("registry.example.org:5000/team", "registry.example.org:5000"),
        ("localhost", "localhost"),
        ("docker.io", "docker.io"),
        ("index.docker.io/team", "docker.io"),
        ("team", "docker.io"),
    ],
)
def test_a_server_is_at_a_registry(server: str, domain: str) -> None:
    assert references.domain_of(server) == domain


@pytest.mark.parametrize(
    ("server", "image", "ref"),
    [
        ("r.org/team", "web:1", "r.org/team/web:1"),
        ("r.org/team", "team/web:1", "r.org/team/team/web:1"),
        # Once is enough.
        ("r.org/team", "r.org/team/web:1", "r.org/team/web:1"),
        ("r.org/team", "r.org/other/web:1", "r.org/other/web:1"),
        ("r.org:5000", "r.org:5000/web:1", "r.org:5000/web:1"),
        ("docker.io", "docker.io/library/nginx:1", "docker.io/library/nginx:1"),
        ("docker.io", "index.docker.io/team/web:1", "index.docker.io/team/web:1"),
        ("docker.io/team", "web:1", "docker.io/team/web:1"),
        # One that stands in for others has theirs beneath itself.
        ("r.org", "ghcr.io/team/web:1", "r.org/ghcr.io/team/web:1"),
        ("r.org:5000", "r.org:5001/web:1", "r.org:5000/r.org:5001/web:1"),
    ],
)
def test_an_image_is_prefixed_once(server: str, image: str, ref: str) -> None:
    assert references.at(server, image) == ref


@pytest.mark.parametrize(
    "image", ["web", "r:5000/team/web", f"web@{D}", f"r:5000/team/web:9@{D}", "docker.io/library/web:2"]
)
def test_a_name_keeps_how_it_was_written(image: str) -> None:
    name = re.sub(r"(:[0-9])?(@.*)?$", "", image)
    assert references.name_of(image) == name
    assert references.tagged(image, "1.0") == f"{name}:1.0"
    assert references.pinned(image, D) == f"{name}@{D}"
