"""Other formats and reduced precision: files give the results of prediction, in accuracy too, or are refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import vpt
from tests.helpers.coco_folder import coco
from tests.helpers.mask_runs import mask_settings, squares
from tests.helpers.paths import ROOT
from tests.helpers.photo import photo
from tests.helpers.runs import NET, QUIET, settings
from vpt.cli.main import main
from vpt.data.transforms.classification import EvalTransform
from vpt.interop.export import benchmark as benchmarks
from vpt.interop.export import formats
from vpt.interop.export.export import export, task_export
from vpt.interop.export.formats import opened
from vpt.interop.export.onnx import model_of
from vpt.interop.export.preprocess import Square
from vpt.interop.export.target import Target
from vpt.interop.export.tensorrt import without_uint8
from vpt.interop.export.written import Accuracy
from vpt.utils.errors import UserError

openvino = pytest.importorskip("openvino")
pytestmark = pytest.mark.usefixtures("small_net")


@pytest.fixture(scope="module")
def run(shapes: Path, small_net: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of shapes."""
    out = tmp_path_factory.mktemp("formats")
    return vpt.train(settings(shapes, out, "train.epochs=4", "head.init=probe"), QUIET).folder


@pytest.fixture(scope="module")
def others(small_net: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of the other tasks, hardly trained."""
    out = tmp_path_factory.mktemp("others")
    few = ["train.epochs=1", "train.batch_size=4", "prompt.tokens=2", "data.workers=0"]
    coco(out / "coco", 12)
    boxes = [*NET, *few, f"out={out}", "task=detection", "name=boxes", f"data={out / 'coco'}", "head.size=32"]
    masks = mask_settings(squares(out / "masks"), out, *NET, *few, "head.channels=16")
    return {
        "detection": vpt.train(vpt.load_config(overrides=[*boxes, "head.score=0.01"]), QUIET).folder,
        "segmentation": vpt.train(masks, QUIET).folder,
    }


def scores_of(predictor, pictures: list[np.ndarray]) -> np.ndarray:
    found = predictor.predict(pictures, top=100)
    return np.array([[dict(zip(one.labels, one.scores))[name] for name in predictor.classes] for one in found])


def test_openvino_gives_the_scores_of_prediction(run: Path, tmp_path: Path):
    """As somebody runs it without this package, on photos of any size."""
    done = export(run, tmp_path / "made", format="openvino", check=photo(70, 50))
    assert sorted(file.name for file in done.path.iterdir()) == ["model.bin", "model.xml", "vpt.json"]
    assert done.bytes == sum(file.stat().st_size for file in done.path.iterdir())
    assert done.difference < 1e-4
    assert done.photos.same == done.photos.photos == 7
    assert str(ROOT).encode() not in (done.path / "model.xml").read_bytes()
    model = openvino.Core().read_model(done.path / "model.xml")
    predictor = vpt.load(run, device="cpu")
    assert json.loads(model.get_rt_info(["model_info", "classes"]).astype(str)) == list(predictor.classes)
    assert json.loads((done.path / "vpt.json").read_text())["classes"] == list(predictor.classes)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for height, width in ((70, 50), (200, 300)):
        mine = compiled([photo(height, width)[None]])["scores"]
        np.testing.assert_allclose(mine, scores_of(predictor, [photo(height, width)]), atol=0.005)
    export(run, done.path, format="openvino")  # an older export is replaced


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_openvino_of_other_tasks(others: dict[str, Path], task: str):
    """`export` compares their boxes and masks with prediction."""
    done = export(others[task], format="openvino")
    assert done.path.name == "artifact_openvino"
    assert done.equal or done.boxes


def test_a_folder_of_the_user_is_not_replaced(run: Path, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="exists and is not an exported model; choose another --output"):
        export(run, tmp_path / "mine", format="openvino")
    assert [file.name for file in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


def test_fp16_is_half_as_large_and_as_accurate(run: Path, capsys: pytest.CaptureFixture[str]):
    whole = export(run)
    assert main(["export", str(run), "--precision", "fp16"]) == 0
    out = capsys.readouterr().out.splitlines()
    half = Path(out[0])
    assert half.name == "artifact-fp16.onnx"
    assert "on 12 test images" in out[1]
    assert "with vpt predict" in out[1]
    assert half.stat().st_size < 0.9 * whole.bytes
    model = onnx.load(half)
    assert str(ROOT).encode() not in half.read_bytes()  # no stack traces
    assert {entry.key: entry.value for entry in model.metadata_props}["precision"] == "fp16"
    weights = [each for each in model.graph.initializer if each.name.endswith("mlp.fc1.bias")]
    assert {each.data_type for each in weights} == {onnx.TensorProto.FLOAT16}
    session = onnxruntime.InferenceSession(half, providers=["CPUExecutionProvider"])
    (mine,) = session.run(None, {"images": photo(900, 1400)[None]})  # no size overflows in half precision
    np.testing.assert_allclose(mine, scores_of(vpt.load(run, device="cpu"), [photo(900, 1400)]), atol=0.02)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_int8_is_calibrated_on_training_images(run: Path, tmp_path: Path, format):
    done = export(run, tmp_path / "made", format=format, precision="int8", max_drop=0.1)
    assert done.accuracy.images == 12
    assert done.accuracy.reference - done.accuracy.value <= 0.1
    assert done.accuracy.agreement > 0.8
    mine = opened(done.path, Target(format, "int8"))(torch.from_numpy(photo(70, 50).copy())[None])[0]
    np.testing.assert_allclose(mine.numpy(), scores_of(vpt.load(run, device="cpu"), [photo(70, 50)]), atol=0.1)
    if format == "onnx":
        nodes = onnx.load(done.path).graph.node
        made = {each.output[0]: each for each in nodes}
        layers = [each for each in nodes if each.op_type in ("MatMul", "Gemm", "Conv")]
        reduced = [each for each in layers if each.input[1] in made and made[each.input[1]].op_type.startswith("Deq")]
        assert len(reduced) >= 8  # of two blocks, and the head


def test_a_less_accurate_file_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    usual = formats.opened

    def reversed_scores(path: Path, target: Target):
        file = usual(path, target)
        return lambda images: tuple(part.flip(-1) for part in file(images))

    monkeypatch.setattr("vpt.interop.export.written.opened", reversed_scores)
    file = run / "artifact-fp16.onnx"
    file.write_text("what was there before")
    with pytest.raises(UserError, match=r"accuracy on 12 test images would fall from .* allow it with --max-drop"):
        export(run, precision="fp16")
    assert file.read_text() == "what was there before"
    assert main(["export", str(run), "--precision", "fp16", "--max-drop", "1"]) == 0


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_tensorrt_is_given_a_model_without_uint8(run: Path, others: dict[str, Path], task: str):
    """TensorRT cannot run here; the model that it would build gives the same results in onnxruntime."""
    made = task_export(vpt.load(others.get(task, run), device="cpu", precision="fp32"), (40, 56))
    model = without_uint8(model_of(made.program, Target("onnx")))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    mine = session.run(None, {"images": photo(40, 56)[None].astype(np.float32)})
    assert {part.dtype for part in mine} == {np.dtype("float32")}
    for part, wanted in zip(mine, made.reference(photo(40, 56)), strict=True):
        assert np.mean(np.abs(part - wanted.numpy()) > 0.01) < 0.02


def test_a_file_that_does_not_run_here_says_so(run: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setitem(formats.FORMATS, "torch", replace(formats.FORMATS["torch"], runs_here=lambda: False))
    assert main(["export", str(run), "--format", "torch", "--size", "32x32"]) == 0
    assert "not compared with vpt predict: this machine does not run torch" in capsys.readouterr().out
    assert (run / "artifact.pt2-not-compared").exists()
    assert not (run / "artifact.pt2").exists()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_coreml_is_converted(run: Path, tmp_path: Path, precision):
    coremltools = pytest.importorskip("coremltools")
    done = export(run, tmp_path / "made", format="coreml", precision=precision, size=(32, 32))
    assert done.compared == (sys.platform == "darwin")
    model = coremltools.models.MLModel(str(done.path / "model.mlpackage"), skip_model_load=True)
    description = model.get_spec().description
    assert [list(each.type.multiArrayType.shape) for each in description.input] == [[1, 32, 32, 3]]
    assert [each.name for each in description.output] == ["scores"]


def test_what_a_format_needs_is_named(run: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    usual = formats.find_spec
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name in ("tensorrt", "openvino") else usual(name))
    for name, install in {
        "tensorrt": "pip install tensorrt",
        "openvino": r"pip install 'visual-prompt-tuning\[openvino\]'",
    }.items():
        with pytest.raises(UserError, match=f"--format {name} needs packages that are not installed: {install}"):
            export(run, format=name)
    with pytest.raises(UserError, match="torch is written in fp32, not in int8"):
        export(run, format="torch", precision="int8")
    assert main(["export", str(run), "--data", "photos"]) == 2
    assert "--data has no effect with --precision fp32" in capsys.readouterr().err


def test_images_are_needed_for_reduced_precision(run: Path, tmp_path: Path, shapes: Path):
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((run / "artifact.safetensors").read_bytes())
    with pytest.raises(UserError, match="is not in a run folder that names its data; specify the data"):
        export(alone, precision="fp16")
    assert export(alone, precision="fp16", data=shapes / "val").accuracy.images == 12


def test_the_benchmark_compares_all_formats(run: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    usual = formats.find_spec
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "tensorrt" else usual(name))
    formats_of_it = ["onnx", "tensorrt"]
    words = ["benchmark", str(run), "--only", *formats_of_it, "--rounds", "3", "--threads", "1", "--size", "40x50"]
    assert main([*words, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["metric"], found["images"], found["split"], found["threads"]) == ("accuracy", 12, "test", 1)
    rows = {row["format"]: row for row in found["rows"]}
    assert list(rows) == ["PyTorch", "onnx", "onnx fp16", "onnx int8", "tensorrt", "tensorrt fp16"]
    assert rows["tensorrt"]["note"] == "not installed: pip install tensorrt"
    for name in ("PyTorch", "onnx", "onnx fp16", "onnx int8"):
        assert 0 < rows[name]["median_ms"] <= rows[name]["p95_ms"]
        assert rows[name]["bytes"] > 10_000
        near = 0.2 if "int8" in name else 0.05  # of twelve images
        assert rows[name]["accuracy"] == pytest.approx(rows["PyTorch"]["accuracy"], abs=near)
    assert rows["onnx"]["agreement"] == 1
    assert rows["onnx int8"]["bytes"] < rows["onnx fp16"]["bytes"] < rows["onnx"]["bytes"]
    shown = benchmarks.table(benchmarks.Benchmark("miou", "pixels", 2, "val", 1, (benchmarks.Row("a", note="why"),)))
    assert "a              why" in shown
    assert "miou on 2 val images; agreement: pixels as with vpt predict" in shown


def test_the_benchmark_of_boxes_and_masks(others: dict[str, Path]):
    for task, unit in {"detection": "boxes", "segmentation": "pixels"}.items():
        found = benchmarks.benchmark(others[task], formats=["torch"], rounds=1)
        assert found.unit == unit
        reference, row = found.rows
        assert row.accuracy == pytest.approx(reference.accuracy, abs=0.02)
        assert row.agreement > 0.95


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_openvino_makes_the_squares_of_prediction_from_photos_of_any_size(tmp_path: Path, resize: str):
    """A side of 61 pixels, resized to 64: 64 x 61 by 61 is 63 for a runtime that multiplies by a rounded inverse."""
    square = Square(EvalTransform(size=64, resize=resize)).eval()
    sides = {2: torch.export.Dim("h", min=2, max=4000), 3: torch.export.Dim("w", min=2, max=4000)}
    example = torch.zeros(1, 3, 70, 80, dtype=torch.uint8)
    program = torch.export.export(square, (example,), dynamic_shapes=(sides,))
    torch.onnx.export(program, f=tmp_path / "square.onnx", dynamo=True, verbose=False)
    compiled = openvino.Core().compile_model(tmp_path / "square.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    # In the last ones half a pixel is left where the long side becomes 64, which floats would round either way.
    for short, long in [(n, n + 5) for n in (*range(41, 64, 2), *range(64, 190, 11))] + [(915, 1920), (315, 896)]:
        pixels = np.random.default_rng(short).integers(0, 256, (1, 3, short, long), dtype=np.uint8)
        (mine,) = compiled([pixels]).values()
        apart = np.abs(mine.astype(int) - square(torch.from_numpy(pixels)).numpy().astype(int))
        assert apart.max() <= 1, short
        assert (apart > 0).mean() < 0.01
    theirs = EvalTransform(size=64, resize=resize)(pixels[0].transpose(1, 2, 0)).numpy()
    assert np.abs(mine[0].astype(int) - theirs.astype(int)).max() <= 1


@pytest.fixture(scope="module")
def nano(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier on the default backbone, with 64 pixels and two classes more."""
    words = ["backbone=vpt_nano", f"data={shapes}", "train.epochs=1", "prompt.tokens=4", "data.workers=0"]
    return vpt.train(vpt.load_config(overrides=[*words, f"out={tmp_path_factory.mktemp('nano')}"]), QUIET).folder


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_half_precision_reads_photos_of_a_camera(nano: Path, tmp_path: Path, format):
    """64 x 640 is more than the largest half; and OpenVINO computes in bf16 if nobody asks for more."""
    path = export(nano, tmp_path / "made", format=format, precision="fp16").path
    run = opened(path, Target(format, "fp16"))
    pictures = [photo(480, 640, 1), photo(480, 640, 2), photo(61, 61, 3), photo(127, 97, 4), photo(1080, 1920, 5)]
    expected = scores_of(vpt.load(nano, "cpu", precision="fp32"), pictures)
    found = np.concatenate([run(torch.from_numpy(each.copy())[None])[0].numpy() for each in pictures])
    assert np.abs(found - expected).max() < 0.02
    assert np.abs(found[0] - found[1]).max() > 0.02


def test_int8_of_one_size_is_that_of_onnx(nano: Path, tmp_path: Path):
    pictures = [photo(64, 64, seed) for seed in range(9)]
    expected = scores_of(vpt.load(nano, "cpu", precision="fp32"), pictures)
    for format in ("onnx", "openvino"):
        path = export(nano, tmp_path / format, format=format, precision="int8", size=(64, 64), max_drop=1).path
        run = opened(path, Target(format, "int8"))
        found = np.concatenate([run(torch.from_numpy(each.copy())[None])[0].numpy() for each in pictures])
        assert np.abs(found - expected).max() < 0.15, format


def test_half_precision_that_answers_otherwise_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch):
    """Its metric alone could be as high by chance."""

    def other(*_: object, **__: object) -> dict[str, Accuracy]:
        return {"file": Accuracy("accuracy", 0.5, 0.5, 0.5, 12, "test", "images")}

    monkeypatch.setattr("vpt.interop.export.export.accuracies", other)
    with pytest.raises(UserError, match=r"on 12 test images only 50\.0% of the answers \(images\)"):
        export(run, precision="fp16")
