"""The web page, in headless Chromium: choose a picture, pick tasks, read the answers, look at the attention."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import vpt
from tests.helpers.browser import chromium, needs_chromium
from tests.helpers.serving import TASKS, live, png, ready
from vpt.inference.server.api_keys import add_key
from vpt.inference.server.app import create_app
from vpt.inference.server.settings import ServeSettings

pytest.importorskip("playwright.sync_api")
pytestmark = needs_chromium


def serving(settings: ServeSettings) -> Iterator[str]:
    with live(create_app(settings)) as port:
        address = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=address) as web:
            ready(web)
        yield address


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    yield from serving(ServeSettings(folder=folder, device="cpu"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from chromium()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    made = browser.new_page(viewport={"width": 1000, "height": 800})
    problems: list[str] = []
    made.on("pageerror", lambda error: problems.append(str(error)))
    made.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    made.set_default_timeout(20_000)
    yield made
    made.close()
    assert not [text for text in problems if "401" not in text and "422" not in text], problems


def choose(page: Any, content: bytes, tmp_path: Path, name: str = "photo.png") -> None:
    (tmp_path / name).write_bytes(content)
    page.set_input_files("#file", tmp_path / name)


def test_classes_boxes_and_attention(page: Any, address: str, tmp_path: Path):
    page.goto(address)
    page.wait_for_selector("#tasks input")
    assert page.locator("#tasks label").count() == len(TASKS)
    assert page.is_disabled("#go")  # no picture yet
    choose(page, png(), tmp_path)
    for task in ("boxes", "deep", "shallow"):
        page.check(f"#tasks input[value={task}]")
    page.click("#go")
    page.wait_for_selector("#results section")
    titles = page.locator("#results h2").all_text_contents()
    assert titles == ["boxes", "deep", "shallow"]
    shown = page.locator("#results section", has_text="shallow 0").locator(".row span").all_text_contents()
    assert sorted(shown) == ["shallow 0", "shallow 1", "shallow 2", "shallow 3"]
    card = page.locator("#results section", has=page.locator("h2", has_text="deep"))
    card.get_by_role("button", name="attention").click()
    card.locator("canvas").wait_for()
    kinds = card.locator("option").all_text_contents()
    assert kinds[0].startswith("rollout")
    assert sum(kind.startswith("to the prompts") for kind in kinds) == 6

    def pixels() -> str:
        return str(card.locator("canvas").evaluate("canvas => canvas.toDataURL()"))

    before = pixels()
    card.locator("select").select_option(index=len(kinds) - 1)
    assert pixels() != before


def test_masks_are_drawn_over_the_picture(page: Any, address: str, folder: Path, tmp_path: Path):
    photo = np.asarray(Image.open(io.BytesIO(png())))
    (found,) = vpt.load(folder / "masks.safetensors", device="cpu").predict([photo])
    page.goto(address)
    page.wait_for_selector("#tasks input")
    choose(page, png(), tmp_path)
    page.uncheck("#tasks input:checked")
    page.check("#tasks input[value=masks]")
    page.click("#go:enabled")
    page.wait_for_selector("#results section .row")
    assert page.locator("#results .row span").all_text_contents() == list(found.labels)
    shown = page.locator("#picture").evaluate(
        "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
    )
    shown = np.array(shown).reshape(*photo.shape[:2], 4)[..., :3]
    colours = np.array([[230, 25, 75], [60, 180, 75], [67, 99, 216]])
    tint = np.zeros_like(shown)
    for number, segment in enumerate(found):
        tint[segment.mask] = colours[number]
    expected = photo + (tint - photo.astype(int)) * 140 / 255
    assert (np.abs(shown - expected).max(2) <= 3).mean() > 0.99


def test_a_picture_is_pasted(page: Any, address: str):
    page.goto(address)
    page.wait_for_selector("#tasks input")
    page.evaluate(
        """async () => {
            const canvas = new OffscreenCanvas(40, 30);
            canvas.getContext("2d").fillRect(0, 0, 20, 20);
            const data = new DataTransfer();
            data.items.add(new File([await canvas.convertToBlob()], "pasted.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
        }"""
    )
    page.click("#go:enabled")
    page.wait_for_selector("#results section")
    assert page.locator("#picture").evaluate("canvas => [canvas.width, canvas.height]") == [40, 30]


def test_what_is_no_picture_is_told_and_names_are_only_text(page: Any, address: str, tmp_path: Path):
    page.goto(address)
    page.wait_for_selector("#tasks input")
    choose(page, b"nothing", tmp_path, "<img src=x onerror=alert(1)>.png")
    page.wait_for_selector("#results .bad")
    assert "cannot show" in page.inner_text("#results")
    assert page.is_disabled("#go")


def test_a_key_is_asked_for(browser: Any, page: Any, folder: Path, tmp_path: Path):
    key = add_key(tmp_path / "keys.json", ["deep"])
    for address in serving(ServeSettings(folder=folder, device="cpu", keys=tmp_path / "keys.json")):
        page.goto(address)
        page.wait_for_selector("#key:not([hidden])")
        page.fill("#secret", key)
        page.press("#secret", "Tab")
        page.wait_for_selector("#tasks input")
        assert page.locator("#tasks label span").all_text_contents() == ["deep"]
        choose(page, png(), tmp_path)
        page.click("#go:enabled")
        page.wait_for_selector("#results section")


def test_it_fits_a_phone(browser: Any, address: str, tmp_path: Path):
    phone = browser.new_page(viewport={"width": 360, "height": 640})
    phone.goto(address)
    phone.wait_for_selector("#tasks input")
    choose(phone, png(size=(400, 900)), tmp_path)
    phone.click("#go:enabled")
    phone.wait_for_selector("#results section")
    wide = phone.evaluate("document.documentElement.scrollWidth")
    phone.close()
    assert wide <= 360


def test_answers_of_none_of_the_classes(page: Any, address: str, tmp_path: Path):
    scores = {"cat": 0.9, "dog": 0.1}
    rows = [
        {"image": "a", "task": "strange", "labels": [], "scores": scores, "unknown": True, "unknown_score": 0.8},
        {"image": "a", "task": "close", "labels": [], "scores": scores, "unknown": False, "unsure": ["dog"]},
        {"image": "a", "task": "usual", "labels": ["cat"], "scores": scores, "unknown": False, "unknown_score": 0.1},
    ]
    page.route("**/v1/predict", lambda route: route.fulfill(json={"results": rows}))
    page.goto(address)
    page.wait_for_selector("#tasks input")
    choose(page, png(), tmp_path)
    page.click("#go:enabled")
    page.wait_for_selector("#results section:nth-of-type(3)")
    said = [card.locator("p").all_text_contents() for card in page.locator("#results section").all()]
    assert said == [["none of these: unlike the training images"], ["unsure: dog"], []]
