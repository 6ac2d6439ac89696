"""The report in headless Chromium: a phone, sorting with the script and without, dark and light, paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vpt
from tests.helpers.browser import chromium, needs_chromium
from tests.helpers.runs import QUIET
from tests.helpers.written_runs import write_run

pytest.importorskip("playwright.sync_api")
pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from chromium()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of runs with 3, 18, 100 and 250 classes, and of two runs."""
    root = tmp_path_factory.mktemp("reports")
    found = {}
    for classes in (3, 18, 100, 250):
        folder = write_run(root / f"of-{classes}", classes, 40 * min(classes, 20))
        found[str(classes)] = vpt.write_report(folder, console=QUIET)
    both = [root / "of-18", write_run(root / "other", 18, 720, seed=1)]
    found["two"] = vpt.write_report(both, root / "two.html", console=QUIET)
    return found


def opened(browser: Any, path: Path, width: int = 1100, **how: Any) -> Any:
    page = browser.new_page(viewport={"width": width, "height": 800}, **how)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else problems.append("asked"))
    page.goto(path.as_uri())
    assert not problems
    return page


@pytest.mark.parametrize("which", ["3", "18", "100", "250", "two"])
@pytest.mark.parametrize("width", [360, 1100])
def test_no_page_scrolls_sideways(browser: Any, pages: dict[str, Path], which: str, width: int):
    page = opened(browser, pages[which], width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_pages_are_small(pages: dict[str, Path]):
    assert max(path.stat().st_size for path in pages.values()) < 1_000_000


def test_what_stands_for_a_matrix_depends_on_its_size(browser: Any, pages: dict[str, Path]):
    for which, tables, drawings in (("18", 1, 0), ("100", 0, 1), ("250", 0, 0)):
        page = opened(browser, pages[which])
        assert page.locator("table.matrix").count() == tables
        assert page.locator("svg[aria-label^='Confusion matrix']").count() == drawings
        assert page.locator("caption", has_text="most frequently confused").count() == 1
        page.close()


def test_tables_sort(browser: Any, pages: dict[str, Path]):
    page = opened(browser, pages["18"])
    table = page.locator("table.sortable", has=page.locator("caption", has_text="metrics by class"))

    def column(at: int) -> list[str]:
        return table.locator(f"tbody tr > :nth-child({at})").all_text_contents()

    before = column(1)
    button = table.locator("th", has_text="F1").locator("button")
    button.click()
    numbers = [float(text.rstrip("%")) for text in column(5)]
    assert numbers == sorted(numbers, reverse=True)
    button.click()
    assert [float(text.rstrip("%")) for text in column(5)] == sorted(numbers)
    assert table.locator("th[aria-sort=ascending]").count() == 1
    table.locator("th", has_text="class").locator("button").click()
    assert column(1) != before or sorted(before) == before
    page.close()


def test_times_sort_by_their_length(browser: Any, tmp_path: Path):
    """Not by the number their text begins with: 90 s is shown as 1 min 30 s and comes after 12.5 s."""
    long = write_run(tmp_path / "long", 3, 30)
    (long / "metrics.json").write_text(
        (long / "metrics.json").read_text().replace('"seconds": 12.5', '"seconds": 90.0')
    )
    short = write_run(tmp_path / "short", 3, 30, seed=1)
    page = opened(browser, vpt.write_report([short, long], tmp_path / "page.html", console=QUIET))
    page.locator("#runs th", has_text="time").locator("button").click()
    assert page.locator("#runs tbody th").all_text_contents() == ["long", "short"]
    page.close()


def test_without_the_script_tables_are_as_they_were_written(browser: Any, pages: dict[str, Path]):
    page = browser.new_page(java_script_enabled=False)
    page.goto(pages["18"].as_uri())
    assert page.locator("th button").count() == 0
    assert page.locator("table.sortable tbody tr").count() == 18
    page.close()


def test_light_dark_and_paper(browser: Any, pages: dict[str, Path]):
    """Text keeps a contrast of 4.5 against the page, and paper is white without the bar of links."""
    for scheme in ("light", "dark"):
        page = opened(browser, pages["3"], color_scheme=scheme)
        for name in ("--ink", "--soft", "--good", "--bad", "--c0"):
            assert contrast(colour(page, name), colour(page, "--page")) >= 4.5, (scheme, name)
        page.emulate_media(media="print")
        assert colour(page, "--page") == (255, 255, 255)
        assert not page.locator("nav").is_visible()
        page.close()


def test_paper_holds_two_charts_a_row(browser: Any, pages: dict[str, Path]):
    """On a sheet of 190 mm too, where the screen would have one; heads of tables are text, for Chromium repeats no
    buttons on the next page."""
    page = opened(browser, pages["18"], 720)
    columns = "getComputedStyle(document.querySelector('.charts')).gridTemplateColumns.split(' ').length"
    assert page.evaluate(columns) == 1
    page.emulate_media(media="print")
    assert page.evaluate(columns) == 2
    assert page.evaluate("getComputedStyle(document.querySelector('th button')).display") == "contents"
    page.close()


def colour(page: Any, variable: str) -> tuple[int, ...]:
    """A CSS colour as red, green, blue."""
    told = page.evaluate(
        """name => { const probe = document.createElement("i"); probe.style.color = `var(${name})`;
           document.body.append(probe); const told = getComputedStyle(probe).color; probe.remove(); return told; }""",
        variable,
    )
    return tuple(int(part) for part in told.removeprefix("rgb(").removesuffix(")").split(","))


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """WCAG 2's ratio of two colours."""

    def light(rgb: tuple[int, ...]) -> float:
        parts = [value / 255 for value in rgb]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
