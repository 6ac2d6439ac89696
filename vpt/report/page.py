"""Shared parts of report pages: sections, notes, the data set of a run, and the page itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from markupsafe import Markup
from PIL import Image

from vpt.data.dataset import LabelledData, Record
from vpt.models.trusted_settings import NOTHING, Named
from vpt.report.embedding_map import Map
from vpt.report.html import Section, note, render
from vpt.report.image_encoding import png_uri
from vpt.report.run_data import Source
from vpt.training.tasks import task_of
from vpt.utils.errors import UserError
from vpt.utils.version import own_version


@dataclass(frozen=True)
class Options:
    """What a page should show, and the current location of the data and the backbone."""

    images: int = 24
    split: str | None = None
    data: str | None = None
    named: Named = NOTHING
    device: str = "auto"
    model: bool = True
    map: Map = "tsne"


def data_of(source: Source) -> LabelledData | UserError:
    """The data set of the run, or why it is not available."""
    try:
        return task_of(source.config).load(source.config)
    except UserError as error:
        return error


def by_name(data: LabelledData, split: str) -> dict[str, Record]:
    return {record.name: record for record in data.split(split)}


def labels_of(records: Sequence[Record], classes: int, multilabel: bool) -> np.ndarray:
    if not multilabel:
        return np.array([record.labels[0] for record in records])
    labels = np.zeros((len(records), classes))
    for row, record in enumerate(records):
        labels[row, list(record.labels)] = 1
    return labels


def prompt_section(source: Source) -> Section:
    path = source.folder / "prompt.png"
    try:
        with Image.open(path, formats=["PNG"]) as file:
            pixels = np.asarray(file.convert("RGBA"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    sigmoid = getattr(source.config.prompt, "squash", None) == "sigmoid"
    body = render("prompt.html", uri=png_uri(pixels), side=pixels.shape[0], sigmoid=sigmoid)
    return Section("prompt", "Pixel prompt", body)


def settings_section(named: Mapping[str, Source]) -> Section:
    texts = {
        name: (source.folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
        for name, source in named.items()
    }
    return Section("settings", "Settings", render("settings.html", texts=texts))


def or_note(anchor: str, title: str, make: Callable[[], Section]) -> Section:
    """A section, or a note on why it is not shown."""
    try:
        return make()
    except UserError as error:
        return Section(anchor, title, note(f"Not shown: {error}"))


def with_note(section: Section, text: str) -> Section:
    return Section(section.anchor, section.title, section.body + note(text))


def page_of(
    title: str,
    runs: str,
    headline: str,
    numbers: Sequence[tuple[str, str]],
    facts: Sequence[tuple[str, str]],
    notes: Sequence[str],
    sections: Sequence[Section],
) -> str:
    # Constant content of this package: user data gets into neither of these unescaped.
    style, script = (
        Markup((files("vpt.report") / "templates" / n).read_text("utf-8")) for n in ("style.css", "sort.js")
    )
    return str(
        render(
            "page.html",
            title=title,
            runs=runs,
            headline=headline,
            numbers=numbers,
            facts=facts,
            notes=notes,
            sections=sections,
            style=style,
            script=script,
            version=own_version(),
        )
    )
