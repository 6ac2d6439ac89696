"""Detectors: grids equal the definition, metrics equal pycocotools, runs resume and round-trip bit-identically."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection import FCOS

from tests.helpers.clip_models import build_clip, clip_backbone
from tests.helpers.runs import QUIET, interrupted
from tests.helpers.tensors import close
from tests.helpers.vit_families import build_backbone
from vpt.backbones.liveness import Reads, plan
from vpt.cli.main import main
from vpt.config import DeepPrompt, FcosHead, OwlHead, PixelPrompt, RunConfig, load_config
from vpt.data.detection.transforms import Target
from vpt.heads.detection import owl
from vpt.heads.detection.feature_pyramid import SimplePyramid
from vpt.inference.evaluate import evaluate
from vpt.inference.predictor import load
from vpt.metrics.coco_map import overlaps
from vpt.metrics.detection import detection_metrics
from vpt.models.detection.detector import Detector, PyramidDetection
from vpt.prompts.base import Shape
from vpt.prompts.registry import build_tokens
from vpt.training.run import resume, train
from vpt.training.tasks.detection import Detection
from vpt.utils.errors import NotFinite, UserError


def target(boxes: list, labels: list, side: int = 48) -> Target:
    crowds = torch.zeros(len(labels), dtype=torch.bool)
    return Target(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        crowds,
        side,
        side,
    )


@pytest.mark.parametrize("family", ["vit", "dinov2-registers", "dinov3", "eva02", "clip", "siglip"])
def test_grids_are_the_patch_rows_of_the_concatenating_definition(family: str):
    from tests.helpers.concatenation_twin import _embed, _layer, _rope_of

    backbone = build_backbone(family)
    tower = backbone.require_tower("grids")
    depth = len(tower.blocks)
    torch.manual_seed(0)
    prompt = build_tokens(DeepPrompt(tokens=3, layers=[0, 2]), Shape.of(tower))
    with torch.no_grad():
        prompt.tokens.copy_(torch.randn_like(prompt.tokens))
    images = torch.randn(2, 3, 32, 32)
    steps = plan(depth, prompt.inserted, "carry", Reads(image="patches"))
    assert steps[-1].keep == "patches"
    grids = backbone.grids(images, steps, [1, depth - 1], prompt.layers(tower, steps, 2))

    vit = backbone.net
    rows, rotary, layers, prefix = _embed(vit, images)
    held, taps = 0, []
    for index, layer in enumerate(layers):
        if index in prompt.inserted:
            tokens = prompt.tokens[prompt.inserted[index]].expand(2, -1, -1)
            rows = torch.cat([rows[:, :prefix], tokens, rows[:, prefix + held :]], dim=1)
            held = 3
        rows = _layer(layer, rows, _rope_of(vit, rotary, index), prefix + held)
        if index in (1, depth - 1):
            taps.append(tower.norm(rows[:, prefix + held :]).transpose(1, 2).unflatten(2, (4, 4)))
    for mine, theirs in zip(grids, taps, strict=True):
        close(mine, theirs)
    weight = torch.randn_like(grids[-1])
    one, other = (torch.autograd.grad((out * weight).sum(), prompt.tokens)[0] for out in (grids[-1], taps[-1]))
    close(one, other, "the gradient")


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "vit_small_patch14_reg4_dinov2",
        "vit_small_patch16_dinov3",
        "vit_small_patch16_rope_mixed_224",
        "vit_tiny_r_s16_p8_224",
        "eva02_tiny_patch14_224",
    ],
)
def test_images_of_any_size(name: str):
    """Position embeddings are resampled as timm resamples them."""
    import timm

    from vpt.backbones.factory import load_backbone
    from vpt.config import BackboneConfig

    backbone = load_backbone(BackboneConfig(name=name, pretrained=False), dynamic=True)
    tower = backbone.require_tower("grids")
    height, width = 3 * tower.patch[0], 5 * tower.patch[1]
    images = torch.randn(1, 3, height, width)
    steps = plan(len(tower.blocks), {}, "drop", Reads(image="patches"))
    (grid,) = backbone.grids(images, steps, [len(tower.blocks) - 1])
    assert grid.shape == (1, tower.width, 3, 5)
    net = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True).eval()
    net.load_state_dict(backbone.net.state_dict())
    expected = net.forward_features(images)[:, tower.prefix :].transpose(1, 2).unflatten(2, (3, 5))
    close(grid, expected)


def test_clip_images_of_any_size():
    clip = build_clip()
    backbone = clip_backbone(clip)
    tower = backbone.require_tower("grids")
    images = torch.randn(1, 3, 32, 32)
    own, _ = tower.embed(images)
    wide, _ = tower.embed(torch.cat([images, images], dim=3))
    assert wide.shape[1] == 1 + 4 * 8
    positions = backbone.net.positional_embedding
    grid = positions[1:].T.reshape(1, -1, 4, 4)
    stretched = F.interpolate(grid, (4, 8), mode="bicubic", antialias=True, align_corners=False)[0].flatten(1).T
    rows = backbone.net.conv1(torch.cat([images, images], dim=3)).flatten(2).transpose(1, 2)
    first = backbone.net.class_embedding.expand(1, 1, -1)
    expected = backbone.net.ln_pre(torch.cat([first + positions[:1], rows + stretched], dim=1))
    close(wide, expected)
    assert own.shape[1] == 17


def detector(head: str = "fcos", classes: int = 2, family: str = "vit", **words: object) -> Detector:
    backbone = build_backbone(family)
    tower = backbone.require_tower("grids")
    settings = [f"head.{key}={value}" for key, value in words.items()]
    config = load_config(overrides=["task=detection", f"head={head}", "head.channels=64", *settings]).head
    torch.manual_seed(0)
    made = PyramidDetection(config, tower.width, classes, tower.patch[0])
    prompt = build_tokens(DeepPrompt(tokens=2), Shape.of(tower))
    model = Detector(backbone, prompt, made, [len(tower.blocks) - 1])
    made.__dict__["grids"] = model.grids
    return model


def sized(*sides: tuple[int, int]) -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *side), dtype=torch.uint8, generator=chance) for side in sides]


def found_alone_and_together(model, images: list[torch.Tensor]) -> None:
    """What is found in an image does not depend on those beside it, and comes in their order."""
    together = model.detect(images)
    assert all(len(found["boxes"]) for found in together)
    for image, found in zip(images, together, strict=True):
        (alone,) = model.detect([image])
        best = {key: value[:3] for key, value in found.items()}  # further down are ties
        assert torch.equal(best["labels"], alone["labels"][:3])
        torch.testing.assert_close(best["scores"], alone["scores"][:3], atol=1e-4, rtol=0)
        torch.testing.assert_close(best["boxes"], alone["boxes"][:3], atol=0.01, rtol=0)


@pytest.mark.parametrize("head", ["fcos", "retinanet", "faster_rcnn"])
def test_a_photo_does_not_see_those_beside_it(head: str, monkeypatch: pytest.MonkeyPatch):
    model = detector(head, family="clip", score=0.001)
    with torch.no_grad():
        for _, _, parameter in model.trainable():
            parameter.add_(0.05 * torch.randn_like(parameter))
    passes = []
    usual = model.head.detect
    monkeypatch.setattr(model.head, "detect", lambda images: passes.append(len(images)) or usual(images))
    # The last one ends within the same patches as the first.
    found_alone_and_together(model, sized((64, 24), (24, 64), (32, 32), (24, 64), (61, 20)))
    assert passes[:3] == [2, 2, 1]


@pytest.mark.parametrize("head", ["fcos", "retinanet", "faster_rcnn"])
def test_every_head_learns_from_full_and_empty_targets(head: str):
    model = detector(head).train()
    images = [torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8) for _ in range(2)]
    loss = model.loss(images, [target([[4, 4, 20, 24]], [1]), target([], [])])
    loss.backward()
    assert torch.isfinite(loss)
    assert model.prompt.tokens.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    empty = model.loss(images, [target([], []), target([], [])])
    assert torch.isfinite(empty)
    found = model.detect(images)
    assert all(set(image["labels"].tolist()) <= {0, 1} for image in found)
    assert {role for _, role, _ in model.trainable()} == {"prompt", "head"}


def test_crowds_are_left_out_of_the_loss():
    model = detector()
    images = [torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)]
    plain = target([[4, 4, 20, 24]], [1])
    crowded = target([[4, 4, 20, 24], [0, 0, 30, 30]], [1, 0])
    crowded = Target(crowded.boxes, crowded.labels, torch.tensor([False, True]), 48, 48)
    model.train()
    torch.testing.assert_close(model.loss(images, [plain]), model.loss(images, [crowded]))


def test_the_pyramid():
    pyramid = SimplePyramid(16, 2, 8, [4.0, 2.0, 1.0, 0.5, 0.25])
    maps = list(pyramid([torch.randn(1, 16, 3, 5), torch.randn(1, 16, 3, 5)]).values())
    assert [tuple(level.shape[2:]) for level in maps] == [(12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]
    assert all(level.shape[1] == 8 for level in maps)


class TestOwl:
    def test_matching_is_the_cheapest_of_all_pairings(self):
        import itertools

        torch.manual_seed(0)
        boxes, wanted = torch.rand(5, 4) * 0.3 + 0.2, torch.rand(3, 4) * 0.3 + 0.2
        scores, labels = torch.randn(5, 4), torch.tensor([0, 2, 2])

        def cost(row: int, column: int) -> float:
            overlap = owl.generalized_box_iou(
                owl._corners(boxes[row : row + 1]), owl._corners(wanted[column : column + 1])
            )
            distance = (boxes[row] - wanted[column]).abs().sum()
            return float(-scores[row, labels[column]].sigmoid() + 5 * distance - 2 * overlap)

        best = min(
            itertools.permutations(range(5), 3), key=lambda rows: sum(cost(row, at) for at, row in enumerate(rows))
        )
        rows, columns = owl.match(boxes, scores, wanted, labels)
        assert dict(zip(columns.tolist(), rows.tolist(), strict=True)) == dict(enumerate(best))

    def test_it_learns_to_find_and_to_name(self):
        torch.manual_seed(0)
        head = owl.OwlHead(8, 6)
        grid, text = torch.randn(1, 8, 3, 3), F.normalize(torch.randn(2, 6), dim=1)
        wanted = [torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.4, 0.3]])]
        labels = [torch.tensor([0, 1])]
        optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
        first = None
        for _ in range(150):
            loss = owl.owl_loss(*head(grid, text), wanted, labels)
            first = first or float(loss.detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert float(loss.detach()) < 0.2 * first
        boxes, scores = head(grid, text)
        found, names, chance = owl.best_boxes(boxes[0], scores[0], (100, 100), 0.5, 0.5, 10)
        assert sorted(names.tolist()) == [0, 1]
        expected = owl._corners(wanted[0]) * 100
        for number, name in enumerate(names.tolist()):
            assert (found[number] - expected[name]).abs().max() < 6
        assert (chance >= 0.5).all()

    def test_an_empty_image_teaches_to_be_silent(self):
        head = owl.OwlHead(8, 6)
        loss = owl.owl_loss(
            *head(torch.randn(1, 8, 2, 2), torch.eye(6)[:2]), [torch.zeros(0, 4)], [torch.zeros(0).long()]
        )
        loss.backward()
        assert torch.isfinite(loss)
        assert head.shift.bias.grad.abs() > 0


def coco_says(predicted: list, wanted: list, classes: int) -> np.ndarray:
    """pycocotools on the same boxes, written to files as COCO wants them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images, annotations, results = [], [], []
    for number, (guess, truth) in enumerate(zip(predicted, wanted, strict=True), 1):
        images.append({"id": number, "width": 100, "height": 100})
        for box, label, crowd in zip(truth["boxes"].tolist(), truth["labels"].tolist(), truth["iscrowd"].tolist()):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": crowd,
                }
            )
        for box, label, score in zip(guess["boxes"].tolist(), guess["labels"].tolist(), guess["scores"].tolist()):
            x1, y1, x2, y2 = box
            results.append(
                {"image_id": number, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        categories = [{"id": label, "name": str(label)} for label in range(classes)]
        truth.dataset = {"images": images, "annotations": annotations, "categories": categories}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_metrics_equal_pycocotools(seed: int):
    chance = torch.Generator().manual_seed(seed)
    predicted, wanted = [], []
    for number in range(12):
        count = number % 4  # some images are empty
        corner = torch.rand(count, 2, generator=chance) * 60
        boxes = torch.cat([corner, corner + 4 + 36 * torch.rand(count, 2, generator=chance)], dim=1)
        labels = torch.randint(0, 3, (count,), generator=chance)
        crowds = (torch.rand(count, generator=chance) < 0.15).long()
        wanted.append({"boxes": boxes, "labels": labels, "iscrowd": crowds})
        noise = boxes.repeat(2, 1) + 5 * torch.randn(2 * count, 4, generator=chance)
        noise = torch.cat(
            [torch.minimum(noise[:, :2], noise[:, 2:]), torch.maximum(noise[:, :2], noise[:, 2:]) + 1], dim=1
        )
        guessed = torch.where(torch.rand(2 * count, generator=chance) < 0.7, labels.repeat(2), 1)
        predicted.append({"boxes": noise, "labels": guessed, "scores": torch.rand(2 * count, generator=chance)})
    found = detection_metrics(predicted, wanted, ["a", "b", "c"])
    stats = coco_says(predicted, wanted, 3)
    for key, place in {
        "map": 0,
        "map50": 1,
        "map75": 2,
        "map_small": 3,
        "map_medium": 4,
        "map_large": 5,
        "recall": 8,
    }.items():
        expected = None if stats[place] < 0 else pytest.approx(float(stats[place]), abs=1e-6)
        assert found[key] == expected, key
    assert len(found["precision"]["0.50"]) == 101
    assert np.mean(found["precision"]["0.50"]) == pytest.approx(found["map50"], abs=1e-5)


@pytest.mark.parametrize(
    ("area", "size"), [(900, "small"), (1600, "medium"), (0, "small"), (9217, "large"), (None, "medium")]
)
def test_size_classes_go_by_the_annotated_area(area: float | None, size: str):
    box = torch.tensor([[0.0, 0, 40, 40]])
    guess = {"boxes": box, "scores": torch.tensor([0.9]), "labels": torch.tensor([0])}
    truth = {"boxes": box, "labels": torch.tensor([0]), "iscrowd": torch.tensor([0])}
    if area is not None:
        truth["area"] = torch.tensor([area])
    found = detection_metrics([guess], [truth], ["cat"])
    assert found["map"] == pytest.approx(1)
    sizes = {key: found[f"map_{key}"] for key in ("small", "medium", "large")}
    assert sizes == {key: pytest.approx(1) if key == size else None for key in sizes}


def test_boxes_that_are_not_finite_are_refused_before_they_score():
    boxes = torch.tensor([[0.0, 0.0, float("nan"), 10.0]])
    guess = {"boxes": boxes, "scores": torch.ones(1), "labels": torch.zeros(1, dtype=torch.int64)}
    truth = {
        "boxes": torch.tensor([[0.0, 0, 10, 10]]),
        "labels": torch.zeros(1).long(),
        "iscrowd": torch.zeros(1).long(),
    }
    with pytest.raises(NotFinite, match="1 of 1 images have boxes or scores that are not finite"):
        detection_metrics([guess], [truth], ["a"])


WORDS = [
    "task=detection",
    "backbone=vpt_nano",
    "prompt.tokens=2",
    "head.channels=64",
    "data.shots=8",
    "data.augment=light",
]


def settings(out: Path, *words: str) -> RunConfig:
    common = [f"out={out}", "name=run", "train.epochs=2", "train.batch_size=8", "head.scales=[1.0,0.5]", "head.size=64"]
    return load_config(overrides=[*WORDS, *common, *words])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "words", [[], ["prompt.init=sample", "head=retinanet"], ["prompt=none", "tuning=lora", "head.convs=0"]]
)
def test_runs_resume_and_round_trip_bit_identically(tmp_path: Path, words: list[str]):
    whole = train(settings(tmp_path / "whole", *words), QUIET)
    names = {path.name for path in whole.folder.iterdir()}
    assert {"val_predictions.jpg", "precision-recall.png", "curves.png", "artifact.safetensors"} <= names
    with interrupted(3):
        train(settings(tmp_path / "cut", *words, "train.checkpoint_minutes=0"), QUIET)
    again = resume(tmp_path / "cut" / "run", console=QUIET)
    assert again.artifact.read_bytes() == whole.artifact.read_bytes()
    assert evaluate(whole.artifact, "test", console=QUIET)["map"] == whole.metrics["test"]["map"]

    photos = sorted(_scenes())[:3]
    first = load(whole.artifact).predict(photos)
    second = load(whole.folder).predict(photos)
    assert first == second


def test_a_run_without_measured_splits_ends_well(tmp_path: Path):
    words = ["data.shots=2", "data.join_val=true", "data.hold_test=true", "train.epochs=1"]
    run = train(settings(tmp_path, *words), QUIET)
    assert not {"val", "test"} & run.metrics.keys()
    assert run.artifact.is_file()


def _scenes() -> list[Path]:
    from vpt.utils.cache_dir import cache_dir

    return list((cache_dir() / "scenes-1" / "images" / "test").iterdir())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train(settings(tmp_path_factory.mktemp("det"), "train.epochs=3", "head.score=0.01"), QUIET).folder


class TestPredict:
    def test_boxes_are_in_pixels_of_the_photo(self, trained: Path):
        predictor = load(trained)
        photo = np.asarray(Image.open(sorted(_scenes())[0]).convert("RGB"))
        wide = np.asarray(Image.fromarray(photo).resize((256, 256)))
        one, other = predictor.predict([photo, wide])
        assert (one.width, other.width) == (128, 256)
        assert all(0 <= value <= 256 for box in other.boxes_xyxy for value in box)
        assert list(one.scores) == sorted(one.scores, reverse=True)

    def test_one_pixel(self, trained: Path):
        found = load(trained).predict(np.zeros((1, 1, 3), np.uint8))[0]
        assert all(0 <= value <= 1 for box in found.boxes_xyxy for value in box)

    def test_a_box_outside_of_the_photo_is_not_told(self, trained: Path):
        predictor = load(trained)
        raw = {
            "boxes": torch.tensor([[1.0, 1.0, 5.0, 5.0], [-9.0, 2.0, -3.0, 5.0], [2.0, 99.0, 5.0, 120.0]]),
            "labels": torch.tensor([0, 1, 2]),
            "scores": torch.tensor([0.9, 0.8, 0.7]),
        }
        found = predictor.result("photo", raw, torch.zeros(3, 10, 10), 10, 10)
        assert found.boxes_xyxy == ((1.0, 1.0, 5.0, 5.0),)
        assert found.labels == (predictor.classes[0],)
        assert found.scores.tolist() == [pytest.approx(0.9)]

    def test_the_command_line_draws_and_writes_coco(self, trained: Path, tmp_path: Path, capsys):
        photo = str(sorted(_scenes())[0])
        words = ["predict", str(trained), photo, "--score", "0.01", "--draw", str(tmp_path / "drawn")]
        capsys.readouterr()
        assert main([*words, "--format", "coco"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert all(row["file_name"] == photo and len(row["bbox"]) == 4 for row in rows)
        with Image.open(next((tmp_path / "drawn").iterdir())) as drawn:
            assert drawn.size == (512, 512)  # enlarged, so that names can be read
        for form in ("table", "csv", "json"):
            assert main(["predict", str(trained), photo, "--format", form]) == 0
        assert main(["predict", str(trained), photo, "--classes", "a,b"]) == 2
        assert "--classes cannot be used with an artifact of task=detection" in capsys.readouterr().err

    def test_boxes_are_shown_at_the_score_of_the_best_f1(self, trained: Path, tmp_path: Path, capsys):
        least = json.loads((trained / "metrics.json").read_text())["val"]["best_f1_score"]
        assert load(trained).artifact.metrics["val"]["best_f1_score"] == least
        photo = str(sorted(_scenes())[0])
        capsys.readouterr()
        assert main(["predict", str(trained), photo, "--format", "json"]) == 0
        out, err = capsys.readouterr()
        assert f"boxes with a score of at least {least:g}; --score changes that" in err
        everything = load(trained).predict(photo)[0]
        assert len(json.loads(out)[0]["boxes"]) == int((everything.scores >= least).sum())

    def test_the_overlap_of_boxes_is_chosen_at_prediction(self, trained: Path, capsys):
        photo = str(sorted(_scenes())[0])
        largest = []
        for iou in ("0.05", "0.95"):
            assert main(["predict", str(trained), photo, "--iou", iou, "--score", "0", "--format", "json"]) == 0
            found = json.loads(capsys.readouterr().out)[0]["boxes"]
            boxes = np.array([box["box_xyxy"] for box in found])
            labels = np.array([box["label"] for box in found])
            same = np.triu(labels[:, None] == labels[None], 1)
            largest.append(overlaps(boxes, boxes)[same].max())
        assert largest[0] < 0.06
        assert largest[1] > 0.2
        assert main(["predict", str(trained), photo, "--iou", "2"]) == 2
        assert "overlap" in capsys.readouterr().err

    def test_the_log_has_size_map_map50_and_validation_loss(self, trained: Path):
        text = (trained / "log.txt").read_text()
        assert re.search(r"model: vpt_nano at images of \d+ px \(short side; long side up to \d+ px\), prompt", text)
        assert re.search(r"epoch 1/3: loss \d+\.\d{4}, validation mAP 0\.\d{4}, mAP50 0\.\d{4}, loss \d+\.\d{4}", text)
        rows = [
            row for row in map(json.loads, (trained / "log.jsonl").read_text().splitlines()) if row["kind"] == "epoch"
        ]
        assert all(row["val_loss"] > 0 and row["val_map50"] >= row["val_map"] for row in rows)

    def test_the_command_line_measures(self, trained: Path, capsys):
        capsys.readouterr()
        assert main(["eval", str(trained)]) == 0
        lines = capsys.readouterr().out.splitlines()
        found = json.loads((trained / "metrics.json").read_text())["test"]
        assert lines[0].split() == ["map", f"{found['map']:.4f}"]
        table = [line.split() for line in lines[lines.index("") + 1 :]]
        rows = [[row["class"], f"{row['map']:.3f}", str(row["boxes"])] for row in found["per_class"]]
        assert table == [["class", "mAP", "boxes"], *rows]
        assert main(["eval", str(trained), "head.score=0.99", "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["recall"] == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["head=linear"], "task=detection does not go with head=linear"),
        (["prompt=coop"], "does not take prompt=coop"),
        (["prompt=pixel"], "does not take prompt=pixel; choose a token prompt or none"),
        (["head.scales=[3.0]"], r"head\.scales has 3\.0; known"),
        (["head.taps=[9]"], "layers 0 to 5"),
        (
            ["backbone=resnet18", "backbone.pretrained=false"],
            "not a vision transformer that accepts images of any size",
        ),
        (["data=digits"], "there is no digits"),
        (["head=native"], "choose pixel or none"),
        (["head=owl"], "has no text tower"),
    ],
)
def test_mistakes_are_told_before_training(tmp_path: Path, words: list[str], sentence: str):
    with pytest.raises(UserError, match=sentence):
        train(settings(tmp_path, *words), QUIET)


def test_missing_packages_are_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vpt.metrics.detection.find_spec", lambda name: None)
    needed = r"needs torchmetrics and faster_coco_eval: pip install 'visual-prompt-tuning\[detection\]'"
    with pytest.raises(UserError, match=needed):
        train(settings(tmp_path), QUIET)
    assert not any(tmp_path.iterdir())


def test_boxes_are_not_for_classification():
    with pytest.raises(UserError, match="set task=detection"):
        load_config(overrides=["head=fcos"])


def test_a_clip_backbone_finds_by_name(tmp_path: Path):
    """The open-vocabulary head over a small CLIP: it trains, and takes the projection of CLIP as its start."""
    from vpt.heads.zero_shot import class_features

    backbone = clip_backbone(build_clip())
    tower = backbone.require_tower("grids")
    text = class_features(backbone.text, "x", ["cat", "dog"], ["a photo of a {}."])
    from vpt.models.detection.detector import OwlDetection

    head = OwlDetection(OwlHead(), owl.OwlHead(tower.width, 20, backbone.net.proj), text, 8)
    model = Detector(backbone, build_tokens(DeepPrompt(tokens=2), Shape.of(tower)), head, [2]).train()
    head.__dict__["grids"] = model.grids
    torch.testing.assert_close(head.owl.words.weight, backbone.net.proj.T)
    images = [
        torch.randint(0, 256, (3, 32, 40), dtype=torch.uint8),
        torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8),
    ]
    loss = model.loss(images, [target([[4, 4, 20, 24]], [1]), target([], [])])
    loss.backward()
    assert torch.isfinite(loss)
    assert model.prompt.tokens.grad.abs().sum() > 0
    found = model.detect(images)
    for image, one in zip(images, found, strict=True):
        assert (one["boxes"][:, 2] <= image.shape[2]).all()
        assert (one["boxes"][:, 3] <= image.shape[1]).all()
    found_alone_and_together(model, images)


class TestFrozenDetector:
    words = ("head=native", "head.size=96", "prompt=pixel", "prompt.size=8", "backbone.pretrained=false")

    def built(self, tmp_path: Path, *words: str):
        common = [
            "task=detection",
            "backbone=torchvision:ssdlite320_mobilenet_v3_large",
            f"out={tmp_path}",
            *self.words,
        ]
        config = load_config(overrides=[*common, *words])
        return Detection().build(config, ["cat", "dog"])

    @pytest.mark.parametrize("shape", ["pad", "random_patch"])
    def test_gradients_reach_the_pixels_and_nothing_else_moves(self, tmp_path: Path, shape: str):
        model = self.built(tmp_path, f"prompt.shape={shape}").train()
        before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
        images = [torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)] * 2
        loss = model.loss(images, [target([[4, 4, 40, 44]], [1]), target([], [])])
        loss.backward()
        assert {role for _, role, _ in model.trainable()} == {"pixels"}
        assert model.prompt.pixels.grad.abs().sum() > 0
        after = model.backbone.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        found = model.detect(images)
        assert all(set(image["labels"].tolist()) <= {0, 1} for image in found)

    @pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
    def test_a_photo_does_not_see_those_beside_it(self, tmp_path: Path, name: str):
        model = self.built(tmp_path, f"backbone=torchvision:{name}", "head.score=0")
        model.labels = torch.arange(91)  # without its weights it calls hardly anything a cat
        found_alone_and_together(model, sized((96, 64), (64, 128), (96, 64)))

    def test_classes_are_found_by_name_or_mapping(self, tmp_path: Path):
        model = self.built(tmp_path, "head.classes={dog: horse}")
        from torchvision.models import get_model_weights

        names = get_model_weights("ssdlite320_mobilenet_v3_large").DEFAULT.meta["categories"]
        assert [names[label] for label in model.labels.tolist()] == ["cat", "horse"]
        with pytest.raises(UserError, match="has no class 'raccoon'"):
            config = load_config(overrides=["task=detection", "backbone=torchvision:fcos_resnet50_fpn", *self.words])
            Detection().build(config, ["raccoon"])

    @pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
    def test_what_is_told_is_the_detectors_own_choice_or_the_users(self, tmp_path: Path, name: str):
        backbone = f"backbone=torchvision:{name}"
        own, mine = (
            self.built(tmp_path, backbone, *more).backbone.net
            for more in ([], ["head.score=0.3", "head.overlap=0.9", "head.boxes=7"])
        )
        own, mine = (getattr(net, "roi_heads", net) for net in (own, mine))
        assert (mine.score_thresh, mine.nms_thresh, mine.detections_per_img) == (0.3, 0.9, 7)
        assert own.detections_per_img > 7
        assert own.score_thresh < 0.3

    def test_the_frame_is_stretched_to_the_image(self, tmp_path: Path):
        model = self.built(tmp_path)
        with torch.no_grad():
            model.prompt.pixels.fill_(0.5)
        image = torch.zeros(3, 48, 96, dtype=torch.uint8)
        seen = model.prompted(image)
        assert seen.shape == (3, 48, 96)
        assert seen[:, 0].min() > 0.4
        assert seen[:, 24, 48].abs().max() == 0
        assert isinstance(model.prompt.config, PixelPrompt)


def test_the_default_head_is_fcos():
    config = load_config(overrides=["task=detection"])
    assert isinstance(config.head, FcosHead)
    assert config.train.batch_size == 8
    assert config.train.optimizer.lr.head == 5e-4
    assert load_config(overrides=["task=detection", "head.channels=96"]).head.channels == 96


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ([], "none"),
        (["head=retinanet"], "none"),
        (["head.kind=faster_rcnn"], "none"),
        (["tuning=lora"], "none"),
        (["prompt=deep"], "deep"),
        (["prompt.tokens=4"], "deep"),
        (["head=owl", "backbone=open_clip:ViT-B-32"], "deep"),
    ],
)
def test_pyramids_have_no_prompt_unless_it_is_requested(words: list[str], kind: str):
    config = load_config(overrides=["task=detection", *words])
    assert config.prompt.kind == kind
    assert load_config(base=config.model_dump(mode="json")).prompt == config.prompt
    earlier = {**config.model_dump(mode="json"), "prompt": {"kind": "deep", "tokens": 10}}
    assert load_config(base=earlier).prompt.kind == "deep"  # a run folder names its prompt


@pytest.mark.parametrize("convs", [0, 1, 4])
def test_the_towers_of_fcos(convs: int):
    config = FcosHead(convs=convs, scales=[1.0, 0.5])
    torch.manual_seed(0)
    detector = PyramidDetection(config, 48, classes=3, patch=8).detector
    towers = [detector.head.classification_head.conv, detector.head.regression_head.conv]
    assert [sum(isinstance(layer, nn.Conv2d) for layer in tower) for tower in towers] == [convs] * 2
    if convs == 4:  # the default is torchvision's own head, started alike
        torch.manual_seed(0)
        SimplePyramid(48, 1, config.channels, config.scales)
        own = FCOS(detector.backbone, 3, anchor_generator=detector.anchor_generator)
        for name, value in own.head.state_dict().items():
            assert torch.equal(value, detector.head.state_dict()[name]), name
