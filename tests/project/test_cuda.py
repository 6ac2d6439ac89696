"""On a GPU: every family equals its twin, a replayed pass is the pass, and runs of every kind go through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import vpt
from tests.helpers.clip_digits import LEARNERS, digits_clip, settings
from tests.helpers.concatenation_twin import twin_features
from tests.helpers.vit_families import BUILDERS, SIZE, build_backbone
from vpt.backbones.liveness import plan
from vpt.config import DeepPrompt, ShallowPrompt, load_config
from vpt.models.classifier import PromptedModel, backbone_for, build_model
from vpt.prompts.base import Shape
from vpt.prompts.registry import build_tokens
from vpt.training.cuda_graphs import Replayed
from vpt.training.parallelize import prepare_for_training
from vpt.training.run import train
from vpt.utils.device import autocast
from vpt.utils.run_log import read_rows

__all__ = ["digits_clip"]  # a fixture


pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    # Of the thread that goes back through a pass, the first time.
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS"),
]
GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """No rounding inside products and convolutions."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("config", [DeepPrompt(tokens=3), ShallowPrompt(tokens=3)], ids=["deep", "shallow"])
@pytest.mark.parametrize("family", [name for name in BUILDERS if name != "clip-attention-pool"])
def test_families_equal_their_twins(family: str, config: DeepPrompt | ShallowPrompt):
    backbone = build_backbone(family).to(GPU)
    tower = backbone.require_tower("token prompts")
    prompt = build_tokens(config, Shape.of(tower)).to(GPU)
    size = backbone.preprocess.size
    images = torch.randn(3, 3, size, size, device=GPU)
    steps = plan(len(tower.blocks), prompt.inserted, prompt.after, backbone.reads("native"))
    mine = backbone.features(images, steps, "native", prompt.layers(tower, steps, 3))
    theirs = twin_features(backbone, images, prompt.sets(3), prompt.inserted, prompt.after)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    pull = torch.randn_like(theirs)
    found, wanted = (torch.autograd.grad(out, list(prompt.parameters()), pull) for out in (mine, theirs))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def model_of(*words: str, precision: str = "fp32") -> PromptedModel:
    config = load_config(overrides=["backbone=vpt_nano", "prompt.tokens=3", *words])
    model = build_model(config, backbone_for(config), ["cat", "dog", "owl"])
    prepare_for_training(model, config.train, GPU, precision)
    return model.train()


def batches(*counts: int) -> list[Tensor]:
    chance = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (n, 3, 64, 64), dtype=torch.uint8, generator=chance).to(GPU) for n in counts]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "words", [["prompt=deep"], ["prompt=shallow"], ["prompt=vapt"], ["prompt=gated"], ["prompt=e2vpt"], ["prompt=vfpt"]]
)
def test_a_replayed_pass_is_the_pass(words: list[str], precision: str):
    model = model_of(*words, precision=precision).eval()  # some have dropout
    told: list[str] = []
    learning = [parameter for _, _, parameter in model.trainable()]
    with autocast(precision, GPU)():
        replayed = Replayed(model.features, learning, batches(4)[0], told.append)
    near = {"rtol": 0, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.02, "atol": 0.02}
    for images in batches(4, 4, 3, 4):  # the third takes the usual way
        with autocast(precision, GPU)():
            found, wanted = replayed(images), model.features(images)
        torch.testing.assert_close(found, wanted, **near)
        pull = torch.randn_like(wanted)
        mine, theirs = (torch.autograd.grad(out, learning, pull, allow_unused=True) for out in (found, wanted))
        scale = max(float(one.abs().max()) for one in theirs if one is not None)
        for one, other in zip(mine, theirs, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                torch.testing.assert_close(one, other, rtol=0, atol=(1e-4 if precision == "fp32" else 0.05) * scale)
        with torch.no_grad():  # as an optimiser would, between steps
            for parameter in learning:
                parameter.add_(0.1 * torch.randn_like(parameter))
    assert told == []


def test_gradients_of_replays_add_up():
    model = model_of("prompt=deep")
    tokens = next(parameter for _, role, parameter in model.trainable() if role == "prompt")
    replayed = Replayed(model.features, [tokens], batches(4)[0])
    one, two = batches(4, 4)
    for images in (one, two):
        replayed(images).sum().backward()
    both = tokens.grad
    (wanted,) = torch.autograd.grad(model.features(one).sum() + model.features(two).sum(), tokens)
    torch.testing.assert_close(both, wanted, rtol=1e-4, atol=1e-4)


def test_dropout_of_a_replay_is_drawn_from_the_seed_of_its_step():
    model = model_of("prompt=deep", "prompt.dropout=0.5")
    (images,) = batches(4)
    replayed = Replayed(model.features, [parameter for _, _, parameter in model.trainable()], images)
    found = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        found.append(replayed(images).clone())
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


def test_what_cannot_be_recorded_goes_the_usual_way():
    weight = torch.ones(3, device=GPU, requires_grad=True)
    told: list[str] = []
    replayed = Replayed(
        lambda rows: rows * weight * float(rows.sum()), [weight], torch.ones(2, 3, device=GPU), told.append
    )
    for value in (1.0, 2.0):
        out = replayed(torch.full((2, 3), value, device=GPU))
        assert torch.equal(out, torch.full((2, 3), value * value * 6, device=GPU))
    assert len(told) == 1
    assert "not replayed" in told[0]
    torch.rand(1, device=GPU)  # the generator is not left in the recording


@pytest.mark.parametrize("words", [["train.precision=fp32"], [], ["train.accumulate=2"], ["tuning=lora"]])
def test_a_run_learns_the_same_with_and_without_graphs(words: list[str], tmp_path: Path):
    losses = []
    for compile_ in ("auto", "none"):
        common = ["data=digits", "data.augment=light", "prompt.tokens=4", "prompt.dropout=0", "train.epochs=2"]
        where = [f"out={tmp_path}", f"name={compile_}", f"train.compile={compile_}", "train.device=cuda"]
        result = train(load_config(overrides=["backbone=vpt_nano", *common, *where, *words]))
        losses.append([row["loss"] for row in read_rows(result.folder) if row["kind"] == "step"])
        assert result.metrics["val"]["accuracy"] > 0.5
        log = (result.folder / "log.txt").read_text() if (result.folder / "log.txt").is_file() else ""
        assert "not replayed" not in log
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", list(LEARNERS))
def test_every_learner_trains(name: str, digits_clip: list[str], tmp_path: Path):
    config = settings(digits_clip, tmp_path, *LEARNERS[name], "train.epochs=1", "train.device=cuda")
    assert train(config).metrics["val"]["accuracy"] > 0.2


def test_a_detector_trains_and_finds(tmp_path: Path):
    words = ["task=detection", f"out={tmp_path}", "name=run", "train.epochs=1", "train.device=cuda"]
    result = train(load_config(overrides=words))
    assert 0 <= result.metrics["val"]["map"] <= 1
    found = vpt.load(result.artifact, device="cuda").predict([np.zeros((80, 96, 3), np.uint8)])
    assert len(found) == 1


def test_artifacts_answer_as_on_a_cpu(tmp_path: Path):
    common = ["backbone=vpt_nano", "data=digits", "train.epochs=1", "train.device=cuda", f"out={tmp_path}"]
    artifacts = {
        name: train(load_config(overrides=[*common, f"name={name}", f"prompt.tokens={count}"])).artifact
        for name, count in (("few", 2), ("many", 7))
    }
    chance = np.random.default_rng(0)
    pictures = [chance.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(4)]
    for path in artifacts.values():
        mine, theirs = (vpt.load(path, device=device).predict(pictures, top=10) for device in ("cuda", "cpu"))
        for one, other in zip(mine, theirs, strict=True):
            scores, wanted = one.to_dict()["scores"], other.to_dict()["scores"]
            assert all(abs(scores[name] - wanted[name]) < 1e-3 for name in wanted)
    bank = {device: vpt.Bank(device=device) for device in ("cuda", "cpu")}
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    answers = []
    for each in bank.values():
        for name, path in artifacts.items():
            each.add(name, path)
        answers.append(torch.stack(each.logits(images, ["few", "many", "many", "few"])).cpu())
    torch.testing.assert_close(*answers, rtol=1e-3, atol=1e-3)
