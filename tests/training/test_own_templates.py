"""The sentences that CLIP_benchmark writes next to its shards, in zero-shot evaluation and in artifacts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.clip_models import register_tiny
from tests.helpers.runs import QUIET
from tests.helpers.shards import clip_benchmark
from vpt.config import load_config
from vpt.heads import zero_shot
from vpt.inference.evaluate import evaluate, evaluate_untrained
from vpt.models.artifact import read_artifact
from vpt.training.run import train
from vpt.utils.errors import UserError

SENTENCES = ["a photo of a {}.", "a sketch of a {}."]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    name = register_tiny(tmp_path, "tiny-templates", 1)
    data = clip_benchmark(tmp_path / "birds")
    return [f"backbone={name}", "backbone.pretrained=false", f"data=wds:{data}", "head=zeroshot", f"out={tmp_path}"]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[str, ...], list[str]]]:
    """The names and templates that are encoded."""
    found = []
    real = zero_shot.class_features

    def spied(encoder, fingerprint, names, templates, *rest):
        found.append((tuple(names), list(templates)))
        return real(encoder, fingerprint, names, templates, *rest)

    monkeypatch.setattr(zero_shot, "class_features", spied)
    return found


def test_they_are_used_without_training(words: list[str], used: list) -> None:
    metrics = evaluate_untrained(load_config(overrides=[*words, "prompt=none"]), console=QUIET)
    assert metrics["images"] == 4
    assert used[-1] == (("barn owl", "guinea fowl"), SENTENCES)
    given = load_config(overrides=[*words, "prompt=none", "head.templates=a {}"])
    evaluate_untrained(given, console=QUIET)
    assert used[-1][1] == ["a {}"]


def test_an_artifact_holds_them(words: list[str], used: list, tmp_path: Path) -> None:
    few = ["prompt=deep", "prompt.tokens=1", "train.epochs=1", "name=run", "data.workers=0"]
    result = train(load_config(overrides=[*words, *few]), console=QUIET)
    assert read_artifact(result.artifact).config.head.templates == SENTENCES
    (tmp_path / "birds" / "zeroshot_classification_templates.txt").unlink()
    assert evaluate(result.artifact, "test", console=QUIET)["images"] == 4
    assert used[-1][1] == SENTENCES


def test_a_file_of_other_sentences_is_refused(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "birds" / "zeroshot_classification_templates.txt").write_text("a photo\n")
    with pytest.raises(UserError, match=r"zeroshot_classification_templates\.txt: give up to .* unlike: a photo"):
        evaluate_untrained(load_config(overrides=[*words, "prompt=none"]), console=QUIET)
