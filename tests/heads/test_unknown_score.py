"""The score of unknown images against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from vpt.heads import unknown
from vpt.heads.unknown import UnknownScore


def drawn(count: int, width: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Features that vary much in few directions, far from zero, and logits of three classes."""
    torch.manual_seed(count)
    spread = torch.linspace(0.1, 3, width) ** 2
    rows = 20 + torch.randn(count, width) * spread
    return rows, (rows[:, -3:] - 20) / 2


def slow(
    training: tuple[torch.Tensor, torch.Tensor], rows: torch.Tensor, logits: torch.Tensor, rank: int
) -> list[float]:
    """The probability of the virtual class, image by image, by a basis of what is outside the leading directions."""
    known = training[0].double().numpy()
    center = known.mean(0)
    outside = np.linalg.eigh(np.cov(known.T))[1][:, :-rank]
    norms = np.linalg.norm((known - center) @ outside, axis=1)
    alpha = training[1].numpy().max(1).mean() / norms.mean()
    found = []
    for row, logit in zip(rows.double().numpy(), logits.double().numpy()):
        virtual = alpha * np.linalg.norm((row - center) @ outside)
        found.append(softmax([*logit, virtual])[-1])
    return found


@pytest.mark.parametrize("rank", [2, 6])
def test_scores_are_the_probability_of_the_virtual_class(rank: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(unknown, "RANK", rank)
    training = drawn(90)
    rows, logits = (torch.cat([one[:5], two]) for one, two in zip(training, drawn(5)))
    score = UnknownScore(12)
    score.fit(*training)
    np.testing.assert_allclose(score(rows, logits), slow(training, rows, logits, rank), rtol=1e-3)
    assert sum(value.numel() for value in score.buffers()) == 12 * (1 + rank) + 2


def test_before_it_is_fitted_nothing_is_unknown():
    assert UnknownScore(12)(*drawn(9)).tolist() == [0] * 9


def test_the_threshold_accepts_a_fraction_of_validation():
    score = UnknownScore(12)
    score.fit(*drawn(90))
    val = drawn(40)
    before = score.raw(*val)
    score.accept(*val, 0.9)
    assert int((score(*val) > 0.5).sum()) == 3  # at least 90 %: of 40 the 37th is the threshold
    torch.testing.assert_close(torch.logit(score(*val)), before - score.threshold, rtol=1e-3, atol=1e-3)


def test_in_half_precision_scores_are_computed_in_float32():
    training = drawn(90)
    score = UnknownScore(12)
    score.fit(*training)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = score(*training)
    assert found.dtype == torch.float32
    assert torch.equal(found, score(*training))


@pytest.mark.parametrize("count", [1, 2, 6])
def test_few_images(count: int):
    """Fewer images than directions: they must not explain themselves without a rest, which would scale it without
    bounds."""
    rows, logits = drawn(count, width=40)
    score = UnknownScore(40)
    score.fit(rows, logits)
    found = score(torch.cat([rows, rows[:1] + 500]), torch.cat([logits, logits[:1]]))
    assert torch.isfinite(found).all()
    assert found[-1] > found[:-1].max() or found[-1] == 1


def test_what_does_not_vary():
    score = UnknownScore(40)
    score.fit(torch.ones(5, 40), torch.zeros(5, 2))
    score.accept(torch.ones(3, 40), torch.zeros(3, 2), 0.95)
    assert torch.isfinite(score(torch.randn(3, 40), torch.randn(3, 2))).all()
