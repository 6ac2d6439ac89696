"""The ordinal head and CORAL's loss, against slow twins and scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import cohen_kappa_score, mean_absolute_error

from tests.helpers.runs import NET, QUIET
from vpt.config import CoralLoss, OrdinalHead, load_config
from vpt.data.datasets.registry import load_data
from vpt.heads.ordinal import build_ordinal
from vpt.inference.evaluate import evaluate
from vpt.inference.predictor import load
from vpt.metrics.predictions import read_answers
from vpt.metrics.regression import rank_metrics
from vpt.training.losses import LabelInfo, classification_loss
from vpt.training.run import train
from vpt.utils.errors import UserError


def scrambled(classes: int) -> torch.nn.Module:
    torch.manual_seed(classes)
    head = build_ordinal(OrdinalHead(), 6, classes)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter))
    return head


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_probabilities_are_differences_of_ordered_sigmoids(classes: int):
    head, features = scrambled(classes).double(), torch.randn(9, 6, dtype=torch.float64)
    rank = (features @ head.direction.weight.T)[:, 0]
    biases = [head.first[0]]
    for step in head.steps:
        biases.append(biases[-1] - torch.log1p(step.exp()))
    above = [torch.ones(9), *(torch.sigmoid(rank + bias) for bias in biases), torch.zeros(9)]
    twin = torch.stack([above[k] - above[k + 1] for k in range(classes)], 1)
    found = head(features)
    torch.testing.assert_close(found.exp().double(), twin.double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.softmax(1), found.exp(), atol=1e-5, rtol=0)


def test_a_higher_rank_is_never_a_lower_class():
    head = scrambled(6)
    along = torch.linspace(-60, 60, 400)[:, None] * head.direction.weight / head.direction.weight.square().sum()
    scores = head(along)
    assert torch.isfinite(scores).all()
    assert (scores.argmax(1).diff() >= 0).all()
    assert scores.argmax(1)[[0, -1]].tolist() == [0, 5]
    cumulative = scores.exp().flip(1).cumsum(1)  # P(class >= k) for falling k
    assert (cumulative.diff(dim=0) >= -1e-6).all()


def test_coral_is_a_sum_of_binary_cross_entropies():
    torch.manual_seed(0)
    scores, labels = torch.randn(8, 5), torch.randint(0, 5, (8,))
    total = 0.0
    for row, label in zip(scores.softmax(1), labels.tolist(), strict=True):
        for k in range(4):
            above = float(row[k + 1 :].sum())
            total -= np.log(above if label > k else 1 - above)
    loss = classification_loss(CoralLoss(), LabelInfo(tuple("abcde")))
    assert float(loss(scores, labels)) == pytest.approx(total / 8, rel=1e-5)
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    weighted = classification_loss(CoralLoss(), LabelInfo(tuple("abcde"), weights=weights))
    assert float(weighted(scores[:2], torch.tensor([0, 3]))) == pytest.approx(
        float(loss(scores[:1], torch.tensor([0])))
    )
    with pytest.raises(UserError, match="one class an image"):
        classification_loss(CoralLoss(), LabelInfo(("a", "b"), multilabel=True))


def test_rank_metrics_are_those_of_scikit_learn():
    chance = np.random.default_rng(0)
    wanted = chance.integers(0, 5, 200)
    predicted = np.clip(wanted + chance.integers(-1, 2, 200), 0, 4)
    found, limits = rank_metrics(predicted, wanted, 5)
    assert found["quadratic_kappa"] == pytest.approx(cohen_kappa_score(wanted, predicted, weights="quadratic"))
    assert found["rank_error"] == pytest.approx(mean_absolute_error(wanted, predicted))
    for name, value in found.items():
        assert limits[name][0] < value < limits[name][1]
    assert "quadratic_kappa" not in rank_metrics(np.zeros(4, int), np.zeros(4, int), 3)[0]


@pytest.fixture(scope="module")
def grades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grades 2, 9 and 10, the brighter the higher, with ten images each."""
    root = tmp_path_factory.mktemp("grades")
    chance = np.random.default_rng(0)
    for shade, grade in ((40, "2"), (110, "9"), (180, "10")):
        (root / grade).mkdir()
        for number in range(10):
            Image.fromarray(chance.integers(shade, shade + 60, (32, 32, 3), dtype=np.uint8)).save(
                root / grade / f"{number}.png"
            )
    return root


def test_names_that_are_numbers_are_in_their_order(grades: Path):
    def classes(*words: str) -> tuple[str, ...]:
        return load_data(load_config(overrides=[f"data={grades}", *words]).data).classes

    assert classes() == ("10", "2", "9")  # as in earlier versions
    assert classes("head=ordinal") == ("2", "9", "10")
    assert classes("data.classes=9,10,2") == ("9", "10", "2")
    for given, sentence in (
        ("9,10", "data.classes lacks 2"),
        ("2,9,10,11", "has no training images of 11"),
        ("2,9,10,9", "names a class twice"),
    ):
        with pytest.raises(UserError, match=sentence):
            classes(f"data.classes={given}")


def test_an_order_that_nobody_tells_is_asked_for(shapes: Path):
    with pytest.raises(UserError, match=r"have no order .* give them in their order, as in data\.classes=low"):
        load_data(load_config(overrides=[f"data={shapes}", "head=ordinal"]).data)
    own = load_config(overrides=["data=digit-distances", "head=ordinal"])
    assert load_data(own.data).classes == ("touching", "near", "far", "very far")
    assert own.train.loss.kind == "coral"
    with pytest.raises(UserError, match="needs one class an image"):
        load_config(overrides=["head=ordinal", "data.multilabel=true"])


def test_a_run_measures_and_predicts_ranks(grades: Path, tmp_path: Path, small_net):
    words = [f"data={grades}", "head=ordinal", f"out={tmp_path}", "name=run", *NET, "prompt.tokens=2"]
    config = load_config(overrides=[*words, "epochs=6", "data.test_fraction=0.3", "data.augment=none", "lr.head=0.05"])
    run = train(config, QUIET)
    answers = read_answers(run.folder / "predictions-test.csv")
    order = ["2", "9", "10"]
    true, near = ([order.index(getattr(one, key)) for one in answers] for key in ("true", "predicted"))
    found = run.metrics["test"]
    if len(set(near)) > 1:
        assert found["quadratic_kappa"] == pytest.approx(cohen_kappa_score(true, near, weights="quadratic"))
    assert found["rank_error"] == pytest.approx(mean_absolute_error(true, near))
    assert found["rank_error"] < 0.5
    assert run.metrics["probe"] > 0.6
    assert "rank_error" in found["intervals"]
    assert load(run.folder).classes == ("2", "9", "10")
    assert evaluate(run.folder, console=QUIET)["rank_error"] == found["rank_error"]
