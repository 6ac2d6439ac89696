"""The probe that linear heads start from, and that counts as epoch 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.helpers.runs import NET, QUIET
from tests.helpers.runs import settings as small_run
from vpt.config import RunConfig, load_config
from vpt.heads.logistic import STRENGTHS, Targets, cross_validated, fit, validated
from vpt.inference.evaluate import evaluate
from vpt.models.artifact import read_artifact
from vpt.models.classifier import backbone_for, build_model
from vpt.training.context import prepare
from vpt.training.run import resume, train
from vpt.training.signals import Stopped
from vpt.training.tasks import task_of
from vpt.training.trainer import Trainer
from vpt.utils import plotting


def settings(shapes: Path, out: Path, *words: str) -> RunConfig:
    """A small run whose head starts from a probe, in the default recipe but for its length."""
    return small_run(shapes, out, "head.init=probe", *words)


def blobs(seed: int = 0, images: int = 60, classes: int = 3, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clouds whose features differ in size; the last feature is the same everywhere."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    centres = np.random.default_rng(9).normal(0, 1, (classes, width))
    features = (centres[labels] + rng.normal(0, 1.5, (images, width))) * 10.0 ** np.arange(-3, width - 3) + 5
    features[:, -1] = 7.0
    return features, labels


@pytest.mark.parametrize("strength", [1.0, 0.01])
def test_fit_is_scikit_learns_logistic_regression(strength: float) -> None:
    features, labels = blobs()
    varying = features[:, :-1]
    x = (varying - varying.mean(0)) / varying.std(0)
    theirs = LogisticRegression(C=1 / (strength * len(x)), tol=1e-10, max_iter=10_000).fit(x, labels)
    ours = fit(features, Targets.of(labels, 3), strength)
    other = blobs(1)[0]
    wanted = theirs.decision_function((other[:, :-1] - varying.mean(0)) / varying.std(0))
    np.testing.assert_allclose(ours.scores(other), wanted, atol=2e-3)


def test_fit_of_several_labels_is_a_regression_for_each() -> None:
    features, labels = blobs()
    several = np.stack([labels == 0, labels != 1], 1).astype(float)
    both = fit(features, Targets.of(several, 2), 0.1)
    x = (features[:, :-1] - features[:, :-1].mean(0)) / features[:, :-1].std(0)
    for place in range(2):
        theirs = LogisticRegression(C=1 / (0.1 * len(x)), tol=1e-10, max_iter=10_000).fit(x, several[:, place])
        np.testing.assert_allclose(both.scores(features)[:, place], theirs.decision_function(x), atol=2e-3)


def test_fit_of_weighted_classes_is_scikit_learns() -> None:
    features, labels = blobs()
    weights = [3.0, 1.0, 0.5]
    x = (features[:, :-1] - features[:, :-1].mean(0)) / features[:, :-1].std(0)
    total = sum(weights[label] for label in labels)
    theirs = LogisticRegression(C=1 / (0.1 * total), tol=1e-10, max_iter=10_000, class_weight=dict(enumerate(weights)))
    ours = fit(features, Targets.of(labels, 3, weights), 0.1)
    np.testing.assert_allclose(ours.scores(features), theirs.fit(x, labels).decision_function(x), atol=2e-3)


def test_gradient_of_the_loss_is_its_error() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 3))
    for targets in (Targets.of([0, 2, 1, 1], 3, [1.0, 2.0, 3.0]), Targets.of(np.eye(4, 3), 3)):
        step = np.zeros_like(scores)
        step[1, 2] = 1e-6
        slope = (targets.loss(scores + step) - targets.loss(scores - step)) / 2e-6
        assert targets.error(scores)[1, 2] == pytest.approx(slope, abs=1e-7)


def test_strength_is_chosen_on_validation() -> None:
    (features, labels), (val, val_labels) = blobs(), blobs(1)
    chosen = validated(features, Targets.of(labels, 3), val, Targets.of(val_labels, 3))
    hits = [Targets.of(val_labels, 3).hits(fit(features, Targets.of(labels, 3), s).scores(val)) for s in STRENGTHS]
    assert Targets.of(val_labels, 3).hits(chosen.scores(val)) >= max(hits[:4])


def test_cross_validation_prefers_a_strong_penalty_for_noise() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(40, 30))
    labels = np.arange(40) % 2
    assert cross_validated(noise, Targets.of(labels, 2)).strength >= 0.1
    clear = np.concatenate([noise, 5.0 * labels[:, None]], 1)
    assert cross_validated(clear, Targets.of(labels, 2)).strength < 0.1


def test_one_image_a_class_can_be_fitted() -> None:
    fitted = cross_validated(np.eye(3), Targets.of([0, 1, 2], 3))
    assert fitted.scores(np.eye(3)).argmax(1).tolist() == [0, 1, 2]


@pytest.mark.usefixtures("small_net")
def test_default_recipe_goes_with_linear_heads_and_adamw_alone() -> None:
    config = load_config()
    rates = config.train.optimizer.lr
    assert (config.head.init, config.train.batch_size, rates.prompt, rates.head) == ("probe", 16, 0.005, 0.001)
    plain = ("small", 32)
    for word in ("head=mlp", "prompt=pixel", "head.init=small"):
        other = load_config(overrides=[word])
        assert (other.head.init, other.train.batch_size, other.train.optimizer.lr.prompt) == (*plain, 0.0025)
    assert load_config(overrides=["train.optimizer=sgd"]).head.init == "small"
    given = load_config(overrides=["train.optimizer.lr.head=0.5", "train.batch_size=8"])
    assert (given.train.optimizer.lr.head, given.train.batch_size, given.train.optimizer.lr.prompt) == (0.5, 8, 0.005)
    assert load_config(overrides=["train.optimizer.lr=0.1"]).train.optimizer.lr.head == 0.1
    assert load_config(overrides=["train.accumulate=3", "train.batch_size=9"]).train.batch_size == 9
    # Loading what was written down changes nothing.
    assert load_config(base=other.model_dump(mode="json")) == other
    assert load_config(base=config.model_dump(mode="json")) == config


def unprompted(shapes: Path, out: Path, words: list[str]) -> Any:
    """Scores of scikit-learn's regression on the backbone's features of validation, by hand."""
    config = load_config(overrides=[*words, f"data={shapes}", f"out={out}", *NET, "prompt=none"])
    setting = prepare(config, task_of(config).load, QUIET)
    model = build_model(config, backbone_for(config), setting.data.classes).eval()
    found = {}
    for split in ("train", "val"):
        batches = list(setting.loader(model, setting.data.split(split)).epoch(0))
        with torch.inference_mode():
            features = torch.cat([model.features(batch.images) for batch in batches]).double().numpy()
        found[split] = features, torch.cat([batch.labels for batch in batches]).numpy()
    return found


@pytest.mark.usefixtures("small_net")
def test_head_is_fitted_to_features_without_prompts(shapes: Path, tmp_path: Path) -> None:
    config = settings(shapes, tmp_path, "train.precision=fp32")
    setting = prepare(config, task_of(config).load, QUIET)
    trainer = Trainer(setting)
    found = unprompted(shapes, tmp_path, [])
    (features, labels), (val, val_labels) = found["train"], found["val"]
    mean, std = features.mean(0), features.std(0)
    best = max(
        np.mean(
            LogisticRegression(C=1 / (s * len(features)), max_iter=1000)
            .fit((features - mean) / std, labels)
            .predict((val - mean) / std)
            == val_labels
        )
        for s in STRENGTHS
    )
    progress = trainer.state.progress
    assert progress.best_epoch == 0
    assert progress.probe == progress.best_score == pytest.approx(best, abs=0.1)
    # Training starts from the head with a strong penalty.
    head = trainer.state.model.head[-1]
    strong = LogisticRegression(C=1 / len(features), tol=1e-8, max_iter=1000).fit((features - mean) / std, labels)
    scores = val @ head.weight.detach().double().numpy().T + head.bias.detach().double().numpy()
    np.testing.assert_allclose(scores, strong.decision_function((val - mean) / std), atol=5e-3)


@pytest.mark.usefixtures("small_net")
@pytest.mark.parametrize("words", [[], ["prompt=none"], ["prompt=shallow"], ["tuning=lora", "prompt=none"]])
def test_run_is_never_below_its_probe_on_validation(shapes: Path, tmp_path: Path, words: list[str]) -> None:
    """Rates that ruin the model: the probe is what is kept."""
    ruin = ["train.optimizer.lr=30", "train.clip_norm=null", "train.epochs=2"]
    result = train(settings(shapes, tmp_path, *words, *ruin), QUIET)
    metrics = result.metrics
    assert metrics["val"]["accuracy"] >= metrics["probe"]
    assert metrics["best_epoch"] == 0
    assert metrics["val"]["accuracy"] == metrics["probe"]
    artifact = read_artifact(result.artifact)
    assert artifact.config.prompt.kind == "none"
    assert not any(name.startswith("prompt.") for name in artifact.tensors)
    assert evaluate(result.folder, "val", console=QUIET)["accuracy"] == metrics["probe"]


@pytest.mark.usefixtures("small_net")
def test_epoch_that_is_better_than_the_probe_is_kept(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Trainer.rank_untrained

    def low(self: Trainer, baseline: Any) -> None:
        usual(self, baseline)
        self.progress.best_score = self.progress.probe = -1.0

    monkeypatch.setattr(Trainer, "rank_untrained", low)
    result = train(settings(shapes, tmp_path), QUIET)
    assert result.metrics["best_epoch"] > 0
    assert read_artifact(result.artifact).config.prompt.kind == "deep"


@pytest.mark.usefixtures("small_net")
@pytest.mark.parametrize("ruined", [True, False])
def test_resumed_run_keeps_epoch_0(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ruined: bool) -> None:
    words = ["train.precision=fp32", *(["train.optimizer.lr=30", "train.clip_norm=null"] if ruined else [])]
    whole = train(settings(shapes, tmp_path / "whole", *words), QUIET)
    usual = Trainer.train_step

    def stopping(self: Trainer, batch: Any) -> None:
        if self.progress.step == 7:
            self._stop(15)
        usual(self, batch)

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(Trainer, "train_step", stopping)
        train(settings(shapes, tmp_path / "cut", *words), QUIET)
    again = resume(tmp_path / "cut" / "run", console=QUIET)
    for key in ("best_epoch", "probe", "val", "test"):
        assert again.metrics[key] == whole.metrics[key]
    one, other = read_artifact(whole.artifact).tensors, read_artifact(again.artifact).tensors
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.usefixtures("small_net")
def test_without_validation_the_head_is_cross_validated_and_the_last_epoch_kept(shapes: Path, tmp_path: Path) -> None:
    config = settings(shapes, tmp_path, "data.join_val=true", "train.epochs=4")
    setting = prepare(config, task_of(config).load, QUIET)
    assert not setting.data.val
    state = Trainer(setting).state
    assert (state.kept, state.progress.probe, state.progress.best_epoch) == ({}, None, None)
    result = train(config, QUIET)
    assert result.metrics["best_epoch"] is None
    assert result.metrics["probe"] is None
    assert read_artifact(result.artifact).config.prompt.kind == "deep"


@pytest.mark.usefixtures("small_net")
def test_pruned_prompt_is_compared_with_the_probe_too(shapes: Path, tmp_path: Path) -> None:
    ruin = ["train.optimizer.lr=30", "train.clip_norm=null", "train.epochs=1"]
    result = train(settings(shapes, tmp_path, "prompt=e2vpt", "prompt.prune_tokens=0.5", *ruin), QUIET)
    assert result.metrics["best_epoch"] == 0
    assert result.metrics["val"]["accuracy"] == result.metrics["probe"]


@pytest.mark.usefixtures("small_net")
@pytest.mark.parametrize("pool", ["prompts", "all"])
def test_head_that_reads_prompts_is_fitted_to_them(shapes: Path, tmp_path: Path, pool: str) -> None:
    result = train(settings(shapes, tmp_path, f"head.pool={pool}", "train.optimizer.lr=30", "train.epochs=1"), QUIET)
    assert result.metrics["val"]["accuracy"] >= result.metrics["probe"]
    assert read_artifact(result.artifact).config.prompt.kind == "deep"


@pytest.mark.parametrize(("probe", "title"), [(0.9, "best 0.900 on validation, epoch 0"), (0.1, "epoch 2")])
def test_curves_show_the_probe(drawn_plots: None, monkeypatch: pytest.MonkeyPatch, probe: float, title: str) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(plotting, "save", lambda figure, path: figures.append(figure) or path)
    rows = [{"epoch": at, "train_loss": 1.0, "val_accuracy": score} for at, score in ((1, 0.5), (2, 0.6))]
    plotting.curves_png(rows, Path("curves.png"), "accuracy", probe)
    right = figures[0].axes[1]
    assert title in right.get_title()
    (level,) = (line for line in right.lines if set(line.get_ydata()) == {probe})
    assert str(level.get_label()).startswith("linear probe")
