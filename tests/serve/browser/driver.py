"""What tests do on the page, and what they read from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Page

EXAMPLES = Path(__file__).parents[3] / "examples"

PIXELS = """() => {
  const canvas = document.getElementById("paint");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let text = "";
  for (let i = 0; i < data.length; i += 32768) text += String.fromCharCode(...data.subarray(i, i + 32768));
  return [canvas.width, canvas.height, btoa(text)];
}"""


class Driver:
    """A tab with the page. `page` is playwright's own."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def open_photo(self, photo: str | Path | dict[str, Any]) -> None:
        """Picks a photo and waits until it is encoded. photo: as playwright takes files, or a name of examples/."""
        path = EXAMPLES / photo if isinstance(photo, str) else photo
        with self.page.expect_response(lambda r: r.url.endswith("/v1/images") and r.status == 201):
            self.page.set_input_files("#file", path)
        self.page.wait_for_selector("#progress", state="hidden")

    def type(self, text: str) -> None:
        """Key by key, and waits for the answer to the last."""
        self.page.focus("#word")
        self.page.keyboard.type(text)
        self.settle()

    def enter(self, *labels: str) -> None:
        """Labels, one by one, each as a chip."""
        self.page.focus("#word")
        for label in labels:
            self.page.keyboard.insert_text(label)
            self.page.keyboard.press("Enter")
        self.settle()

    def settle(self) -> None:
        """Waits until what is painted is the answer to the words there are, and nothing is under way."""
        self.page.wait_for_selector("#frame[aria-busy='false']", state="attached")

    def exact(self) -> None:
        """Opaque, without outlines: every pixel has the colour of its label."""
        self.page.locator("#looks").evaluate("details => { details.open = true }")
        self.page.fill("#opacity", "100")
        self.page.uncheck("#outline")

    def pixels(self) -> NDArray[np.uint8]:
        """uint8 (H, W, 4), RGBA, of what is painted."""
        import base64

        width, height, data = self.page.evaluate(PIXELS)
        return np.frombuffer(base64.b64decode(data), dtype=np.uint8).reshape(height, width, 4)

    @property
    def message(self) -> str:
        return self.page.inner_text("#message")

    def wait_for_message(self, part: str) -> None:
        self.page.wait_for_function(
            "part => document.getElementById('message').textContent.includes(part)", arg=part
        )

    @property
    def chips(self) -> list[str]:
        return [one.input_value() for one in self.page.locator("#chips .name").all()]

    def watch_paints(self) -> None:
        """From now on `paints` knows what was painted."""
        self.page.evaluate(
            "() => { window.paints = [];"
            " document.addEventListener('sanseg:painted', (event) => window.paints.push(event.detail.labels)) }"
        )

    @property
    def paints(self) -> list[Any]:
        painted: list[Any] = json.loads(self.page.evaluate("() => JSON.stringify(window.paints)"))
        return painted
