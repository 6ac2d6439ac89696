"""Precision: chosen by what the device computes natively, recorded in the artifact, and used again for inference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import vpt
from tests.helpers.runs import QUIET, settings
from vpt.inference.evaluate import evaluate
from vpt.inference.load_model import load_model
from vpt.models.artifact import read_artifact
from vpt.training.run import train
from vpt.utils import device as devices
from vpt.utils.device import cpu_has_bf16, inference_precision, native_precision, pick_precision, trained_precision

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("small_net")


@pytest.fixture
def bf16_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpt.utils.device.cpu_has_bf16", lambda: True)


@pytest.mark.parametrize(("amx", "avx"), [(False, False), (True, False), (False, True)])
def test_auto_is_bf16_only_on_cpus_with_instructions_for_it(monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    found = cpu_has_bf16()
    assert found == (amx or avx)
    monkeypatch.setattr(devices, "cpu_has_bf16", cpu_has_bf16)
    assert pick_precision("auto", CPU) == ("bf16" if found else "fp32")
    assert pick_precision("fp32", CPU) == "fp32"
    assert native_precision(torch.device("mps")) == "fp32"


def test_an_older_torch_without_these_checks_gives_fp32(monkeypatch: pytest.MonkeyPatch):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert cpu_has_bf16() is False


@pytest.mark.parametrize(
    ("recorded", "native", "used", "measured"),
    [
        ("fp32", True, "fp32", "fp32"),
        ("bf16", True, "bf16", "bf16"),
        ("bf16", False, "fp32", "bf16"),
        ("fp16", True, "fp32", "fp32"),
        ("auto", True, "fp32", "fp32"),  # artifacts of version 0.1
    ],
)
def test_inference_follows_training_where_that_is_native(
    monkeypatch: pytest.MonkeyPatch, recorded: str, native: bool, used: str, measured: str
):
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: native)
    assert inference_precision(recorded, CPU) == used
    assert trained_precision(recorded, CPU) == measured


def test_a_run_in_bf16_says_so_and_is_used_in_bf16(
    bf16_cpu: None, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In the artifact, not in the settings of the run: it may be resumed on another machine."""
    config = settings(shapes, tmp_path, "train.epochs=2", "train.device=cpu")
    assert config.train.precision == "auto"
    result = train(config, QUIET)
    assert result.metrics["precision"] == "bf16"
    assert read_artifact(result.folder).config.train.precision == "bf16"
    assert "precision: auto" in (result.folder / "config.yaml").read_text()
    image = next((shapes / "test" / "square").iterdir())
    half, full = vpt.load(result.folder, device="cpu"), vpt.load(result.folder, device="cpu", precision="fp32")
    assert (half.precision, full.precision) == ("bf16", "fp32")
    for named in ({}, {"precision": "auto"}, {"precision": "fp32"}):  # one rule for both
        model, loaded = load_model(result.folder, "cpu", **named)[0], vpt.load(result.folder, "cpu", **named).model
        types = [{one.dtype for one in each.backbone.state_dict().values()} for each in (model, loaded)]
        assert types[0] == types[1]
        assert (torch.bfloat16 in types[0]) == (named != {"precision": "fp32"})
    one, other = (each.predict(image, top=9)[0].scores for each in (half, full))
    assert (one != other).any()
    assert one == pytest.approx(other, abs=0.05)
    measured = evaluate(result.folder, overrides=["train.device=cpu"], console=QUIET)
    assert measured["loss"] == pytest.approx(result.metrics["test"]["loss"], abs=1e-6)
    exact = evaluate(result.folder, overrides=["train.device=cpu", "train.precision=fp32"], console=QUIET)
    assert exact["loss"] != measured["loss"]
    assert exact["loss"] == pytest.approx(measured["loss"], abs=0.05)
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: False)
    assert vpt.load(result.folder, device="cpu").precision == "fp32"
