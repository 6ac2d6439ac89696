"""Metrics of numbers, against scikit-learn and scipy; the ridge regression, against scikit-learn."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from vpt.heads.regression import fit_ridge, ridge
from vpt.metrics.number_predictions import NumberAnswer, read_numbers, write_numbers
from vpt.metrics.regression import regression_metrics, weighted_regression
from vpt.utils.errors import NotFinite, UserError


@pytest.mark.parametrize(("middle", "scale"), [(0.0, 1.0), (1e6, 3.0), (-2e-5, 1e-7), (1e20, 1e19)])
def test_metrics_are_those_of_scikit_learn(middle: float, scale: float):
    chance = np.random.default_rng(0)
    wanted = middle + scale * chance.normal(size=80)
    predicted = wanted + 0.3 * scale * chance.normal(size=80)
    found = regression_metrics(predicted, wanted)
    assert found["r2"] == pytest.approx(r2_score(wanted, predicted), rel=1e-6)
    assert found["mae"] == pytest.approx(mean_absolute_error(wanted, predicted), rel=1e-6)
    assert found["rmse"] == pytest.approx(mean_squared_error(wanted, predicted) ** 0.5, rel=1e-6)
    assert found["pearson"] == pytest.approx(pearsonr(wanted, predicted).statistic, rel=1e-6)
    assert found["images"] == 80
    for name, (low, high) in found["intervals"].items():
        assert low < found[name] < high
    assert regression_metrics(predicted, wanted) == found


def test_weights_count_images_several_times():
    chance = np.random.default_rng(1)
    wanted, predicted = chance.normal(size=6), chance.normal(size=6)
    times = np.array([0, 3, 1, 1, 0, 2])
    several = regression_metrics(np.repeat(predicted, times), np.repeat(wanted, times), draws=0)
    for name, value in weighted_regression(predicted, wanted, times[None].astype(float)).items():
        assert value[0] == pytest.approx(several[name])


def test_groups_are_resampled_whole():
    """Two patients with a thousand equal images each: there are only three resamples of them."""
    wanted, predicted = np.repeat([0.0, 1.0], 1000), np.repeat([0.1, 0.7], 1000)
    groups = ["a"] * 1000 + ["b"] * 1000
    low, high = regression_metrics(predicted, wanted, groups)["intervals"]["mae"]
    assert (low, high) == pytest.approx((0.1, 0.3))
    narrow = regression_metrics(predicted, wanted)["intervals"]["mae"]
    assert narrow[1] - narrow[0] < 0.02


@pytest.mark.parametrize("predicted", [[2.0, 2.0], [2.0, 5.0]])
def test_equal_numbers_have_no_variance(predicted: list[float]):
    found = regression_metrics(np.array(predicted), np.array([2.0, 2.0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found["r2"] == r2_score([2.0, 2.0], predicted)
    assert "pearson" not in found


def test_numbers_that_are_not_finite_are_an_error():
    with pytest.raises(NotFinite, match="1 of 2 predicted numbers"):
        regression_metrics(np.array([1.0, np.inf]), np.array([1.0, 2.0]))


def test_ridge_is_that_of_scikit_learn():
    chance = np.random.default_rng(0)
    rows = chance.normal(3, [1.0, 10.0, 0.1, 1.0], (50, 4))
    rows[:, 3] = 7  # constant
    targets = rows @ [1.0, 0.2, -4.0, 0.0] + chance.normal(size=50)
    for penalty in (1e-3, 0.5):
        weight, bias = ridge(rows, targets, np.array([penalty]))[0]
        spread = np.where(rows.std(0) > 0, rows.std(0), 1)
        twin = Ridge(alpha=penalty * len(rows)).fit((rows - rows.mean(0)) / spread, targets)
        wanted = twin.predict((rows - rows.mean(0)) / spread)
        np.testing.assert_allclose(rows @ weight + bias, wanted, rtol=1e-8)


def test_the_penalty_is_chosen_on_other_images():
    chance = np.random.default_rng(0)
    rows, noise = chance.normal(size=(60, 40)), chance.normal(size=60)
    targets = rows[:, 0] + 2 * noise
    val = chance.normal(size=(500, 40))
    held = (val, val[:, 0])
    *_, chosen = fit_ridge(rows, targets, held)
    assert chosen > 1e-2  # without a penalty forty features would fit the noise
    *_, folded = fit_ridge(rows, targets)
    assert folded > 1e-2
    weight, bias, _ = fit_ridge(rows[:3], targets[:3])
    assert np.isfinite([*weight, bias]).all()


def test_predictions_are_read_as_they_were_written(tmp_path: Path):
    answers = [NumberAnswer("=a.png", -0.1, 1e-30, "1"), NumberAnswer("b, c.png", 12345.678, 1e20, "2")]
    file = write_numbers(tmp_path / "a.csv", answers, folds=[0, 1])
    assert read_numbers(file) == answers
    assert file.read_text().splitlines()[0] == "image,true,predicted,group,fold"
    for text in ("image,true\na,1\n", "image,true,predicted\na,1,nan\n", "image,true,predicted\na,x,1\n"):
        file.write_text(text)
        with pytest.raises(UserError, match="cannot be read"):
            read_numbers(file)
