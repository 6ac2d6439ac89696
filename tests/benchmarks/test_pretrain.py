"""Pretraining: drawing by formula, resuming, and the backbone that the package ships."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from benchmarks.pretraining import export, generator, train, transfer
from tests.helpers.paths import ROOT

ASSETS = ROOT / "vpt" / "assets"
TINY = {"img_size": 64, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


@pytest.fixture
def scripts():
    """The pretraining scripts."""
    return {"generator": generator, "train": train, "export": export, "transfer": transfer}


def test_drawing_is_a_function_of_classes_and_seed(scripts):
    g = scripts["generator"]
    table, ids = g.class_table(32), torch.arange(32)
    first, again, other = g.draw(table, ids, 1), g.draw(g.class_table(32), ids, 1), g.draw(table, ids, 2)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.facts, again.facts)
    assert torch.equal(first.coverage, again.coverage)
    assert (first.images != other.images).float().mean() > 0.5
    assert not torch.equal(g.class_table(32, seed=1)["phases"], table["phases"])


@pytest.mark.parametrize("ids", [[0], [1], [0, 2], [3, 1], [5, 0, 4, 1]])
def test_shapes_and_ranges_for_either_family_alone_and_mixed(scripts, ids):
    g = scripts["generator"]
    batch = g.draw(g.class_table(6), torch.tensor(ids), 0)
    n = len(ids)
    assert batch.images.shape == (n, 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    assert batch.classes.tolist() == ids
    assert batch.facts.shape == (n, g.FACTS)
    assert batch.coverage.shape == (n, 8, 8)
    assert batch.coverage.min() >= 0
    assert batch.coverage.max() <= 1
    assert torch.isfinite(batch.facts).all()


def test_facts_tell_the_truth_about_the_picture(scripts):
    g = scripts["generator"]
    batch = g.draw(g.class_table(64), torch.arange(64).repeat(4), 0)
    # Centre of mass of the coverage, in half image widths from the middle, against the stated centre.
    line = (torch.arange(8) + 0.5) / 4 - 1
    mass = batch.coverage.sum((1, 2))
    x = (batch.coverage.sum(1) * line).sum(1) / mass
    y = (batch.coverage.sum(2) * line).sum(1) / mass
    assert torch.corrcoef(torch.stack([x, batch.facts[:, 9]]))[0, 1] > 0.8
    assert torch.corrcoef(torch.stack([y, batch.facts[:, 10]]))[0, 1] > 0.8
    # The background's colour shows in the corners, where figures seldom are.
    corners = batch.images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].float().mean(2)
    for channel in range(3):
        assert torch.corrcoef(torch.stack([corners[:, channel], batch.facts[:, 6 + channel]]))[0, 1] > 0.8


def test_images_of_a_class_resemble_each_other(scripts):
    """Silhouettes at one place and size: nearer to the mean of their own class than to that of another."""
    g = scripts["generator"]
    classes, each = 12, 24
    table = g.class_table(classes)

    def silhouettes(seed):
        batch = g.draw(table, torch.arange(classes).repeat_interleave(each), seed)
        # Undo place and size, which are not the class; the facts state both.
        scale = (batch.facts[:, 11] / 5 - 0.35).exp()
        theta = torch.zeros(len(scale), 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = scale
        theta[:, :, 2] = batch.facts[:, 9:11] / 6
        grid = torch.nn.functional.affine_grid(theta, (len(scale), 1, 16, 16), align_corners=False)
        flat = torch.nn.functional.grid_sample(batch.coverage[:, None], grid, align_corners=False).flatten(1)
        return flat / flat.norm(dim=1, keepdim=True)

    means = silhouettes(0).view(classes, each, -1).mean(1)
    distances = torch.cdist(silhouettes(1), means)
    labels = torch.arange(classes).repeat_interleave(each)
    own = distances.gather(1, labels[:, None]).mean()
    assert own < 0.8 * distances.mean()
    assert (distances.argmin(1) == labels).float().mean() > 4 / classes


def test_resumed_run_ends_with_the_same_bits(scripts, tmp_path, monkeypatch):
    train = scripts["train"]
    plan = train.Plan(images=40, batch=8, classes=6)

    def run(folder):
        return train.train(plan, tmp_path / folder, architecture=TINY, save_every=0)

    whole = run("whole").state_dict()
    real, calls = train.draw, []

    def dies_in_the_fourth_step(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(train, "draw", dies_in_the_fourth_step)
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    assert json.loads((tmp_path / "killed" / "status.json").read_text())["step"] == 3
    resumed = run("killed").state_dict()
    assert len(calls) == 4 + 2
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    with pytest.raises(SystemExit, match="another plan"):
        train.train(train.Plan(images=48, batch=8, classes=6), tmp_path / "killed", architecture=TINY)


def test_schedule_ends_at_zero_and_never_starts_there(scripts):
    plan = scripts["train"].Plan(images=6400, batch=64, minutes=1)
    rates = [plan.rate(plan.progress(step, 0)) for step in range(101)]
    assert rates[0] > 0
    assert max(rates) == pytest.approx(plan.lr)
    assert rates[-1] == 0
    assert plan.progress(0, 61) == 1


def test_export_of_a_run_loads_and_agrees_with_its_card(scripts, tmp_path):
    train, export = scripts["train"], scripts["export"]
    learner = train.train(train.Plan(images=8, batch=8, classes=6), tmp_path / "run", architecture=TINY)
    card = export.export(tmp_path / "run", tmp_path / "assets")
    weights = load_file(tmp_path / "assets" / "vpt_nano.safetensors")
    for name, value in learner.backbone.state_dict().items():
        assert torch.equal(weights[name], value.half()), name
    assert card["compute"]["images_seen"] == 8
    assert card == json.loads((tmp_path / "assets" / "vpt_nano.json").read_text())
    with pytest.raises(SystemExit, match="other weights"):
        export.export(tmp_path / "run", tmp_path / "assets", {"sha256": "0"})


def test_shipped_weights_are_those_of_the_card():
    path = ASSETS / "vpt_nano.safetensors"
    card = json.loads((ASSETS / "vpt_nano.json").read_text(encoding="utf-8"))
    assert path.stat().st_size < 6_000_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == card["sha256"]
    weights = load_file(path)
    assert all(value.dtype == torch.float16 and torch.isfinite(value).all() for value in weights.values())
    model = VisionTransformer(**card["architecture"], num_classes=0)
    model.load_state_dict(weights, strict=True)
    assert sum(value.numel() for value in weights.values()) == card["parameters"]


def test_shipped_features_beat_random_weights_on_digits(scripts):
    """A nearest-class-mean classifier, which cannot make up for poor features as a fitted probe can."""
    transfer = scripts["transfer"]
    train, train_labels, test, test_labels = (part[:300] for part in transfer.digits())
    card = json.loads((ASSETS / "vpt_nano.json").read_text(encoding="utf-8"))

    def accuracy(model):
        known, asked = (torch.from_numpy(transfer.features(model, images)) for images in (train, test))
        known, asked = ((f - known.mean(0)) / known.std(0) for f in (known, asked))
        labels = torch.from_numpy(train_labels)
        means = torch.stack([known[labels == digit].mean(0) for digit in range(10)])
        return (torch.cdist(asked, means).argmin(1) == torch.from_numpy(test_labels)).float().mean().item()

    torch.manual_seed(0)
    untrained = VisionTransformer(**card["architecture"], num_classes=0)
    shipped = VisionTransformer(**card["architecture"], num_classes=0)
    shipped.load_state_dict(load_file(ASSETS / "vpt_nano.safetensors"))
    assert accuracy(shipped) > accuracy(untrained) + 0.05
