"""For everybody: the keyboard alone, screen readers, phones, large letters, dark and light, less motion."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.serve.browser.conftest import OpenTab
from tests.serve.browser.driver import Driver
from tests.serve.browser.server import Server

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright",
    reason="axe-playwright-python is not installed: pip install '.[test]'",
)

WIDTHS = """() => {
  const wide = document.documentElement.clientWidth;
  const outside = [...document.querySelectorAll("body *")].filter((one) => {
    const box = one.getBoundingClientRect();
    const seen = box.width > 1 && box.height > 1 && one.checkVisibility({ visibilityProperty: true });
    return seen && !one.closest("svg, #scroller") && (box.left < -1 || box.right > wide + 1);
  });
  const scroll = document.documentElement.scrollWidth - wide;
  return { scroll, outside: outside.map((one) => one.outerHTML.slice(0, 80)) };
}"""

NO_ROOM_NEEDED = {"scroll": 0, "outside": []}


def violations(page: Page) -> list[Any]:
    """What axe-core finds: names, roles, contrast, landmarks."""
    found = axe.Axe().run(page).response["violations"]
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]


def focused(page: Page) -> str:
    """What a screen reader says of what has the focus."""
    return str(
        page.evaluate(
            "() => { const one = document.activeElement;"
            " return one.getAttribute('aria-label') ?? one.labels?.[0]?.textContent ?? one.textContent.trim() }"
        )
    )


def work(tab: Driver) -> None:
    tab.open_photo("coffee.jpg")
    tab.enter("coffee", "table", "a label that is much longer than any telephone is wide, and goes on and on")
    for details in tab.page.locator("details").all():
        details.evaluate("one => { one.open = true }")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(served: Server, open_tab: OpenTab, scheme: str) -> None:
    tab = open_tab(served.url, color_scheme=scheme, reduced_motion="reduce")
    assert violations(tab.page) == []
    work(tab)
    tab.page.keyboard.type("nap")
    tab.page.wait_for_selector("#suggestions li")
    tab.page.keyboard.press("ArrowDown")
    tab.settle()
    assert violations(tab.page) == []
    tab.page.evaluate(
        "() => { document.getElementById('message').textContent = 'Something is wrong';"
        " document.getElementById('message').className = 'problem';"
        " document.getElementById('locked').showModal() }"
    )
    assert violations(tab.page) == []


@pytest.mark.parametrize(
    "options",
    [
        {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True},
        {"viewport": {"width": 640, "height": 400}, "device_scale_factor": 2},  # 1280 x 800 at 200 %
        {"viewport": {"width": 320, "height": 256}, "device_scale_factor": 4},  # 1280 x 1024 at 400 %
    ],
    ids=["phone", "200 %", "400 %"],
)
def test_nothing_is_wider_than_the_screen(served: Server, open_tab: OpenTab, options: dict[str, Any]) -> None:
    tab = open_tab(served.url, **options)
    assert tab.page.evaluate(WIDTHS) == NO_ROOM_NEEDED
    work(tab)
    assert tab.page.evaluate(WIDTHS) == NO_ROOM_NEEDED
    tab.page.click("#larger")
    assert tab.page.evaluate(WIDTHS) == NO_ROOM_NEEDED


def test_the_field_and_the_photo_are_on_a_phone_at_once(served: Server, open_tab: OpenTab) -> None:
    tab = open_tab(served.url, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    tall = io.BytesIO()
    Image.new("RGB", (60, 120)).save(tall, format="PNG")
    tab.open_photo({"name": "tall.png", "mimeType": "image/png", "buffer": tall.getvalue()})
    for name in ("#frame", "#word"):
        box = tab.page.locator(name).bounding_box()
        assert box is not None
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 640


def test_fingers_tell_labels_and_find_large_targets(served: Server, open_tab: OpenTab) -> None:
    tab = open_tab(served.url, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    work(tab)
    tab.page.locator("#frame").tap()
    expect(tab.page.locator("#readout")).to_contain_text("% sure")
    small = tab.page.evaluate(
        """() => [...document.querySelectorAll("button, summary, input:not([hidden])")].filter((one) => {
          const box = one.getBoundingClientRect();
          return one.checkVisibility() && Math.min(box.width, box.height) < 24;
        }).map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert small == []


def test_keyboard_alone(tab: Driver) -> None:
    page = tab.page
    page.keyboard.press("Tab")
    assert focused(page) == "Choose a photo"
    page.keyboard.press("Tab")
    assert focused(page) == "Coffee"
    page.keyboard.press("Enter")
    page.wait_for_selector("body.painted")
    assert focused(page) == "What do you see?"
    tab.watch_paints()
    page.keyboard.type("nap")
    page.wait_for_selector("#suggestions li")
    page.keyboard.press("ArrowDown")
    word = page.locator("#word")
    option = page.locator(f"#{word.get_attribute('aria-activedescendant')}")
    expect(option).to_have_text("napkin")
    expect(option).to_have_attribute("aria-selected", "true")
    tab.settle()
    assert tab.paints[-1] == "coffee, table, napkin"  # before it is taken
    page.keyboard.press("Enter")
    tab.settle()
    assert tab.chips == ["coffee", "table", "napkin"]
    for share in page.locator("#chips .share").all():
        expect(share).to_contain_text("%")
    expect(word).to_have_attribute("aria-expanded", "false")
    expect(page.locator("#announcement")).to_contain_text("coffee")  # the result, told politely
    order = []
    for _ in range(8):
        page.keyboard.press("Tab")
        order.append(focused(page))
    assert order == [
        "Colour of coffee",
        "Label coffee",
        "Show coffee",
        "Remove coffee",
        "Colour of table",
        "Label table",
        "Show table",
        "Remove table",
    ]
    page.keyboard.press("Enter")
    tab.settle()
    assert tab.chips == ["coffee", "napkin"]
    assert focused(page) == "Remove napkin"  # the focus is not lost
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    expect(page.locator(".chip .eye").nth(1)).to_have_attribute("aria-pressed", "false")
    page.locator("#frame").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#cursor")).to_be_visible()
    expect(page.locator("#announcement")).to_contain_text("% sure")
    page.locator("#download summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "coffee.overlay.png"


def test_focus_is_visible_everywhere(tab: Driver) -> None:
    work(tab)
    tab.page.locator("#another").focus()
    for _ in range(30):
        tab.page.keyboard.press("Tab")
        style = tab.page.evaluate(
            "() => { const s = getComputedStyle(document.activeElement); return [s.outlineStyle, s.outlineWidth] }"
        )
        assert style[0] != "none", focused(tab.page)
        assert float(style[1].removesuffix("px")) >= 2, focused(tab.page)


def test_less_motion(served: Server, open_tab: OpenTab) -> None:
    tab = open_tab(served.url, reduced_motion="reduce")
    work(tab)
    moving = tab.page.evaluate(
        "() => { document.getElementById('message').className = 'away'; return document.getAnimations().length }"
    )
    assert moving == 0
