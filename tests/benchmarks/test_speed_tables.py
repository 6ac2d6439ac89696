"""The table of speeds: what is measured is not measured again, and ratios never cross series."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


@pytest.fixture
def speed() -> ModuleType:
    from benchmarks.speed import steps

    return steps


def run(speed: ModuleType, monkeypatch: pytest.MonkeyPatch, out: Path, *words: str) -> dict[str, Any]:
    usual = ["--models", "test_vit_patch8_32", "--tokens", "3", "--rounds", "2", "--no-startup", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["speed.py", *usual, "--out", str(out), *words])
    speed.main()
    return json.loads(out.read_text())


def test_a_stopped_table_goes_on(
    speed: ModuleType, small_net: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    out = tmp_path / "speed.json"
    some = ["--variants", "plain backbone", "vpt", "concatenation"]
    first = run(speed, monkeypatch, out, *some, "--batch", "1", "--note", "busy")
    second = run(speed, monkeypatch, out, *some, "--batch", "1", "2")
    assert second["cases"][0] == first["cases"][0]  # read, not measured
    assert "measured already" in capsys.readouterr().out
    assert second["cases"][0]["series"][0]["note"] == "busy"
    assert [case["batch"] for case in second["cases"]] == [1, 2]
    third = run(speed, monkeypatch, out, "--variants", "shallow", "vpt", "--batch", "1")
    assert third["cases"][0]["series"][0] == first["cases"][0]["series"][0]
    assert set(third["cases"][0]["series"][1]["training"]) == {"shallow", "vpt"}
    assert set(third["cases"][0]["series"][1]["inference"]) == {"plain backbone", "shallow", "vpt"}
    assert all(one["seconds"] > 0 for one in third["cases"][0]["series"][1]["inference"].values())


def test_another_machine_is_not_mixed_in(
    speed: ModuleType, small_net: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "speed.json"
    out.write_text(json.dumps({"machine": {"device": "another", "threads": 9}, "cases": []}))
    with pytest.raises(SystemExit, match="another with 9 threads"):
        run(speed, monkeypatch, out, "--batch", "1")


def test_the_variants_are_what_they_are_called(speed: ModuleType, small_net: None):
    """Deep prompts score alike by concatenation and here; only full tuning moves the backbone."""
    from benchmarks.speed.variants import VARIANTS, Case

    torch.manual_seed(0)
    case = Case("test_vit_patch8_32", 3, 2, "fp32", "eager", torch.device("cpu"))
    scores = {name: step() for name, step in case.inference(["plain backbone", "concatenation", "vpt"]).items()}
    torch.testing.assert_close(scores["concatenation"], scores["vpt"], rtol=1e-5, atol=1e-5)
    assert (scores["plain backbone"] - scores["vpt"]).abs().max() > 1e-3
    before = [parameter.clone() for parameter in case.backbone.parameters()]
    for step in case.training([name for name in VARIANTS if name != "lora"]).values():
        assert step() > 0
    assert all(torch.equal(one, other) for one, other in zip(before, case.backbone.parameters(), strict=True))


def test_what_fails_says_so_in_its_place(speed: ModuleType):
    def fails() -> torch.Tensor:
        raise torch.OutOfMemoryError("too large")

    from benchmarks.speed.variants import Step

    steps = {"good": Step(*(2 * [lambda: torch.ones(2, 2) @ torch.ones(2, 2)])), "bad": Step(fails, fails)}
    found = speed.alternate(steps, speed.parsed(["--rounds", "2"]), torch.device("cpu"), True)
    assert found["bad"] == {"error": "OutOfMemoryError: too large"}
    assert found["good"]["seconds"] > 0
    assert found["good"]["operations"] == 2 * 2 * 2 * 2


def test_operations_are_those_of_the_matrix_products(speed: ModuleType):
    from benchmarks.machine import operations

    one, other = torch.ones(3, 5), torch.ones(5, 7)
    assert operations(lambda: one @ other) == 2 * 3 * 5 * 7


@pytest.mark.filterwarnings("ignore:.*all_gather_into_tensor:FutureWarning")
def test_forms_of_the_same_step_have_the_same_loss(small_net: None):
    from torch import distributed

    from benchmarks.speed.variants import Case

    case = Case("test_vit_patch8_32", 3, 2, "fp32", "eager", torch.device("cpu"))
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        steps = case.training(["vpt", "concatenation", "released form", "recompute", "sharded"])
        losses = {name: [step().item(), step().item()] for name, step in steps.items()}
    finally:
        distributed.destroy_process_group()
    assert case.training(["sharded"])["sharded"]().isfinite()  # without a group it is not sharded
    for name, values in losses.items():
        assert values == pytest.approx(losses["vpt"], rel=1e-5), name
    partly, cached = (step() for step in case.training(["last quarter", "last quarter, cached"]).values())
    torch.testing.assert_close(partly, cached, rtol=1e-6, atol=1e-6)
    assert abs(partly.item() - losses["vpt"][0]) > 1e-4


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("batch", [1, 3])
def test_attention_in_two_parts_is_attention(batch: int):
    from benchmarks.speed.candidates import concatenated, merged

    query, key, value = (torch.randn(batch, 2, 9, 16) for _ in range(3))
    prefix = [torch.randn(1, 2, 4, 16) for _ in range(2)]
    found = merged(query, key, value, *prefix)
    torch.testing.assert_close(found, concatenated(query, key, value, *prefix), rtol=1e-5, atol=1e-5)


def test_a_float8_layer_is_the_layer_to_two_digits():
    from benchmarks.speed.candidates import Float8Linear, float8_weight, relative

    x, weight = torch.randn(32, 64, requires_grad=True), torch.randn(48, 64)
    found, wanted = Float8Linear.apply(x.bfloat16(), *float8_weight(weight)), x @ weight.t()
    pull = torch.randn(32, 48)
    (mine,), (theirs,) = torch.autograd.grad(found, x, pull.bfloat16()), torch.autograd.grad(wanted, x, pull)
    assert 1e-3 < relative(found, wanted) < 0.06
    assert 1e-3 < relative(mine, theirs) < 0.06


def test_precisions_take_turns_in_one_series(
    speed: ModuleType, small_net: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from benchmarks.speed import tables

    words = ["--preset", "forms", "--batch", "1", "--rounds", "1"]
    out = tmp_path / "speed-cpu-forms.json"
    (case,) = run(speed, monkeypatch, out, *words)["cases"]
    (series,) = case["series"]
    variants = speed.PRESETS["forms"]["variants"]
    assert {*series["training"], *series["inference"]} == {*variants}
    assert not any("error" in one for part in ("training", "inference") for one in series[part].values())
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(tables, "read", lambda name: json.loads((tmp_path / f"{name}.json").read_text()))
    training, inference = (tables.forms(part).splitlines() for part in ("training", "inference"))
    bounds = [2e3 * series["training"][f"plain forward{suffix}"]["seconds"] for suffix in ("", ", bf16")]
    assert training[2].split(" | ")[2:4] == [f"{bound:.0f}" for bound in bounds]
    assert (training[2].count("x)"), inference[2].count("x)")) == (6, 5)


def test_a_variant_of_another_precision_is_computed_in_it(small_net: None):
    from benchmarks.speed.variants import Case

    torch.manual_seed(0)
    (full,), (half,) = (
        Case("test_vit_patch8_32", 3, 2, precision, "eager", torch.device("cpu")).inference(["vpt"]).values()
        for precision in ("fp32", "bf16")
    )
    assert (full().dtype, half().dtype) == (torch.float32, torch.bfloat16)
