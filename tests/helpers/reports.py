"""The report of a run folder."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import vpt
from tests.helpers.runs import QUIET


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and text by section."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {"": ""}
        self._section = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "section":
            self._section = found["id"] or ""
            self.sections[self._section] = ""

    def handle_data(self, data: str) -> None:
        self.sections[self._section] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.sections.values()).split())

    def told(self, section: str) -> str:
        return " ".join(self.sections[section].split())

    def attributes(self, name: str) -> list[str]:
        return [found[name] or "" for _, found in self.tags if name in found]


def report(runs: Path | list[Path], output: Path, **wishes: object) -> Page:
    path = vpt.write_report(runs, output, console=QUIET, **wishes)
    assert path == output
    page = Page(path)
    assert_alone(path, page)
    return page


def assert_alone(path: Path, page: Page) -> None:
    """No address outside of the page, no handler, one script and one style sheet, both ours; every id is there once."""
    text = path.read_text(encoding="utf-8")
    for address in page.attributes("src") + page.attributes("href"):
        assert address.startswith(("data:", "#")), address
    assert not re.search(r"url\(|@import|http:|https:", re.sub(r"<pre.*?</pre>", "", text, flags=re.S))
    assert not [name for _, found in page.tags for name in found if name.startswith("on")]
    assert [tag for tag, _ in page.tags].count("script") == 1
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    targets = {address[1:] for address in page.attributes("href") if address.startswith("#")}
    assert targets <= set(ids)
    assert all(found.get("alt") for tag, found in page.tags if tag == "img")
    assert all(found.get("aria-label") for tag, found in page.tags if tag == "svg")
