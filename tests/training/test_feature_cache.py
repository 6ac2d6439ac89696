"""Cached outputs of the frozen lower layers: equal to computing them in every step, outputs and gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.runs import QUIET, interrupted, settings, states_of_epochs
from tests.helpers.vit_families import BUILDERS, CLASSES, build_backbone
from vpt.config import load_config
from vpt.models.classifier import PromptedModel, build_model
from vpt.training import feature_cache
from vpt.training.run import resume, train
from vpt.utils.console import Console

pytestmark = pytest.mark.usefixtures("small_net")
LAST = ("prompt.layers=last:1", "data.augment=none")


def model_of(family: str, *words: str) -> PromptedModel:
    config = load_config(overrides=["head.init=small", "prompt.tokens=3", *words])
    model = build_model(config, build_backbone(family), CLASSES)
    with torch.no_grad():
        for _, _, parameter in model.trainable():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    return model


def gradients(model: PromptedModel, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    logits.square().sum().backward()
    return {name: parameter.grad.clone() for name, _, parameter in model.trainable() if parameter.grad is not None}


@pytest.mark.parametrize(
    ("family", "method"),
    [
        *((family, "deep") for family in sorted(BUILDERS)),
        *(("vit", m) for m in ("vfpt", "cvpt", "bpt")),
    ],
)
def test_it_equals_the_whole_pass(family: str, method: str):
    model = model_of(family, f"prompt={method}", "prompt.layers=last:2").eval()
    depth = len(model.steps)
    assert model.first_prompted == depth - 2
    images = torch.randint(256, (3, 3, model.image_size, model.image_size), dtype=torch.uint8)
    tokens = model.tokens_below(depth - 2, images).detach()
    above, whole = model.forward_above(depth - 2, images)(tokens), model(images)
    torch.testing.assert_close(above, whole, rtol=1e-5, atol=1e-6)
    one, other = gradients(model, above), gradients(model, model(images))
    assert one.keys() == other.keys()
    assert any(name.startswith("prompt.") for name in one)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("words", [["prompt.layers=all"], ["prompt=shallow"], ["prompt=none"], ["prompt=e2vpt"]])
def test_nothing_is_below_these(words: list[str]):
    assert model_of("vit", *words).first_prompted == 0


VIEWS = ("prompt.layers=last:1", "data.views=2")


@pytest.mark.parametrize(
    "words",
    [["prompt.init=sample"], ["head.init=probe"], ["prompt.init=vipamin"], VIEWS, ["prompt=none", "data.views=2"]],
)
def test_a_run_is_the_same_with_and_without(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
):
    states = states_of_epochs(monkeypatch)
    said: list[str] = []
    console = Console(quiet=True)
    monkeypatch.setattr(console, "say", said.append)
    words = [*(() if "data.views=2" in words else LAST), *words]
    train(settings(shapes, tmp_path / "cached", *words), console)
    why = "2 views of each image" if "data.views=2" in words else "no augmentation"
    what = "features" if "prompt=none" in words else "the first layer"
    assert f"{why}: computing {what} only once" in said
    cached = list(states)
    states.clear()
    monkeypatch.setattr("vpt.training.tasks.pooled.frozen_part", lambda model, context: None)
    train(settings(shapes, tmp_path / "plain", *words), QUIET)
    assert len(cached) == len(states) == 3
    for one, other in zip(cached, states, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("words", [LAST, VIEWS])
def test_a_stopped_run_resumes_exactly(shapes: Path, tmp_path: Path, words: list[str]):
    whole = train(settings(shapes, tmp_path / "whole", *words), QUIET)
    with interrupted(7, save=True):
        train(settings(shapes, tmp_path / "cut", *words), QUIET)
    again = resume(tmp_path / "cut" / "run", console=QUIET)
    assert (again.folder / "artifact.safetensors").read_bytes() == (whole.folder / "artifact.safetensors").read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        ["data.augment=light"],
        ["tuning=lora"],
        ["prompt.layers=all"],
        ["train.drop_path=0.1"],
        ["data.augment=light", "data.views=2", "tuning=bias"],
    ],
)
def test_what_changes_is_not_cached(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]):
    def refuse(*_: object) -> None:
        raise AssertionError("cached")

    monkeypatch.setattr("vpt.training.tasks.pooled.feature_loader", refuse)
    train(settings(shapes, tmp_path, *LAST, "train.epochs=1", *words), QUIET)


@pytest.mark.parametrize("words", [LAST, VIEWS])
def test_on_disk_as_in_memory(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]):
    one = train(settings(shapes, tmp_path / "memory", *words), QUIET)
    monkeypatch.setattr(feature_cache, "available_memory", lambda: 0)
    other = train(settings(shapes, tmp_path / "disk", *words), QUIET)
    assert one.artifact.read_bytes() == other.artifact.read_bytes()


def test_without_room_every_step_computes_it(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(feature_cache, "available_memory", lambda: 0)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 0}))
    said: list[str] = []
    console = Console(quiet=True)
    monkeypatch.setattr(console, "say", said.append)
    train(settings(shapes, tmp_path, *LAST, "train.epochs=1"), console)
    assert "too little memory and disk is free to cache the output of the first layer" in said


def test_each_process_reads_its_part_of_a_batch():
    features, labels = torch.arange(14.0)[:, None], torch.arange(7)
    whole, first, second = (
        feature_cache.FeatureLoader(features, labels, batch_size=3, seed=1, shuffle=True, rank=rank, ranks=ranks)
        for rank, ranks in ((0, 1), (0, 2), (1, 2))
    )
    for epoch in range(3):
        for all_, one, other in zip(whole.epoch(epoch), first.epoch(epoch), second.epoch(epoch), strict=True):
            assert all_.images.flatten().tolist() == [index + 7 * (epoch % 2) for index in all_.index.tolist()]
            assert [*one.index.tolist(), *other.index.tolist()] == [
                *all_.index[::2].tolist(),
                *all_.index[1::2].tolist(),
            ]
