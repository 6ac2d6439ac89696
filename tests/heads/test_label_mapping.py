"""Label mappings: the backbone's own classifier serves another task."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from tests.helpers.runs import QUIET
from tests.helpers.vit_families import CLASSES
from vpt.config import LabelMapHead, RunConfig, load_config
from vpt.heads.label_mapping import LabelMap, confusion_counts, frequency_map, random_map, semantic_map
from vpt.heads.registry import build_head
from vpt.inference.evaluate import evaluate
from vpt.models.artifact import read_artifact
from vpt.models.classifier import backbone_for, build_model
from vpt.training.run import resume, train
from vpt.training.trainer import Trainer
from vpt.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("small_net")
CLASSIFIER = ["backbone=test_classifier_32", "backbone.pretrained=false", "prompt=pixel", "prompt.size=4"]


def settings(shapes: Path, out: Path, *words: str) -> RunConfig:
    common = [f"data={shapes}", f"out={out}", "name=run", *CLASSIFIER, "train.epochs=3", "train.batch_size=8"]
    return load_config(overrides=[*common, "head=labelmap", *words])


def greedy(counts: torch.Tensor, each: int) -> list[list[int]]:
    """Algorithm 1 of ILM-VP, cell by cell."""
    found: dict[int, list[int]] = {target: [] for target in range(counts.shape[1])}
    cells = sorted(itertools.product(*map(range, counts.shape)), key=lambda cell: (-int(counts[cell]), cell))
    used = set()
    for source, target in cells:
        if source not in used and len(found[target]) < each:
            found[target].append(source)
            used.add(source)
    return list(found.values())


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_frequency_mapping_is_greedy_and_one_to_one(each: int, seed: int):
    counts = torch.randint(0, 6, (20, 5), generator=torch.Generator().manual_seed(seed))
    found = frequency_map(counts, each)
    assert found.tolist() == greedy(counts, each)
    assert len(set(found.flatten().tolist())) == 5 * each


def test_without_any_evidence_the_lowest_classes_serve():
    assert frequency_map(torch.zeros(4, 3), 1).tolist() == [[0], [1], [2]]


def test_semantic_mapping_goes_round_by_round():
    likeness = torch.tensor([[0.9, 0.8, 0.1, 0.0], [0.95, 0.2, 0.3, 0.25]])
    # The first class takes source 0 although the second likes it more; then each takes its best of what is left.
    assert semantic_map(likeness, 2).tolist() == [[0, 1], [2, 3]]


def test_counts_and_means():
    predicted, labels = torch.tensor([1, 1, 4, 0]), torch.tensor([0, 0, 1, 1])
    counts = confusion_counts(predicted, labels, 5, 2)
    assert counts[1, 0] == 2
    assert counts[4, 1] == counts[0, 1] == 1
    assert counts.sum() == 4
    head = LabelMap(5, 2, each=2)
    head.index.copy_(torch.tensor([[0, 1], [2, 4]]))
    logits = torch.randn(3, 5)
    expected = torch.stack([(logits[:, 0] + logits[:, 1]) / 2, (logits[:, 2] + logits[:, 4]) / 2], dim=1)
    torch.testing.assert_close(head(logits), expected)


def test_random_mapping_is_a_function_of_the_seed():
    assert torch.equal(random_map(10, 3, 2, seed=1), random_map(10, 3, 2, seed=1))
    assert not torch.equal(random_map(10, 3, 2, seed=1), random_map(10, 3, 2, seed=2))


def test_the_models_scores_are_the_librarys_reindexed():
    config = load_config(overrides=[*CLASSIFIER, "head=labelmap"])
    model = build_model(config, backbone_for(config), CLASSES[:3]).eval()
    model.head.index.copy_(torch.tensor([[6], [2], [0]]))
    batch = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = model.backbone.net(model.normalise(batch))[:, [6, 2, 0]]
    torch.testing.assert_close(model(batch), expected, atol=1e-5, rtol=1e-5)


def test_a_convolutional_classifier():
    words = [
        "backbone=resnet10t",
        "backbone.pretrained=false",
        "backbone.image_size=64",
        "prompt=pixel",
        "head=labelmap",
    ]
    config = load_config(overrides=words)
    model = build_model(config, backbone_for(config), CLASSES[:3]).eval()
    model.head.index.copy_(torch.tensor([[999], [2], [0]]))
    batch = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(model(batch), model.backbone.net(model.normalise(batch))[:, [999, 2, 0]])
    assert {role for _, role, _ in model.trainable()} == {"pixels"}


@pytest.mark.parametrize("method", ["random", "frequency", "iterative", "full"])
def test_runs_resume_and_round_trip(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str):
    words = [f"head.method={method}", "head.sources=2"]
    whole = train(settings(shapes, tmp_path / "whole", *words), QUIET)
    step = Trainer.train_step

    def fatal(trainer, *args):
        if trainer.progress.step == 7:
            raise KeyboardInterrupt
        return step(trainer, *args)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "train_step", fatal)
        train(settings(shapes, tmp_path / "cut", *words, "train.checkpoint_minutes=0"), QUIET)
    again = resume(tmp_path / "cut" / "run", console=QUIET)
    assert again.artifact.read_bytes() == whole.artifact.read_bytes()
    assert evaluate(whole.artifact, "test", console=QUIET)["accuracy"] == whole.metrics["test"]["accuracy"]
    tensors = read_artifact(whole.artifact).tensors
    if method == "full":
        assert tensors["head.weight"].shape == (3, 7)
    else:
        assert tensors["head.index"].shape == (3, 2)
        assert len(set(tensors["head.index"].flatten().tolist())) == 6


def test_iterative_mapping_follows_the_prompt(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is drawn anew at the start of every epoch, under the prompt of that moment."""
    import vpt.training.tasks.fit_heads

    seen = []
    usual = vpt.training.tasks.fit_heads.map_by_frequency

    def spy(model, setting):
        usual(model, setting)
        seen.append(model.prompt.pixels.detach().clone())

    monkeypatch.setattr(vpt.training.tasks.fit_heads, "map_by_frequency", spy)
    train(settings(shapes, tmp_path, "train.optimizer.lr.pixels=1.0"), QUIET)
    assert len(seen) == 3
    assert not torch.equal(seen[0], seen[1])


def test_a_mapping_has_no_mean_over_epochs(shapes: Path, tmp_path: Path):
    """Where weights are averaged, the mapping is the last epoch's: a mean of class numbers is another class."""
    words = ["head.method=random", "train.average={mean: 2, std: 1}"]
    result = train(settings(shapes, tmp_path, *words), QUIET)
    assert torch.equal(read_artifact(result.artifact).tensors["head.index"], random_map(7, 3, 1, seed=0))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["head.sources=3"], r"needs 9 source classes for 3 classes .* has 7"),
        (["backbone=vpt_nano"], "vpt_nano has no classifier"),
        (["backbone=vit_small_patch14_dinov2"], "vit_small_patch14_dinov2 has no classifier"),
        (["prompt=none", "head.method=random"], "nothing to train: no prompt, a frozen backbone"),
    ],
)
def test_what_cannot_be_is_refused(shapes: Path, tmp_path: Path, words: list[str], sentence: str):
    with pytest.raises(UserError, match=sentence):
        train(settings(shapes, tmp_path, *words), QUIET)


def test_heads_are_built():
    assert build_head(LabelMapHead(method="full"), 7, 3).weight.shape == (3, 7)
