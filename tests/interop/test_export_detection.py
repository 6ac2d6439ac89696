"""Exported detectors find our boxes: the traceable twin equals torchvision's code, and files equal the predictor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torchvision.ops import nms

import vpt
from tests.helpers.bank_tasks import make
from tests.helpers.clip_models import register_tiny
from tests.helpers.photo import photo
from tests.helpers.runs import NET
from vpt.cli.main import main
from vpt.config import load_config
from vpt.interop.export.detector import FoldedDetector
from vpt.interop.export.export import export
from vpt.interop.export.nms import Candidates, Rule, best
from vpt.interop.export.parity import difference
from vpt.interop.export.torchvision_detection import anchors_of
from vpt.models.artifact import save_artifact
from vpt.training.tasks import task_of
from vpt.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("small_net")
SIZE = (90, 120)  # not a multiple of any patch, and resized
# Of each head, a score that many of its boxes reach, and how much its weights are scrambled, so that scores are spread
# without being saturated.
HEADS = {"fcos": (0.01, 0.1), "retinanet": (0.01, 0.04), "faster_rcnn": (0.05, 0.1)}

NATIVE = {
    "ssdlite320_mobilenet_v3_large": 0.1,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 1.0,
    "retinanet_resnet50_fpn": 0.02,
}


def artifact_of(folder: Path, head: str, score: float | None = None) -> Path:
    """A detector with scrambled weights."""
    usual, much = HEADS[head]
    words = [*NET, "task=detection", f"head={head}", "head.size=64", "prompt.tokens=2"]
    config = load_config(overrides=[*words, f"head.score={usual if score is None else score}"])
    model = task_of(config).build(config, ["a", "b", "c"])
    torch.manual_seed(1)
    with torch.no_grad():
        for _, _, parameter in model.trainable():
            parameter.add_(much * torch.randn_like(parameter))
    return save_artifact(folder / f"{head}.safetensors", model, config, ["a", "b", "c"])


def clip_artifact(folder: Path, score: float = 0.05) -> Path:
    """The open-vocabulary head on a small CLIP."""
    import open_clip

    backbone = register_tiny(folder, "tiny-export", layers=2)
    torch.manual_seed(0)
    weights = {name: value.contiguous() for name, value in open_clip.create_model("tiny-export").state_dict().items()}
    save_file(weights, folder / "clip.safetensors")
    words = [f"backbone={backbone}", f"backbone.weights={folder / 'clip.safetensors'}", "head=owl", "head.size=48"]
    return make(folder, "boxes", 1, *words, "prompt.tokens=2", f"head.score={score}")


def native_artifact(folder: Path, name: str, *words: str) -> Path:
    """A detector of torchvision, whose scores are spread so that boxes have an order, behind a pixel prompt."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    net = get_model(name, weights=None, weights_backbone=None, num_classes=91)
    with torch.no_grad():
        # Without statistics an untrained network gives the same features everywhere.
        for _ in range(20):
            features = net.train().backbone(torch.rand(4, 3, 96, 96))
            _ = net.head(list(features.values())) if hasattr(net, "head") else None
    weights = net.state_dict()
    for key, value in weights.items():
        if key.endswith("weight") and ("classification_head" in key or "cls_score" in key):
            weights[key] = value + NATIVE[name] * torch.randn_like(value)
    save_file(weights, folder / "detector.safetensors")
    config = load_config(
        overrides=[
            "task=detection",
            f"backbone=torchvision:{name}",
            f"backbone.weights={folder / 'detector.safetensors'}",
            *("head=native", "head.size=96", "prompt=pixel", "prompt.size=8", *words),
        ]
    )
    names = get_detector_names(name)
    model = task_of(config).build(config, names)
    with torch.no_grad():
        model.prompt.pixels.normal_(0, 0.1)
    return save_artifact(folder / f"{name}.safetensors", model, config, names)


def get_detector_names(name: str) -> list[str]:
    """Most of its classes, in another order than its own."""
    from torchvision.models import get_model_weights

    names = dict.fromkeys(get_model_weights(name).DEFAULT.meta["categories"])
    return sorted(set(names) - {"__background__", "N/A", "dog"}, reverse=True)


def boxes_of(predictor, picture: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    (found,) = predictor.predict(picture)
    return torch.tensor(found.boxes), torch.tensor(found.scores, dtype=torch.float32), torch.tensor(found.class_ids)


def same_boxes(mine, theirs, score: float = 1e-4, pixels: float = 0.01) -> None:
    told = difference([(mine, theirs)], score, pixels)
    assert told.alone <= 0.05 * told.boxes, told


def random_candidates(count: int, labels: int, seed: int) -> Candidates:
    chance = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=chance) * 40
    side = torch.rand(count, 2, generator=chance) * 20 * (torch.rand(count, 1, generator=chance) > 0.1)
    return Candidates(
        torch.cat([corner, corner + side], dim=1),
        torch.rand(count, generator=chance),
        torch.randint(labels, (count,), generator=chance),
    )


@pytest.mark.parametrize("count", [0, 1, 2, 7, 300, 3000])
@pytest.mark.parametrize("labels", [1, 5, 90])
def test_suppression_is_that_of_each_label_alone(count: int, labels: int):
    found = random_candidates(count, labels, count + labels)
    kept = torch.zeros(count, dtype=torch.bool)
    for label in range(labels):
        own = torch.where(found.labels == label)[0]
        kept[own[nms(found.boxes[own], found.scores[own], 0.5)]] = True
    order = [place for place in found.scores.argsort(descending=True).tolist() if kept[place]][:100]
    order = [place for place in order if (found.boxes[place, 2:] > found.boxes[place, :2]).all()]
    mine = best(found, Rule(0.5, 100, labels, (60, 60), 60))
    for part, whole in zip(mine, found, strict=True):
        torch.testing.assert_close(part, whole[order])


@pytest.mark.parametrize("score", [None, 0.999])
@pytest.mark.parametrize("head", list(HEADS))
def test_the_traceable_twin_finds_what_torchvision_finds(tmp_path: Path, head: str, score: float | None):
    predictor = vpt.load(artifact_of(tmp_path, head, score), "cpu")
    folded = FoldedDetector(predictor, SIZE).eval()
    found = 0
    for seed in range(3):
        picture = photo(*SIZE, seed)
        with torch.inference_mode():
            pixels = folded.resized(torch.from_numpy(picture.copy()))
            mine = folded(torch.from_numpy(picture.copy()))
        theirs = predictor.result("", predictor.model.detect([pixels])[0], pixels, SIZE[1], SIZE[0])
        scores = torch.tensor(theirs.scores, dtype=torch.float32)
        same_boxes(mine, (torch.tensor(theirs.boxes), scores, torch.tensor(theirs.class_ids)))
        found += len(theirs)
    assert found > 10 or score


@pytest.mark.parametrize("name", list(NATIVE))
def test_whole_detectors_behind_a_pixel_prompt(tmp_path: Path, name: str):
    predictor = vpt.load(native_artifact(tmp_path, name), "cpu")
    folded = FoldedDetector(predictor, (96, 120)).eval()
    picture = photo(96, 120)
    with torch.inference_mode():
        mine = folded(torch.from_numpy(picture.copy()))
    theirs = boxes_of(predictor, picture)
    same_boxes(mine, theirs)
    assert len(theirs[1]) > 10
    assert len(set(theirs[2].tolist())) > 1


def between(predictor) -> tuple[np.ndarray, np.ndarray, float]:
    """A picture with boxes, one without, and the score between."""
    pictures = [photo(*SIZE, seed) for seed in range(8)]
    scores = [float(boxes_of(predictor, each)[1].max()) for each in pictures]
    low, high = int(np.argmin(scores)), int(np.argmax(scores))
    return pictures[high], pictures[low], (scores[low] + scores[high]) / 2


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_a_file_finds_what_the_predictor_finds_and_nothing_where_nothing_is(tmp_path: Path, format: str):
    full, empty, score = between(vpt.load(artifact_of(tmp_path, "fcos"), "cpu"))
    predictor = vpt.load(artifact_of(tmp_path, "fcos", score), "cpu")
    done = export(predictor.artifact.path, format=format, size=SIZE, check=[full])
    assert done.boxes >= 2
    run = opened(done.path)
    for picture, some in ((full, True), (empty, False)):
        mine, theirs = run(picture), boxes_of(predictor, picture)
        # Pillow rounds here and there otherwise than this resize, by one level.
        same_boxes(mine, theirs, score=0.01, pixels=0.5)
        assert bool(len(mine[1])) == some
        assert [str(part.dtype) for part in mine] == ["torch.float32", "torch.float32", "torch.int64"]
        assert [part.ndim for part in mine] == [2, 1, 1]


def opened(path: Path):
    """A written file as a stranger runs it, without anything of ours."""
    if path.suffix == ".pt2":
        module = torch.export.load(str(path)).module()
        return lambda picture: module(torch.from_numpy(picture.copy()))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_outputs()] == ["boxes", "scores", "labels"]
    return lambda picture: tuple(map(torch.from_numpy, session.run(None, {"image": picture})))


def test_open_vocabulary(tmp_path: Path):
    artifact = clip_artifact(tmp_path)
    predictor = vpt.load(artifact, "cpu")
    for format in ("onnx", "torch"):
        done = export(artifact, format=format, size=(48, 60))
        assert done.path.stat().st_size < 2e6  # the text tower stays behind
        picture = photo(48, 60)
        theirs = boxes_of(predictor, picture)
        same_boxes(opened(done.path)(picture), theirs)
        assert len(theirs[1]) > 3


def test_a_whole_detector_as_onnx(tmp_path: Path):
    artifact = native_artifact(tmp_path, "ssdlite320_mobilenet_v3_large")
    done = export(artifact, size=(96, 120))
    assert done.boxes > 20
    same_boxes(opened(done.path)(photo(96, 120)), boxes_of(vpt.load(artifact, "cpu"), photo(96, 120)))


def test_faster_rcnn_as_onnx(tmp_path: Path):
    artifact = artifact_of(tmp_path, "faster_rcnn")
    done = export(artifact)
    picture = photo(64, 64)
    same_boxes(opened(done.path)(picture), boxes_of(vpt.load(artifact, "cpu"), picture), score=0.01, pixels=0.5)


def test_the_command_line_and_what_a_file_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    artifact = artifact_of(tmp_path, "retinanet", 0.999)
    assert main(["export", str(artifact), "--output", str(tmp_path / "out.onnx")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == str(tmp_path / "out.onnx")
    assert "ms per image" in out[1]
    assert "test it on photos with --check" in out[1]
    told = {entry.key: entry.value for entry in onnx.load(str(tmp_path / "out.onnx")).metadata_props}
    assert json.loads(told["classes"]) == list(vpt.load(artifact, "cpu").classes)
    assert told["image"] == "uint8 (64, 64, 3), RGB; one image at a time"
    assert main(["export", str(artifact), "--check", str(tmp_path / "none")]) == 2


def test_a_file_that_finds_other_boxes_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    artifact = artifact_of(tmp_path, "fcos")
    nothing = (torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    monkeypatch.setattr("vpt.interop.export.written.write", lambda program, format, path: path.write_bytes(b"x"))
    monkeypatch.setattr("vpt.interop.export.written.opened", lambda *_: lambda image: nothing)
    with pytest.raises(UserError, match=r"was not written, because .* boxes would differ"):
        export(artifact, format="torch")
    assert not artifact.with_suffix(".pt2").exists()


def test_a_detector_of_another_kind_is_refused():
    with pytest.raises(UserError, match="Identity cannot be exported; choose a detector that is one of FCOS"):
        anchors_of(torch.nn.Identity(), (32, 32), (32, 32), {})


def test_boxes_are_compared_without_regard_to_order():
    one = random_candidates(20, 3, 0)
    turned = one.where(torch.arange(19, -1, -1))
    assert difference([(tuple(one), tuple(turned))]) == (0.0, 0.0, 40, 0)
    fewer = one.where(torch.arange(15))
    assert difference([(tuple(one), tuple(fewer))]).alone == 5
    none = one.where(torch.zeros(20, dtype=torch.bool))
    assert difference([(tuple(none), tuple(none))]) == (0.0, 0.0, 0, 0)
