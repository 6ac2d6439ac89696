"""A small CLIP trained on digits with their names as words: zero-shot, every learner, other names, and exact resume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.helpers.clip_digits import LEARNERS, WORDS, digits_clip, settings
from tests.helpers.runs import QUIET, interrupted, states_of_epochs
from vpt.backbones.factory import load_backbone
from vpt.config import load_config
from vpt.data.datasets.digits import NAMES
from vpt.inference.bank.bank import Bank
from vpt.inference.evaluate import evaluate, evaluate_untrained
from vpt.inference.predictor import load
from vpt.interop.export.export import export
from vpt.interop.export.target import Format
from vpt.models.artifact import read_artifact, save_artifact
from vpt.training.run import resume, train
from vpt.training.tasks import task_of
from vpt.training.trainer import Trainer
from vpt.utils.errors import UserError

__all__ = ["digits_clip"]  # a fixture


def untrained(clip: list[str], out: Path, *words: str) -> Path:
    """An artifact with scrambled weights."""
    config = settings(clip, out, *words)
    model = task_of(config).build(config, NAMES)
    with torch.no_grad():
        for _, _, parameter in model.trainable():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return save_artifact(out / "artifact.safetensors", model, config, NAMES)


@pytest.fixture(scope="module")
def zero_shot(digits_clip: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Accuracy without training, on all classes and on either half."""
    out = tmp_path_factory.mktemp("zero")
    words = ["prompt=none"]
    return {
        half: evaluate_untrained(settings(digits_clip, out, *words, f"data.half={half}"), console=QUIET)["accuracy"]
        for half in ("all", "base", "new")
    }


def test_zero_shot_beats_chance(zero_shot: dict[str, float]):
    assert zero_shot["all"] > 0.4
    assert zero_shot["base"] > zero_shot["all"]  # five classes are told apart more easily than ten


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_learner_improves_the_base_classes(
    digits_clip: list[str], tmp_path: Path, zero_shot: dict[str, float], learner: str
):
    result = train(settings(digits_clip, tmp_path, *LEARNERS[learner], "data.half=base"), QUIET)
    assert result.metrics["test"]["accuracy"] > zero_shot["base"]
    again = evaluate(result.artifact, console=QUIET)
    assert again["accuracy"] == result.metrics["test"]["accuracy"]
    assert result.metrics["artifact_bytes"] < 500_000
    if learner in ("coop, own context", "taskres", "tip", "tip, finetuned"):
        with pytest.raises(UserError, match="own classes only"):
            evaluate(result.artifact, overrides=["data.half=new"], console=QUIET)
    else:
        new = evaluate(result.artifact, overrides=["data.half=new"], console=QUIET)
        assert new["accuracy"] > 0.2
        assert [row["class"] for row in new["per_class"]] == list(NAMES[5:])


@pytest.mark.parametrize("learner", ["cocoop", "maple", "promptsrc", "tip, finetuned"])
def test_learners_resume_bit_identically(digits_clip: list[str], tmp_path: Path, learner: str):
    words = [*LEARNERS[learner], "data.shots=10", "train.epochs=3", "train.batch_size=32"]
    whole = train(settings(digits_clip, tmp_path / "whole", *words), QUIET)
    with interrupted(5):
        train(settings(digits_clip, tmp_path / "cut", *words, "train.checkpoint_minutes=0"), QUIET)
    again = resume(tmp_path / "cut" / "run", console=QUIET)
    assert again.artifact.read_bytes() == whole.artifact.read_bytes()


def test_the_mean_over_epochs_is_gaussian(digits_clip: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    states = states_of_epochs(monkeypatch)
    words = ["prompt=coop", "prompt.tokens=5", "train.epochs=3", "train.average={mean: 2, std: 0.8}"]
    result = train(settings(digits_clip, tmp_path, *words), QUIET)
    weights = torch.tensor([-((epoch - 2) ** 2) / (2 * 0.8**2) for epoch in (1, 2, 3)]).softmax(0)
    for name, value in read_artifact(result.artifact).tensors.items():
        expected = sum(weight * state[name] for weight, state in zip(weights, states, strict=True))
        torch.testing.assert_close(value, expected)


def test_a_cached_epoch_reads_no_image(digits_clip: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where the image tower carries nothing that learns, it runs once over the data, not once an epoch."""
    from vpt.models.classifier import PromptedModel

    seen = []
    usual = PromptedModel.features

    def count(self, images, constants=None):
        seen.append(len(images))
        return usual(self, images, constants)

    monkeypatch.setattr(PromptedModel, "features", count)
    result = train(settings(digits_clip, tmp_path, "prompt=coop", "train.epochs=3", "data.shots=10"), QUIET)
    text = (result.folder / "log.txt").read_text()
    assert "computing features only once" in text
    # Train and val once for training, two images for the budget twice, one for the size of the features, then val and
    # test for the result.
    assert sum(seen) <= 100 + 360 + 4 + 360 + 359


def test_other_names_at_the_command_line(digits_clip: list[str], tmp_path: Path):
    result = train(settings(digits_clip, tmp_path, *LEARNERS["coop"], "data.half=base"), QUIET)
    from vpt.utils.cache_dir import cache_dir

    images = sorted((cache_dir() / "digits-1" / "test" / "seven").iterdir())[:5]
    predictor = load(result.artifact)
    assert set(predictor.predict(images)[0].labels) <= set(NAMES[:5])
    other = predictor.with_classes(["seven", "eight", "nine"])
    found = other.predict(images)
    assert set(found[0].labels) == {"seven", "eight", "nine"}
    assert sum(result.top == "seven" for result in found) >= 3
    with pytest.raises(UserError, match="two or more different"):
        predictor.with_classes(["seven"])


@pytest.mark.parametrize("learner", ["cocoop", "maple", "visual prompts"])
def test_other_names_leave_the_predictor_as_it_was(digits_clip: list[str], tmp_path: Path, learner: str):
    predictor = load(untrained(digits_clip, tmp_path, *LEARNERS[learner]), device="cpu")
    photo = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    before = predictor.predict(photo)
    other = predictor.with_classes(["bird", "fish"])
    assert predictor.predict(photo) == before
    assert set(other.predict(photo)[0].labels) == {"bird", "fish"}
    assert other.model.backbone is predictor.model.backbone
    encoder = predictor.model.head.__dict__["encoder"]
    assert all(part.__dict__.get("encoder", encoder) is encoder for part in other.model.modules())


@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_a_context_that_depends_on_the_image_is_exported(digits_clip: list[str], tmp_path: Path, form: Format):
    """In batches larger and smaller than a chunk; `export` compares them."""
    done = export(untrained(digits_clip, tmp_path, *LEARNERS["cocoop"], "prompt.chunk=2"), format=form)
    assert done.difference < 1e-4


LATER = ["taskres", "clip-lora", "prograd", "tcp", "mmrl", "mmrl++"]


def test_tasks_of_later_learners_share_the_batches_of_a_bank(digits_clip: list[str], tmp_path: Path):
    """Two of each kind, which differ."""
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    bank, expected = Bank(device="cpu"), {}
    for learner in LATER:
        for seed in (1, 2):
            torch.manual_seed(seed)
            name = f"{learner}-{seed}".replace("+", "p")
            file = untrained(digits_clip, tmp_path / name, *LEARNERS[learner], f"train.seed={seed}")
            bank.add(name, file)
            own = load(file, device="cpu").predict(photo, top=10)[0]
            expected[name] = dict(zip(own.labels, own.scores, strict=True))
    assert len({tuple(sorted(scores.items())) for scores in expected.values()}) == 2 * len(LATER)
    for found, own in zip(
        bank.predict([photo] * len(expected), list(expected), top=10), expected.values(), strict=True
    ):
        assert dict(zip(found.labels, found.scores, strict=True)) == pytest.approx(own, abs=1e-4)


@pytest.mark.parametrize("learner", LATER)
def test_later_learners_through_the_protocols(
    digits_clip: list[str], tmp_path: Path, shapes: Path, learner: str, monkeypatch: pytest.MonkeyPatch
):
    from vpt.experiments.protocols import base_to_new, few_shot, transfer

    config = settings(digits_clip, tmp_path, *LEARNERS[learner], "train.epochs=1")
    assert few_shot(config, shots=[1], seeds=[1], console=QUIET)["rows"][0]["mean"] > 0.3
    if learner == "taskres":  # before anything is trained
        monkeypatch.setattr(Trainer, "train_step", lambda *_: pytest.fail("trained"))
        with pytest.raises(UserError, match="prompt=taskres supports the classes of its training only"):
            base_to_new(config, shots=1, seeds=[1], console=QUIET)
        monkeypatch.undo()
        with pytest.raises(UserError, match="own classes only"):
            transfer(config, [str(shapes)], shots=1, seeds=[1], console=QUIET)
        return
    assert base_to_new(config, shots=1, seeds=[1], console=QUIET)["new"]["mean"] > 0.2
    assert transfer(config, [str(shapes)], shots=1, seeds=[1], console=QUIET)["rows"][0]["data"] == str(shapes)


def test_tda_through_the_protocols(digits_clip: list[str], tmp_path: Path, whole_data: None):
    """Without training, in an order that does not depend on the batches."""
    from vpt.experiments.protocols import base_to_new

    words = ["head=tda", "data.val_shots=2", "data.shots=1", "head.shots=8", "head.alpha=4"]
    config = settings(digits_clip, tmp_path, *words)
    first = evaluate_untrained(config, console=QUIET)
    again = evaluate_untrained(config.with_({"train.batch_size": 7}), console=QUIET)
    assert again["loss"] == pytest.approx(first["loss"], abs=1e-5)
    assert evaluate_untrained(config.with_({"train.seed": 3}), console=QUIET)["loss"] != first["loss"]
    zero_shot = settings(digits_clip, tmp_path, "prompt=none")
    assert first["accuracy"] > evaluate_untrained(zero_shot, console=QUIET)["accuracy"]
    base = evaluate_untrained(zero_shot.with_({"data.half": "base"}), console=QUIET)["accuracy"]
    assert base_to_new(config, shots=1, seeds=[0], console=QUIET)["base"]["mean"] > base - 0.05
    with pytest.raises(UserError, match="nothing to train"):
        train(config.with_(name="trained"), QUIET)
    file = untrained(digits_clip, tmp_path, "head=tda")
    with pytest.raises(UserError, match="depend on the images before"):
        export(file, format="torch")
    with pytest.raises(UserError, match="depend on the images before"):
        Bank(device="cpu").add("one", file)


class TestTestTimeTuning:
    words = ("prompt=tpt", "prompt.tokens=5", WORDS, "prompt.views=8", "prompt.share=0.25", "data.shots=1")

    def test_it_runs_without_training_and_is_a_function_of_the_image(self, digits_clip: list[str], tmp_path: Path):
        config = settings(digits_clip, tmp_path, *self.words, "data.half=base")
        subset = ["data.val_shots=4"]
        config = load_config(base=config.model_dump(mode="json"), overrides=subset)
        first = evaluate_untrained(config, "val", QUIET)
        again = evaluate_untrained(config, "val", QUIET)
        assert first["loss"] == again["loss"]
        assert first["accuracy"] > 0.4

    def test_it_equals_the_definition(self, digits_clip: list[str], tmp_path: Path):
        """Keep the surest views, one step of AdamW on the entropy of their mean prediction, score the plain view."""
        from vpt.models.classifier import backbone_for, build_model

        config = settings(digits_clip, tmp_path, *self.words)
        model = build_model(config, backbone_for(config), list(NAMES)).eval()
        before = model.head.contexts.tokens.clone()
        views = torch.randint(0, 256, (1, 8, 3, 32, 32), dtype=torch.uint8)
        with torch.inference_mode():
            mine = model.ready()(views)[0]
        assert torch.equal(model.head.contexts.tokens, before)

        features = F.normalize(model.backbone.net(model.normalise(views[0])), dim=1)
        tokens = before.clone().requires_grad_(True)
        model.head.contexts.tokens = torch.nn.Parameter(tokens)
        scale = model.backbone.text.scale

        def scores() -> torch.Tensor:
            return scale * features @ F.normalize(model.head.contexts()[0], dim=1).T

        probability = scores().softmax(1)
        uncertainty = -(probability * probability.log()).sum(1)
        surest = uncertainty.topk(2, largest=False).indices
        mean = probability[surest].mean(0)
        loss = -(mean * mean.log()).sum()
        gradient = torch.autograd.grad(loss, model.head.contexts.tokens)[0]
        # One step of Adam from nothing: the sign of the gradient, and decay.
        with torch.no_grad():
            step = 0.005 * gradient / (gradient.abs() + 1e-8)
            model.head.contexts.tokens.copy_(before * (1 - 0.005 * 0.01) - step)
            torch.testing.assert_close(mine, scores()[0], atol=1e-4, rtol=1e-4)


def test_tip_adapter_equals_its_formula(digits_clip: list[str], tmp_path: Path):
    result = train(settings(digits_clip, tmp_path, "prompt=none", "head=tip", "data.shots=5"), QUIET)
    tensors = read_artifact(result.artifact).tensors
    predictor = load(result.artifact)
    model = predictor.model
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    feature = F.normalize(model.features(images), dim=1)
    alpha, beta = tensors["head.mix"].tolist()
    keys, labels = tensors["head.keys"], tensors["head.labels"]
    assert keys.shape == (50, 64)
    expected = model.backbone.text.scale * feature @ model.head.fixed.T
    for key, label in zip(keys, labels, strict=True):
        expected[:, label] += alpha * torch.exp(-beta * (1 - feature @ key))
    torch.testing.assert_close(model(images), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(50))


def test_labels_are_mapped_by_the_likeness_of_names(digits_clip: list[str], tmp_path: Path):
    """AutoVP's semantic mapping: no template, the classes of ImageNet by their WordNet names."""
    from timm.data import ImageNetInfo

    name, weights = (word.split("=", 1)[1] for word in digits_clip)
    words = [
        "backbone=resnet10t",
        "backbone.pretrained=false",
        "backbone.image_size=32",
        "prompt=pixel",
        "prompt.size=4",
    ]
    words += ["head=labelmap", "head.method=semantic", "head.sources=2", f"head.text={name.removeprefix('open_clip:')}"]
    words += [f"head.text_pretrained={weights}", "data=digits", "data.shots=1", "train.epochs=1", f"out={tmp_path}"]
    result = train(load_config(overrides=[*words, "name=run"]), QUIET)
    index = read_artifact(result.artifact).tensors["head.index"]
    assert index.shape == (10, 2)
    assert len(set(index.flatten().tolist())) == 20
    encoder = load_backbone(load_config(overrides=digits_clip).backbone, text=True).text
    names = ImageNetInfo().label_descriptions()
    mine = F.normalize(encoder.features(["zero"]), dim=1)
    theirs = F.normalize(encoder.features(names), dim=1)
    assert int(index[0, 0]) == int((theirs @ mine[0]).argmax())


def test_text_features_are_kept_on_disk(digits_clip: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from vpt.backbones.text_encoder import TextEncoder

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = settings(digits_clip, tmp_path, "prompt=none")
    first = evaluate_untrained(config, console=QUIET)
    kept = list((tmp_path / "cache" / "vpt" / "text").iterdir())
    assert len(kept) == 1
    with monkeypatch.context() as patched:
        patched.setattr(TextEncoder, "features", lambda *_: pytest.fail("computed again"))
        assert evaluate_untrained(config, console=QUIET) == first
    kept[0].write_bytes(kept[0].read_bytes()[:-10])
    assert evaluate_untrained(config, console=QUIET) == first  # a damaged file is made again


def test_settings_that_need_training_are_refused_by_evaluation(digits_clip: list[str], tmp_path: Path):
    with pytest.raises(UserError, match=r"need training \(prompt\)"):
        evaluate_untrained(settings(digits_clip, tmp_path, "prompt=coop"), console=QUIET)
    with pytest.raises(UserError, match="nothing to train: no prompt, a frozen backbone"):
        train(settings(digits_clip, tmp_path, "prompt=none"), QUIET)


class TestProtocols:
    words = ("prompt=coop", "prompt.tokens=5", WORDS, "train.epochs=2")

    def test_base_to_new(self, digits_clip: list[str], tmp_path: Path):
        from vpt.experiments.protocols import base_to_new

        found = base_to_new(settings(digits_clip, tmp_path, *self.words), shots=4, seeds=[1, 2], console=QUIET)
        first, second = found["base"]["mean"], found["new"]["mean"]
        assert found["harmonic_mean"] == pytest.approx(2 * first * second / (first + second))
        assert len(found["base"]["seeds"]) == 2
        assert min(first, second) > 0.3
        assert json.loads((tmp_path / "run" / "base-to-new.json").read_text()) == found

    def test_few_shot_goes_on_where_it_was_stopped(self, digits_clip: list[str], tmp_path: Path, monkeypatch):
        from vpt.experiments.protocols import few_shot

        config = settings(digits_clip, tmp_path, *self.words)
        first = few_shot(config, shots=[1, 2], seeds=[1], console=QUIET)
        monkeypatch.setattr(Trainer, "train_step", lambda *_: pytest.fail("trained again"))
        assert few_shot(config, shots=[1, 2], seeds=[1], console=QUIET) == first
        assert [row["shots"] for row in first["rows"]] == [1, 2]
        other = settings(digits_clip, tmp_path, *self.words, "prompt.tokens=4", "train.epochs=1")
        with pytest.raises(UserError, match=r"other settings \(prompt\.tokens, train\.epochs\)"):
            few_shot(other, shots=[1, 2], seeds=[1], console=QUIET)

    def test_transfer_to_a_folder_of_ones_own(self, digits_clip: list[str], tmp_path: Path, shapes: Path):
        from vpt.experiments.protocols import as_table, transfer

        config = settings(digits_clip, tmp_path, *self.words)
        found = transfer(config, [str(shapes)], shots=2, seeds=[1], console=QUIET)
        assert found["rows"][0]["data"] == str(shapes)
        assert 0 <= found["average"] <= 1
        assert str(shapes) in as_table(found)

    def test_without_training(self, digits_clip: list[str], tmp_path: Path):
        from vpt.experiments.protocols import base_to_new

        found = base_to_new(settings(digits_clip, tmp_path, "prompt=none"), seeds=[1], console=QUIET)
        assert found["base"]["mean"] > 0.5
        other = settings(digits_clip, tmp_path, "prompt=none", "head.templates=single")
        with pytest.raises(UserError, match=r"other settings \(head\.templates\)"):
            base_to_new(other, seeds=[1], console=QUIET)
