"""Settings that released recipes need: the last batch, stochastic depth, the head's initialisation, ranges."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tests.helpers.runs import QUIET, settings
from tests.helpers.tensors import images_for
from tests.helpers.vit_families import build_backbone
from vpt.backbones.backbone import Backbone
from vpt.backbones.liveness import plan
from vpt.config import GatedPrompt, LinearHead, MlpHead, PixelPrompt, load_config
from vpt.data.normalization import Preprocess
from vpt.data.transforms.classification import train_transform
from vpt.models.artifact import read_artifact
from vpt.models.classifier import backbone_for, build_model
from vpt.prompts.base import Shape
from vpt.prompts.pixel.prompt import PixelPrompts
from vpt.prompts.registry import build_tokens
from vpt.training.feature_cache import FeatureLoader
from vpt.training.lr_schedule import rate
from vpt.training.optimizer import build_optimizer
from vpt.training.run import resume, train
from vpt.training.run_folder import differing, identity
from vpt.utils.errors import UserError
from vpt.utils.run_log import read_rows

pytestmark = pytest.mark.usefixtures("small_net")


def steps_of(folder: Path) -> int:
    return sum(row["kind"] == "step" for row in read_rows(folder))


@pytest.mark.parametrize(
    ("batch", "drop", "steps"),
    [(8, False, 5), (8, True, 4), (64, True, 1)],  # 36 images an epoch
    ids=["whole", "dropped", "the only batch stays"],
)
@pytest.mark.parametrize("prompt", ["deep", "none"])  # a probe trains on features computed once
def test_the_last_batch_is_left_out_if_it_is_not_full(
    shapes: Path, tmp_path: Path, batch: int, drop: bool, steps: int, prompt: str
):
    words = [f"prompt={prompt}", f"train.batch_size={batch}", f"train.drop_last={drop}", "train.epochs=2"]
    result = train(settings(shapes, tmp_path, *words), QUIET)
    assert steps_of(result.folder) == 2 * steps
    rows = [row["lr"] for row in read_rows(result.folder) if row["kind"] == "step"]
    config = load_config(base=read_artifact(result.artifact).config.model_dump(mode="json"))
    expected = rate(config.train.optimizer.lr.head, 2 * steps - 1, steps, config.train)
    assert rows[-1]["head"] == pytest.approx(expected)  # the schedule counts the batches that are trained on


def test_features_without_a_last_batch():
    def sizes(drop: bool, start: int = 0) -> list[int]:
        loader = FeatureLoader(torch.zeros(5, 2), torch.zeros(5), batch_size=2, seed=0, shuffle=True, drop_last=drop)
        return [len(batch.images) for batch in loader.epoch(0, start)]

    assert (sizes(False), sizes(True), sizes(True, 1), sizes(True, 2)) == ([2, 2, 1], [2, 2], [2], [])


class TestDropPath:
    def net(self, rate: float) -> VisionTransformer:
        torch.manual_seed(0)
        return VisionTransformer(
            img_size=32, patch_size=8, embed_dim=48, depth=4, num_heads=3, num_classes=0, drop_path_rate=rate
        )

    def test_it_equals_timms_own(self):
        """The same draws in the same order: attention, then MLP, layer by layer, more often in deeper ones."""
        net = self.net(0.6).requires_grad_(False).train()
        pre = Preprocess(size=32)
        plain = self.net(0.0).requires_grad_(False).eval()
        plain.load_state_dict(net.state_dict())
        backbone = Backbone(plain, "timm", "test", pre)
        drops = backbone.with_drop_path(0.6)
        images = torch.randn(5, 3, 32, 32)
        steps = plan(4, {}, "drop", backbone.reads("avg"))
        torch.manual_seed(1)
        theirs = net.forward_features(images)[:, 1:].mean(1)
        torch.manual_seed(1)
        torch.testing.assert_close(backbone.features(images, steps, "avg"), theirs, atol=1e-5, rtol=1e-4)
        drops.eval()
        torch.testing.assert_close(
            backbone.features(images, steps, "avg"),
            net.eval().forward_features(images)[:, 1:].mean(1),
            atol=1e-5,
            rtol=1e-4,
        )

    def test_a_model_draws_only_while_it_trains(self):
        from vpt.training.parallelize import prepare_for_training

        words = ["backbone=test_vit_patch8_32", "backbone.pretrained=false", "train.drop_path=0.5"]
        config = load_config(overrides=words)
        model = build_model(config, backbone_for(config), ["a", "b"])
        before = set(model.owned_state())
        prepare_for_training(model, config.train, torch.device("cpu"))
        assert set(model.owned_state()) == before
        images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
        torch.nn.init.normal_(model.head[1].weight)
        model.train()
        assert not torch.equal(model(images), model(images))
        model.eval()
        assert torch.equal(model(images), model(images))

    def test_a_run_is_a_function_of_its_seed_and_goes_on_exactly(self, shapes: Path, tmp_path: Path):
        words = ["train.drop_path=0.5", "name=run"]
        one, other = (train(settings(shapes, tmp_path / each, *words), QUIET) for each in ("a", "b"))
        assert one.artifact.read_bytes() == other.artifact.read_bytes()
        plain = train(settings(shapes, tmp_path / "c", "name=run"), QUIET)
        assert plain.artifact.read_bytes() != one.artifact.read_bytes()
        recomputed = train(settings(shapes, tmp_path / "d", *words, "train.recompute=true"), QUIET)
        for name, tensor in read_artifact(recomputed.artifact).tensors.items():
            torch.testing.assert_close(tensor, read_artifact(one.artifact).tensors[name], atol=1e-5, rtol=1e-4)

    def test_networks_without_layers_are_refused(self, shapes: Path, tmp_path: Path):
        words = ["backbone=resnet18", "prompt=none", "train.drop_path=0.1"]
        with pytest.raises(UserError, match=r"does not support train\.drop_path"):
            train(settings(shapes, tmp_path, *words), QUIET)


@pytest.mark.parametrize("kind", [LinearHead, MlpHead])
def test_the_head_starts_as_vpts(kind: type[LinearHead]):
    """Kaiming normal over outputs, and a bias that gives each class a probability of one in a hundred."""
    torch.manual_seed(0)
    head = kind(init="fan_out", bias=-4.59512).build(2000, 8)
    last = head[-1]
    assert float(last.weight.detach().std()) == pytest.approx(math.sqrt(2 / 8), rel=0.05)
    assert torch.sigmoid(last.bias[0]).item() == pytest.approx(0.01, abs=1e-5)
    plain = kind().build(2000, 8)[-1]
    assert float(plain.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert (plain.bias == 0).all()


def test_adamws_epsilon():
    config = load_config(overrides=["backbone=vpt_nano", "train.optimizer.eps=1e-4"])
    model = build_model(config, backbone_for(config), ["a", "b"])
    assert {group["eps"] for group in build_optimizer(model, config.train.optimizer).param_groups} == {1e-4}


def test_the_smallest_crop():
    transform = train_transform(Preprocess(size=32), "crop", crop_scale=0.5)
    assert transform.pipeline.transforms[0].scale == (0.5, 1.0)
    assert train_transform(Preprocess(size=32), "crop").pipeline.transforms[0].scale == (0.08, 1.0)
    with pytest.raises(UserError, match=r"crop_scale=0\.5 needs a random crop, which data\.augment=none lacks"):
        train_transform(Preprocess(size=32), "none", crop_scale=0.5)


class TestRanges:
    """A clamp in the forward pass has no gradient beyond its ends, so that a parameter which left never came back."""

    def test_a_temperature_that_left_its_range_is_brought_back_and_learns_on(self):
        backbone = build_backbone("vit")
        tower = backbone.require_tower("prompts")
        prompt = build_tokens(GatedPrompt(tokens=3, gate=0.0), Shape.of(tower))
        with torch.no_grad():
            prompt.temperatures.copy_(torch.tensor([12.0, -3.0, 1.0, 0.5]))
        prompt.after_step()
        assert prompt.temperatures.tolist() == pytest.approx([10.0, 0.01, 1.0, 0.5])
        with torch.no_grad():
            prompt.temperatures[1] = 0.5
        steps = plan(4, prompt.inserted, prompt.after, backbone.reads("native"))
        images = images_for(backbone)
        out = backbone.features(images, steps, "native", prompt.layers(tower, steps, len(images)))
        (gradient,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), [prompt.temperatures])
        assert (gradient != 0).all()

    def test_a_learned_size_at_its_end_has_a_gradient(self):
        prompt = PixelPrompts(PixelPrompt(size=4, shrink=True, learn_scale=True), side=32)
        with torch.no_grad():
            prompt.scale.fill_(7.0)
        prompt.after_step()
        assert prompt.scale.item() == 5.0
        smooth = torch.linspace(0, 1, 24).expand(1, 3, 24, 24)
        prompt(smooth, torch.zeros(3, 1, 1), torch.ones(3, 1, 1)).square().sum().backward()
        assert prompt.scale.grad != 0

    def test_a_run_ends_within_them(self, shapes: Path, tmp_path: Path):
        words = ["prompt=gated", "prompt.tokens=2", "train.optimizer.lr.prompt=30", "train.clip_norm=null"]
        tensors = read_artifact(train(settings(shapes, tmp_path, *words), QUIET).artifact).tensors
        temperatures = tensors["prompt.temperatures"]
        assert ((temperatures >= 0.01) & (temperatures <= 10)).all()
        assert (temperatures != 1).all()

    def test_files_of_earlier_versions_score_as_they_did(self):
        """They hold what was clamped in every pass, so it may lie outside."""
        config = load_config(overrides=["backbone=vpt_nano", "prompt=gated", "prompt.tokens=2"])
        model = build_model(config, backbone_for(config), ["a", "b"])
        old = {name: value.clone() for name, value in model.owned_state().items()}
        old["prompt.temperatures"][:] = 40.0
        model.load_owned(old)
        assert (model.prompt.temperatures == 10).all()


def test_settings_that_an_older_run_lacks_are_no_difference(shapes: Path, tmp_path: Path):
    now = identity(settings(shapes, tmp_path))
    old = {key: dict(value) if isinstance(value, dict) else value for key, value in now.items()}
    for section, names in {
        "train": ["drop_last", "drop_path"],
        "head": ["init", "bias"],
        "data": ["crop_scale"],
    }.items():
        for name in names:
            del old[section][name]
    del old["cases"]
    old["train"]["optimizer"] = {key: value for key, value in now["train"]["optimizer"].items() if key != "eps"}
    assert differing(old, now) == []
    assert differing({"settings": old}, {"settings": now}) == []
    changed = {**now, "train": {**now["train"], "drop_last": True}}
    assert differing(old, changed) == ["train.drop_last"]


def test_a_run_that_was_stopped_by_an_earlier_version_goes_on(shapes: Path, tmp_path: Path):
    """Its config and checkpoint know nothing of the newer settings."""
    import yaml

    from vpt.training.run_folder import ADDED, CHECKPOINT
    from vpt.utils.tensor_io import read_tensors, write_tensors

    result = train(settings(shapes, tmp_path, "train.eval_every=1"), QUIET)
    (result.folder / "metrics.json").unlink()
    tree = yaml.safe_load((result.folder / "config.yaml").read_text())
    tensors, header = read_tensors(result.folder / CHECKPOINT)
    for name in ADDED:
        *parents, last = name.split(".")
        for branch in (tree, header["identity"]["settings"]):
            for parent in parents:
                branch = branch[parent]
            branch.pop(last, None)
    (result.folder / "config.yaml").write_text(yaml.safe_dump(tree))
    write_tensors(result.folder / CHECKPOINT, tensors, header)
    assert resume(result.folder, console=QUIET).artifact.read_bytes() == result.artifact.read_bytes()
