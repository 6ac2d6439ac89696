"""Tasks tuned by LoRA or by their biases in a bank: one frozen backbone, and changes for every image."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import vpt
from tests.helpers.bank_tasks import clip_words, make
from vpt.backbones.backbone import Backbone
from vpt.backbones.layer_changes import LayerChange, LayerChanges, StackedChanges
from vpt.inference.bank.bank import Bank
from vpt.models.attention_maps import as_heat, attention_of
from vpt.utils.errors import UserError

NAMES = ["deep", "lora", "lora-mlp", "lora-everywhere", "bias", "lora-deep", "bias-deep", "deep-longer"]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    return {name: make(folder, name, seed) for seed, name in enumerate(NAMES)}


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 64, 3), dtype=np.uint8)


def filled(artifacts: dict[str, Path]) -> Bank:
    bank = Bank(device="cpu")
    for name, path in artifacts.items():
        bank.add(name, path)
    return bank


def scores(found: object) -> dict[str, float]:
    assert isinstance(found, vpt.Classification)
    return dict(zip(found.labels, map(float, found.scores), strict=True))


def test_prompts_low_rank_changes_and_biases_share_one_pass_and_one_backbone(
    artifacts: dict[str, Path], photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    bank = filled({"deep": artifacts["deep"]})
    net = bank._use(["deep"])["deep"].predictor.model.backbone.net
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for name in NAMES[1:]:
        bank.add(name, artifacts[name])
    passes: list[int] = []
    usual = Backbone.features
    monkeypatch.setattr(Backbone, "features", lambda self, *a, **k: (passes.append(len(a[0])), usual(self, *a, **k))[1])
    tasks = [*NAMES, *reversed(NAMES)]
    found = bank.predict([photo] * len(tasks), tasks)
    assert passes == [len(tasks)]
    assert all(bank._use([name])[name].predictor.model.backbone.net is net for name in NAMES)
    after = net.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name, mine in zip(tasks, found, strict=True):
        own = vpt.load(artifacts[name], device="cpu").predict(photo)[0]
        assert scores(mine) == pytest.approx(scores(own), abs=1e-5), name


def test_the_changes_of_a_task_matter(artifacts: dict[str, Path], photo: np.ndarray):
    """Otherwise the comparisons with own models would hold for changes that are lost on both sides."""
    for name in ("lora", "bias"):
        model = vpt.load(artifacts[name], device="cpu").model
        images = torch.from_numpy(np.resize(photo, (1, 64, 64, 3))).permute(0, 3, 1, 2)
        with torch.inference_mode():
            tuned = model(images)
            for part in load_file(artifacts[name]):
                if part.startswith("backbone."):
                    model.get_parameter(part).zero_()
            assert (tuned - model(images)).abs().max() > 1e-2


def test_threads_have_their_own_changes(artifacts: dict[str, Path], photo: np.ndarray):
    bank = filled(artifacts)
    expected = {name: scores(bank.predict([photo], [name])[0]) for name in NAMES}
    errors: list[BaseException] = []

    def ask(name: str) -> None:
        try:
            for _ in range(5):
                for task, found in zip([name, "deep"], bank.predict([photo] * 2, [name, "deep"]), strict=True):
                    assert scores(found) == pytest.approx(expected[task], abs=1e-5)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("lora", "bias", "lora-everywhere")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors, errors[0]


def test_attention_maps_are_those_of_the_tuned_model(artifacts: dict[str, Path], photo: np.ndarray):
    bank = filled(artifacts)
    found = bank.attention(photo, "lora")
    model = vpt.load(artifacts["lora"], device="cpu").model
    (maps,) = attention_of(model, torch.from_numpy(found["square"]).permute(2, 0, 1)[None])
    np.testing.assert_allclose(found["rollout"], as_heat(maps.rollout).tolist(), atol=2e-4)


@pytest.mark.parametrize("kind", ["transformer", "timm"])
@pytest.mark.parametrize("tuning", [["tuning=bias"], ["tuning=lora", "tuning.targets=[c_fc,fc1]"]])
def test_image_towers_of_clip(tmp_path: Path, photo: np.ndarray, kind: str, tuning: list[str]):
    base = [*clip_words(tmp_path, kind), "prompt=deep", "prompt.tokens=2"]
    paths = {"tuned": make(tmp_path, "tuned", 1, *base, *tuning), "plain": make(tmp_path, "plain", 2, *base)}
    found = filled(paths).predict([photo] * 2, list(paths))
    for path, mine in zip(paths.values(), found, strict=True):
        assert scores(mine) == pytest.approx(scores(vpt.load(path, device="cpu").predict(photo)[0]), abs=1e-5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["backbone=eva02_tiny_patch14_224", "backbone.image_size=28", "tuning=bias"],
            r"the bias \S+_bias of eva02_tiny_patch14_224 cannot differ between images; use vpt.load instead",
        ),
        (
            ["backbone=test_resnet", "backbone.image_size=32", "tuning=bias"],
            r"backbone test_resnet does not support changes of its layers for every image \(tuning=bias\)",
        ),
    ],
)
def test_layers_that_cannot_have_changes_are_named(tmp_path: Path, words: list[str], sentence: str):
    path = make(tmp_path, "other", 1, "prompt=none", "backbone.pretrained=false", "head=linear", *words)
    with pytest.raises(UserError, match=sentence):
        Bank(device="cpu").add("other", path)


def _named(tensors: dict[str, Tensor], ending: str) -> str:
    return next(name for name in tensors if name.endswith(ending))


def _renamed(tensors: dict[str, Tensor]) -> None:
    tensors["backbone.net.blocks.0.attn.qkv.weight"] = tensors.pop(_named(tensors, "lora_A.default.weight"))


def _missing(tensors: dict[str, Tensor]) -> None:
    tensors.pop(_named(tensors, "lora_B.default.weight"))


def _weights(tensors: dict[str, Tensor]) -> None:
    tensors["backbone.net.blocks.0.attn.qkv.weight"] = torch.zeros(4, 4)


def _wider(tensors: dict[str, Tensor]) -> None:
    name = _named(tensors, "lora_B.default.weight")
    tensors[name] = torch.zeros(len(tensors[name]) + 1, tensors[name].shape[1])


def _infinite(tensors: dict[str, Tensor]) -> None:
    tensors[_named(tensors, "lora_B.default.weight")][0] = torch.inf


@pytest.mark.parametrize("damage", [_renamed, _missing, _weights, _wider, _infinite])
def test_a_strangers_matrices_are_checked(
    artifacts: dict[str, Path], photo: np.ndarray, tmp_path: Path, damage: Callable[[dict[str, Tensor]], None]
):
    with safe_open(artifacts["lora"], "pt") as file:
        tensors, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    damage(tensors)
    header.pop("digest", None)
    save_file(tensors, tmp_path / "damaged.safetensors", header)
    bank = filled({"deep": artifacts["deep"]})
    with pytest.raises(UserError):
        bank.add("damaged", tmp_path / "damaged.safetensors")
    assert bank.names() == ["deep"]
    assert bank.predict([photo], ["deep"])


def test_changes_are_stacked_by_their_form():
    chance = torch.Generator().manual_seed(0)

    def low(rank: int) -> LayerChange:
        return LayerChange(torch.randn(4, rank, generator=chance), torch.randn(rank, 3, generator=chance))

    tasks = [{"0": low(1)}, {}, {"0": low(2)}, {"0": LayerChange(bias=torch.ones(3))}, {"0": low(1)}]
    stacked, changes = StackedChanges(tasks), LayerChanges()
    net = torch.nn.Sequential(torch.nn.Linear(4, 3))
    changes.watch(net, tasks[0])
    changes.watch(net, tasks[0])  # only once
    mine = [4, 1, 0, 2, 3, 2, 0]
    order = stacked.order(mine)
    ordered = [mine[at] for at in order]
    assert ordered == [0, 0, 4, 1, 2, 2, 3]
    x = torch.randn(7, 5, 4, generator=chance)
    with torch.no_grad(), changes.during(stacked.of(ordered)):
        found = net(x)
    with torch.no_grad():
        plain = net(x)
    for row, task in enumerate(ordered):
        own = tasks[task].get("0", LayerChange())
        added = torch.zeros(5, 3) if own.bias is None else own.bias.expand(5, 3)
        if own.down is not None:
            added = x[row] @ own.down @ own.up
        torch.testing.assert_close(found[row] - plain[row], added, atol=1e-5, rtol=1e-5)
