"""`python docs/pictures/page.py [URL]`: the screenshots of docs/PAGE.md, from the page that `sanseg serve` shows there.

Needs playwright and a Chromium (`pip install ".[test]"`).
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
COLOURS = 256  # of a palette, so that the files stay small


def main(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])

        def tab(width: int, height: int, scheme: str = "light", *, touch: bool = False) -> Page:
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                has_touch=touch,
                is_mobile=touch,
                reduced_motion="reduce",
            )
            page.goto(url)
            page.wait_for_selector("#formats li", state="attached")
            return page

        page = tab(1280, 800)
        sample(page, "astronaut.jpg")
        page.get_by_role("button", name="Remove helmet").click()
        page.focus("#word")
        page.keyboard.type("hel")
        page.wait_for_selector("#suggestions li")
        page.keyboard.press("ArrowDown")
        settle(page)
        save("page.png", shot(page))

        page = tab(1280, 800, "dark")
        sample(page, "coffee.jpg")
        page.click("#looks summary")
        page.mouse.move(430, 300)
        save("page_dark.png", shot(page))

        page = tab(768, 1024)
        sample(page, "cat.jpg")
        tablet = shot(page)

        phones = []
        for scheme in ("light", "dark"):
            page = tab(360, 740, scheme, touch=True)
            if scheme == "light":
                phones.append(shot(page))
            sample(page, "coffee.jpg")
            page.tap("#frame")
            phones.append(shot(page))
        save("page_small.png", beside([tablet.resize((555, 740)), *phones]))
        browser.close()


def sample(page: Page, name: str) -> None:
    page.click(f"[data-photo='{name}']")
    page.wait_for_selector("body.painted", timeout=60_000)
    settle(page)


def settle(page: Page) -> None:
    page.wait_for_selector("#frame[aria-busy='false']")
    page.wait_for_timeout(200)


def shot(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def beside(pictures: list[Image.Image], gap: int = 16) -> Image.Image:
    width = sum(one.width + gap for one in pictures) + gap
    sheet = Image.new("RGB", (width, max(one.height for one in pictures) + 2 * gap), "#9a9a98")
    x = gap
    for one in pictures:
        sheet.paste(one, (x, gap))
        x += one.width + gap
    return sheet


def save(name: str, picture: Image.Image) -> None:
    picture.quantize(COLOURS, dither=Image.Dither.FLOYDSTEINBERG).save(HERE / name, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/")
