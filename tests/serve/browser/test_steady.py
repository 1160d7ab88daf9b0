"""When things go wrong: the server dies, a photo is too large, words cannot be read, labels are hostile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Route, expect

from tests.serve.browser.conftest import Library, OpenTab
from tests.serve.browser.driver import EXAMPLES, Driver
from tests.serve.browser.server import Server, running
from tests.serve.browser.test_paint import is_painted

MEGABYTE = 1 << 20
KEY = "a-key-of-the-tests-0123456789abcdef"


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Server]:
    """A server that is killed, behind a key."""
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    keys.chmod(0o600)
    with running(Server(tmp_path / "log", "--keys", str(keys))) as server:
        yield server


def test_key_then_killed_and_started_again(mortal: Server, open_tab: OpenTab, mini: Library) -> None:
    tab = open_tab(mortal.url)
    tab.page.set_input_files("#file", EXAMPLES / "cat.jpg")
    tab.page.fill("#key", KEY)
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#progress", state="hidden")
    assert tab.page.evaluate("() => [localStorage.length, document.cookie]") == [0, ""]  # this tab's alone
    tab.exact()
    tab.type("cat")
    before = tab.pixels()
    mortal.kill()
    tab.page.keyboard.type(", sofa")
    tab.wait_for_message("away")
    assert (tab.pixels() == before).all()  # what was there stays
    assert tab.page.locator("#photo").evaluate("image => image.naturalWidth") == 451
    mortal.start()
    mortal.wait()
    tab.settle()
    assert tab.message == ""
    encoded = mini.encode(EXAMPLES / "cat.jpg")
    assert is_painted(tab, encoded.segment("cat, sofa"))


def test_a_forgotten_picture_is_encoded_again(tab: Driver, mini: Library) -> None:
    with tab.page.expect_response(lambda response: response.url.endswith("/v1/images")) as first:
        tab.page.set_input_files("#file", EXAMPLES / "cat.jpg")
    tab.exact()
    tab.type("cat")
    id_ = first.value.json()["id"]
    tab.page.request.delete(f"{tab.page.url}v1/images/{id_}")
    tab.page.keyboard.type("s")
    tab.settle()
    assert tab.message == ""
    assert is_painted(tab, mini.encode(EXAMPLES / "cat.jpg").segment("cats"))


def test_a_busy_server_is_asked_again(tab: Driver, mini: Library) -> None:
    tab.open_photo("cat.jpg")
    tab.exact()
    refusals = []

    def refuse_once(route: Route) -> None:
        if refusals:
            route.continue_()
            return
        refusals.append(route.request.url)
        problem = {"title": "Busy", "status": 503, "detail": "all places are taken: ask again"}
        route.fulfill(
            status=503,
            headers={"Retry-After": "1", "Content-Type": "application/problem+json"},
            body=json.dumps(problem),
        )

    tab.page.route("**/segment", refuse_once)
    tab.page.focus("#word")
    tab.page.keyboard.type("c")
    tab.wait_for_message("all places are taken")
    tab.settle()
    assert tab.message == ""
    assert is_painted(tab, mini.encode(EXAMPLES / "cat.jpg").segment("c"))


def test_two_tabs_do_not_disturb_each_other(served: Server, open_tab: OpenTab, mini: Library) -> None:
    one = open_tab(served.url)
    two = open_tab(served.url, one.page.context)
    one.open_photo("cat.jpg")
    two.open_photo("coffee.jpg")
    for tab in (one, two):
        tab.exact()
        tab.page.focus("#word")
    for letter, other in zip("fur", "cup", strict=True):
        one.page.keyboard.type(letter)
        two.page.keyboard.type(other)
    one.settle()
    two.settle()
    assert is_painted(one, mini.encode(EXAMPLES / "cat.jpg").segment("fur"))
    assert is_painted(two, mini.encode(EXAMPLES / "coffee.jpg").segment("cup"))
    one.page.keyboard.press("Enter")
    two.page.keyboard.press("Enter")
    one.page.reload()
    assert one.chips == ["fur"]  # words outlive a reload
    assert two.chips == ["cup"]
    two.type(", spoon")
    assert is_painted(two, mini.encode(EXAMPLES / "coffee.jpg").segment("cup, spoon"))


def test_a_photo_outlives_a_reload_of_its_tab_until_it_is_taken_away(
    served: Server, open_tab: OpenTab, mini: Library
) -> None:
    tab = open_tab(served.url)
    tab.open_photo("cat.jpg")
    tab.exact()
    tab.enter("cat", "chair")
    tab.page.reload()
    tab.page.wait_for_selector("body.painted")
    tab.settle()
    assert is_painted(tab, mini.encode(EXAMPLES / "cat.jpg").segment("cat, chair"))
    assert tab.page.get_attribute("#frame", "aria-label") == "Photo cat.jpg"
    beside = open_tab(served.url, tab.page.context)
    assert beside.page.locator("#start").is_visible()  # no other tab sees it
    tab.page.click("#another")
    assert "JFIF" not in tab.page.evaluate("() => JSON.stringify({ ...sessionStorage, ...localStorage })")
    tab.page.reload()
    tab.page.wait_for_selector("#formats li", state="attached")
    assert tab.page.locator("#start").is_visible()


def test_a_photo_without_room_to_be_kept_is_painted_all_the_same(
    served: Server, open_tab: OpenTab, tmp_path: Path
) -> None:
    tab = open_tab(served.url)
    tab.page.evaluate("() => sessionStorage.setItem('another', 'x'.repeat(3_000_000))")
    photo = tmp_path / "large.jpg"
    photo.write_bytes((EXAMPLES / "cat.jpg").read_bytes() + bytes(4 * 10**6))
    tab.open_photo(photo)
    tab.enter("cat")
    tab.page.wait_for_selector("body.painted")
    tab.page.reload()
    assert tab.chips == ["cat"]
    tab.page.wait_for_selector("#formats li", state="attached")
    assert tab.page.locator("#start").is_visible()


def test_a_photo_of_50_megabytes_is_refused_kindly(tab: Driver, tmp_path: Path) -> None:
    photo = tmp_path / "large.jpg"
    photo.write_bytes((EXAMPLES / "cat.jpg").read_bytes() + bytes(50 * 10**6))
    sent = []
    tab.page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    tab.page.set_input_files("#file", photo)
    tab.wait_for_message("large.jpg has 50 MB, this server takes 8.4 MB at most")
    assert sent == []
    tab.open_photo("cat.jpg")  # and the page goes on
    assert tab.message == ""


def test_what_the_server_refuses_is_told_in_its_words(
    served: Server, open_tab: OpenTab, tmp_path: Path
) -> None:
    """Where the page did not know the limit."""
    tab = open_tab(served.url)
    limits = tab.page.request.get(f"{served.url}v1/models").json()
    limits["limits"] |= {"bytes": 10**9, "pixels": 10**9}
    tab.page.route("**/v1/models", lambda route: route.fulfill(json=limits))
    tab.page.reload()
    tab.page.wait_for_selector("#formats li", state="attached")
    photo = tmp_path / "large.jpg"
    photo.write_bytes((EXAMPLES / "cat.jpg").read_bytes() + bytes(9 * MEGABYTE))
    with tab.page.expect_response(lambda response: response.url.endswith("/v1/images")) as answer:
        tab.page.set_input_files("#file", photo)
    assert answer.value.status == 413
    tab.wait_for_message(answer.value.json()["detail"])
    assert tab.page.locator("#start").is_visible()
    with tab.page.expect_response(lambda response: response.url.endswith("/v1/images")) as answer:
        tab.page.set_input_files("#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"no photo"})
    tab.wait_for_message(answer.value.json()["detail"])
    assert tab.page.locator("#start").is_visible()


def test_words_that_cannot_be_read_are_told_and_nothing_is_lost(tab: Driver) -> None:
    tab.open_photo("cat.jpg")
    tab.enter("cat")
    before = tab.pixels()
    with tab.page.expect_response("**/segment") as answer:
        tab.enter("cat | kitten")
    assert answer.value.status == 422
    tab.wait_for_message(answer.value.json()["detail"])
    assert (tab.pixels() == before).all()
    assert tab.chips == ["cat", "cat | kitten"]
    tab.page.get_by_role("button", name="Remove cat", exact=True).click()
    tab.settle()
    expect(tab.page.locator("#message")).to_be_empty()


HOSTILE = [
    "<img src=x onerror=\"document.title='hacked'\">",
    "</script><script>document.title='hacked'</script>",
    "\u202eright to left\u202c",
    "שמיים וים",
    "👩🏽‍🚀🚀 emoji",
    "{{7*7}} ${7*7} `",
    "x" * 256,
]


def test_hostile_labels_are_text(served: Server, open_tab: OpenTab) -> None:
    tab = open_tab(served.url, viewport={"width": 320, "height": 640})
    tab.open_photo({"name": f"{HOSTILE[0]}.jpg", "mimeType": "image/jpeg", "buffer": _bytes("cat.jpg")})
    tab.page.locator("#looks").evaluate("details => { details.open = true }")
    tab.page.uncheck("#other")
    images = tab.page.locator("img").count()
    tab.enter(HOSTILE[0])  # alone, so it is everywhere
    tab.page.hover("#frame")
    assert tab.page.inner_text("#readout bdi") == HOSTILE[0]
    expect(tab.page.locator("#announcement")).to_contain_text(HOSTILE[0])
    tab.enter(*HOSTILE[1:])
    assert tab.message == ""
    assert tab.chips == HOSTILE
    painted = tab.page.locator("#chips .share").all_inner_texts()
    assert all(share.endswith("%") for share in painted)  # each was found in the answer
    assert tab.page.locator("img").count() == images
    assert tab.page.title() == "sanseg"
    assert tab.page.evaluate("() => document.documentElement.scrollWidth") == 320


def _bytes(name: str) -> bytes:
    return (EXAMPLES / name).read_bytes()


def test_a_photo_that_is_not_taken_leaves_the_one_before(tab: Driver, mini: Library, tmp_path: Path) -> None:
    """Whether the page sees that it is too large, or the server that it is none."""
    tab.open_photo("cat.jpg")
    tab.exact()
    broken, large = tmp_path / "broken.jpg", tmp_path / "large.png"
    broken.write_bytes((EXAMPLES / "cat.jpg").read_bytes()[:2000])
    Image.new("L", (5200, 5000)).save(large)
    for photo, why in ((broken, "damaged"), (large, "5200 x 5000 pixels"), (broken, "damaged")):
        tab.page.set_input_files("#file", photo)
        tab.wait_for_message(why)
        tab.settle()
        expect(tab.page.locator("#frame")).to_have_attribute("aria-label", "Photo cat.jpg")
        assert why in tab.message, "it is told no longer, and nobody has read it"
        if not tab.chips:  # at first there are no words
            tab.enter("cat")
            assert tab.message == ""
        assert is_painted(tab, mini.encode(EXAMPLES / "cat.jpg").segment("cat"))
    tab.type("sofa")
    assert tab.message == ""


def test_a_set_that_is_none_becomes_no_label(tab: Driver, mini: Library) -> None:
    """It would stand in the way of all other words."""
    tab.open_photo("cat.jpg")
    tab.exact()
    tab.page.focus("#word")
    tab.page.keyboard.type("@nope")
    tab.page.keyboard.press("Enter")
    tab.wait_for_message("nope")
    word = tab.page.locator("#word")
    expect(word).to_have_attribute("aria-invalid", "true")
    assert (tab.chips, word.input_value()) == ([], "@nope")
    word.fill("cat")
    assert word.get_attribute("aria-invalid") is None
    tab.settle()
    assert tab.message == ""
    assert is_painted(tab, mini.encode(EXAMPLES / "cat.jpg").segment("cat"))


def test_a_wrong_key_is_told(mortal: Server, open_tab: OpenTab) -> None:
    tab = open_tab(mortal.url)
    tab.page.set_input_files("#file", EXAMPLES / "cat.jpg")
    why, key = tab.page.locator("#locked-why"), tab.page.locator("#key")
    expect(why).to_contain_text("tab")
    key.fill("not-a-key-of-this-server")
    tab.page.keyboard.press("Enter")
    expect(why).to_contain_text("does not know that key")
    expect(key).to_have_attribute("aria-invalid", "true")
    tab.page.keyboard.press("Escape")
    tab.wait_for_message("without a key")


def test_what_is_typed_and_what_is_wrong_stays_in_sight(served: Server, open_tab: OpenTab) -> None:
    """On a narrow screen the photo sticks to its top."""
    tab = open_tab(served.url, viewport={"width": 800, "height": 900})
    tab.open_photo("cat.jpg")
    tab.page.locator("#download").evaluate("details => { details.open = true }")
    tab.page.mouse.move(700, 850)
    tab.page.focus("#larger")
    tab.page.mouse.wheel(0, 4000)
    tab.page.wait_for_function("() => scrollY > 100")
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.type("@nope,")
    tab.wait_for_message("nope")
    tab.page.wait_for_function(
        "() => document.getElementById('word').getBoundingClientRect().top"
        " >= document.getElementById('stage').getBoundingClientRect().bottom"
    )
    box = tab.page.locator("#message").bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 900 - box["height"]
