"""The page of admins in a real Chromium, over the gateway's own server: light and dark, on a desk and on a phone.

`FIEFDOM_SCREENSHOTS=1`, as `make screenshots` says, writes the pictures of docs/assets.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.browser import chromium
from helpers.page_world import Counted, Member, Offer, Rejection, Served, example, large, live, served

ASSETS = Path(__file__).parents[3] / "docs" / "assets"
DESK, PHONE = (1280, 900), (320, 700)

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Served]:
    with served(example(tmp_path)) as found:
        yield found


@contextmanager
def looking(
    browser: Any,
    at: Served,
    *,
    scheme: str = "light",
    size: tuple[int, int] = DESK,
    expected: tuple[str, ...] = (),
    **options: Any,
) -> Iterator[Any]:
    """A page that is loaded; nothing may be said on its console but what is `expected`, nor break the policy."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": size[0], "height": size[1]}, **options)
    context.set_default_timeout(30_000)
    page = context.new_page()
    said: list[str] = []
    elsewhere: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda request: None if request.url.startswith(at.url) else elsewhere.append(request.url))
    page.add_init_script(
        "window.violated = [];"
        "addEventListener('securitypolicyviolation', (e) => violated.push(`${e.violatedDirective} ${e.blockedURI}`));"
    )
    page.clock.install()
    page.goto(at.url)
    page.get_by_role("button", name="predictor").or_(page.get_by_role("rowheader")).first.wait_for()
    yield page
    assert page.evaluate("violated") == []
    assert [line for line in said if not any(words in line for words in expected)] == []
    assert elsewhere == []
    context.close()


def ask_again(page: Any, ms: int = 2100) -> None:
    """Let the page's clock go on to its next question, and await the answer."""
    with page.expect_response("**/fiefdom/state.json*") as answered:
        page.clock.run_for(ms)
    answered.value.finished()
    page.locator("#freshness[data-live=yes]").wait_for()


def cut_off(page: Any) -> list[str]:
    """What sticks out of the window, once the page has all its rates; a table's head is hidden where rows are cards."""
    page.locator("#about").get_by_text("a moment more").wait_for(state="detached")
    found: list[str] = page.evaluate(
        """() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll("body *")]
        .filter((node) => node.getBoundingClientRect().right > innerWidth && !node.closest("thead"))
        .map((node) => `${node.localName} ${node.textContent.slice(0, 80)}`).concat("something is cut off")"""
    )
    return found


def row(page: Any, table: str, name: str) -> Any:
    return page.locator(f"#{table} tbody tr").filter(has=page.get_by_role("rowheader", name=name))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_it_is_accessible_and_nothing_is_cut_off(browser: Any, at: Served, scheme: str, size: tuple[int, int]) -> None:
    from axe_playwright_python.sync_playwright import Axe

    at.world.config_error = "line 9: unknown keyword"
    with looking(browser, at, scheme=scheme, size=size) as page:
        found = Axe().run(
            page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
        )
        assert found.violations_count == 0, found.generate_report()
        assert cut_off(page) == []
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 21, 27)"
        assert dark is (scheme == "dark")
        # Cards on a phone are the rows of a table still, for who hears the page.
        assert page.get_by_role("table", name="Services").get_by_role("row").count() == 4
        assert page.get_by_role("rowheader", name="app4:9001").is_visible()


@pytest.mark.parametrize("width", [320, 360, 700, 900, 1056, 1057, 1180])
def test_whatever_strangers_and_numbers_say_nothing_is_cut_off(browser: Any, at: Served, width: int) -> None:
    world, host, version = at.world, "x" * 63, "v" * 128
    for server in world.servers:
        server.rate, server.total_ms = 123456.0, 1234567
    world.members[host] = Member(host, f"fd00{':1234' * 7}", "alive", "app", (Offer("search", version, 9000, 9000),))
    world.servers.append(Counted("search", host, 9000, version, state="DOWN", check="L7STS", words="w" * 80))
    world.members["g" * 63] = Member("g" * 63, "10.99.0.99", "failed", "gateway")
    world.rejected = (Rejection("r" * 64, f"says {'y' * 300}"),)
    world.config_error = "c" * 300
    world.lock("z", "w" * 300, "o" * 300)
    world.audit(
        "z", "apply", "begin", 1, who="q" * 300, note="n" * 300, hosts=["h" * 300], services={"s" * 99: ["a", version]}
    )
    with looking(browser, at, size=(width, 800)) as page:
        row(page, "hosts", host).wait_for()
        assert cut_off(page) == []


def test_everything_is_there(browser: Any, at: Served) -> None:
    with looking(browser, at) as page:
        ask_again(page)
        assert page.title() == "(3 warnings, 1 notice) gw1 · lab · Fiefdom"
        levels = page.locator("#problem-list .level").all_inner_texts()
        assert [level.split()[-1] for level in levels] == ["Warning", "Warning", "Warning", "Notice"]
        assert "2 of 4 hosts done" in page.locator("#work").inner_text()
        assert page.get_by_role("progressbar", name="rollout of predictor").get_attribute("value") == "2"
        predictor = row(page, "services", "predictor").inner_text()
        assert "9 of 12" in predictor and "1.4.2 3/6" in predictor and "1.5.0 6/6" in predictor
        assert "✔ serving" in predictor and "12 ms" in predictor
        assert "L7STS 503 Service Unavailable" in row(page, "instances", "app4:9001").inner_text()
        assert "is not offered" in row(page, "hosts", "app3").inner_text()
        assert "outside of" in row(page, "refused", "intruder").inner_text()
        assert "▲ 12 days" in row(page, "certificates", "shop.example.org").inner_text()
        assert [text.split()[-1] for text in page.locator("#audit tbody td:nth-child(4)").all_inner_texts()] == [
            "running",
            "failed",
            "ok",
            "ok",
        ]
        other = page.get_by_role("link", name="gw2")
        assert other.get_attribute("href") == f"http://10.99.0.12:{at.port}/"
        assert page.get_by_role("link", name="gw1").get_attribute("aria-current") == "page"
        assert page.get_by_role("link", name="HAProxy's statistics").get_attribute("href") == "/stats"


def test_it_follows_without_loading_anew_and_focus_and_selection_stay(browser: Any, at: Served) -> None:
    world = at.world
    with looking(browser, at) as page:
        ask_again(page)
        page.evaluate("window.mark = 'the same document'")
        button = row(page, "services", "search").get_by_role("button")
        button.focus()
        page.evaluate("getSelection().selectAllChildren(document.querySelector('#audit tbody th'))")
        selected = page.evaluate("getSelection().toString()")
        # app3 has its turn behind it, and a service that sorts before the others comes.
        new = Offer("predictor", "1.5.0", 8000, 8002)
        world.members["app3"] = replace(world.members["app3"], offers=(new, *world.members["app3"].offers))
        for server in world.servers:
            if (server.host, server.service) == ("app3", "predictor"):
                server.state, server.version, server.rate = "UP", "1.5.0", 41.0
        world.services["alpha"] = replace(world.services["search"], name="alpha", backend="alpha")
        page.clock.run_for(2100)
        page.get_by_text("3 of 4 hosts done").wait_for()
        row(page, "services", "alpha").wait_for()
        assert page.locator("#said").inner_text() == "Problems: 1 critical, 3 warnings"
        world.unlock()
        page.clock.run_for(2100)
        page.locator("#work").wait_for(state="hidden")
        assert page.evaluate("mark") == "the same document"
        assert button.evaluate("(node) => node === document.activeElement")
        assert page.evaluate("getSelection().toString()") == selected != ""


def test_a_silent_gateway_is_told_and_so_is_its_return(browser: Any, at: Served) -> None:
    with looking(browser, at, expected=("Failed to load resource",)) as page:
        at.stop()
        page.clock.run_for(2100)
        page.get_by_text("The gateway is not answering since").wait_for()
        assert page.locator("#freshness").get_attribute("data-live") == "no"
        # What was known stays to be read, and is said to be of before.
        assert row(page, "services", "predictor").is_visible()
        assert "of before" in page.locator("#silence").inner_text()
        at.start()
        page.clock.run_for(16_000)
        page.locator("#freshness[data-live=yes]").wait_for()
        assert page.locator("#silence").inner_text() == ""


def test_it_asks_less_often_while_nobody_answers_and_not_at_all_while_hidden(browser: Any, at: Served) -> None:
    with looking(browser, at, expected=("Failed to load resource",)) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        page.clock.run_for(60_000)
        page.get_by_text("paused").wait_for()
        assert asked == []
        # From here on, time goes on as is said here alone.
        page.clock.pause_at(page.evaluate("Date.now()") + 100)
        page.evaluate("Object.defineProperty(document, 'hidden', {value: false, configurable: true})")
        with page.expect_response("**/fiefdom/state.json*"):
            page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        page.get_by_text("live,").wait_for()
        at.stop()
        asked.clear()
        for tries, wait_ms in enumerate((2000, 2000, 4000, 8000, 15000, 15000), 1):
            page.clock.run_for(wait_ms - 1)
            assert len(asked) == tries - 1
            page.clock.run_for(1)
            page.get_by_text("asked once since" if tries == 1 else f"asked {tries} times since").wait_for()


def test_strangers_texts_stay_text(browser: Any, at: Served) -> None:
    world = at.world
    evil = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'
    world.rejected = (Rejection(evil, f"says {evil}"), Rejection("javascript:alert(1)", "\u202e&lt;b&gt;"))
    world.members["x"] = Member("x", "10.99.0.99", "alive", "app", (Offer("search", evil, 9000, 9000),))
    world.servers.append(
        Counted("search", evil, 9000, evil, state="DOWN", check="L7STS", words=evil[:40].replace(",", ""))
    )
    world.members["gw3"] = Member("gw3", '"><script>', "alive", "gateway")
    world.lock("z", evil, evil)
    world.audit("z", "apply", "begin", 1, who=evil, note=evil, hosts=[evil], services={evil: [evil, evil]})
    with looking(browser, at, expected=("requires 'TrustedHTML'",)) as page:
        assert row(page, "refused", evil).is_visible()
        assert evil in page.locator("#work").inner_text()
        assert evil in page.locator("#audit").inner_text()
        assert page.evaluate("window.pwned") is None
        assert page.locator("main img, main script").count() == 0
        hrefs = page.evaluate("[...document.links].map((link) => link.protocol)")
        assert set(hrefs) == {"http:"}
        # And were there a way to markup, the browser would not take it.
        assert "TrustedHTML" in page.evaluate(
            "(() => { try { document.body.innerHTML = ''; } catch (e) { return e.message } })()"
        )
        page.evaluate("violated.length = 0")


def test_a_keyboard_reaches_all_that_can_be_done(browser: Any, at: Served) -> None:
    with looking(browser, at) as page:
        page.keyboard.press("Tab")
        skip = page.get_by_role("link", name="Skip to the cluster")
        assert skip.evaluate("(node) => node === document.activeElement && node.getBoundingClientRect().top >= 0")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "filter"
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(outline) == "solid"
        page.keyboard.type("app3")
        page.get_by_text("2 services, 1 host, 5 instances").wait_for()
        assert page.locator("#hosts tbody tr").count() == 1
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "predictor"
        assert page.evaluate(outline) == "solid"
        page.keyboard.press("Enter")
        assert page.input_value("#filter") == "predictor" and page.evaluate("document.activeElement.id") == "filter"
        assert page.evaluate("location.hash") == "#of=predictor"
        page.reload()
        page.get_by_text("1 service, 4 hosts, 12 instances").wait_for()


def test_of_a_large_cluster_the_filter_shows_the_rest(browser: Any, tmp_path: Path) -> None:
    with served(large(tmp_path)) as at, looking(browser, at) as page:
        page.locator("#instances-more").get_by_text("5,800 more instances").wait_for()
        assert page.locator("#instances tbody tr").count() == 200
        page.fill("#filter", "app0477")
        row(page, "hosts", "app0477").wait_for()
        page.get_by_text("1 service, 1 host, 12 instances").wait_for()


def test_nothing_moves(browser: Any, at: Served) -> None:
    """So there is nothing to still for who wants less motion."""
    moving = "[...document.querySelectorAll('*')].map((n) => getComputedStyle(n)).filter((s) => %s)"
    with looking(browser, at, reduced_motion="no-preference") as page:
        assert page.evaluate(moving % "parseFloat(s.transitionDuration) > 0" + ".length") == 0
        assert page.evaluate(moving % "s.animationName !== 'none'" + ".length") == 0


@pytest.mark.parametrize(
    ("name", "scheme", "size"),
    [("page-light", "light", (1180, 860)), ("page-dark", "dark", (1180, 860)), ("page-phone", "dark", (360, 780))],
)
def test_the_pictures_of_the_docs(
    browser: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    scheme: str,
    size: tuple[int, int],
) -> None:
    """Drawn anew where that is asked for; they are small."""
    monkeypatch.setattr(live, "AGE_S", 0.0)
    monkeypatch.setattr(live, "_SHARE", 0)
    with served(example(tmp_path)) as at, looking(browser, at, scheme=scheme, size=size) as page:
        for step in range(60 if os.environ.get("FIEFDOM_SCREENSHOTS") else 3):
            at.world.servers[0].total_ms = 14 + (step * 7) % 5
            ask_again(page)
        picture = page.screenshot(animations="disabled", caret="hide")
    assert len(picture) < 150_000
    if os.environ.get("FIEFDOM_SCREENSHOTS"):
        (ASSETS / f"{name}.png").write_bytes(picture)
    assert (ASSETS / f"{name}.png").stat().st_size < 150_000
