"""Data-driven starts of prompts: VIPAMIN and BPT's whitening from their definitions, and pruning in a whole run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.runs import QUIET, settings, states_of_epochs
from tests.helpers.tensors import images_for
from tests.helpers.vit_families import build_backbone
from vpt.config import BptPrompt, DeepPrompt, load_config
from vpt.inference.predictor import load
from vpt.models.artifact import read_artifact, save_artifact
from vpt.models.classifier import backbone_for, build_model
from vpt.prompts.base import Shape
from vpt.prompts.init.initialize import start
from vpt.prompts.init.vipamin import vipamin
from vpt.prompts.init.whitening import affine, whitened_columns, whitening
from vpt.prompts.registry import build_tokens
from vpt.prompts.visual.vpt import uniform_
from vpt.training.callbacks import gaussian_weights
from vpt.training.e2vpt_pruning import prune
from vpt.training.run import train
from vpt.utils.errors import UserError
from vpt.utils.run_log import read_rows

pytestmark = pytest.mark.usefixtures("small_net")


@pytest.mark.parametrize("family", ["vit", "vit-qk-norm", "eva02-inner-norm", "clip"])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_the_map_to_queries_keys_and_values_is_found_whatever_the_library_stores(family: str, part: int):
    block = build_backbone(family).require_tower("prompts").blocks[0]
    rows = torch.randn(5, 48)
    matrix, bias = affine(block, part, 48)
    torch.testing.assert_close(rows @ matrix + bias, block.project(rows[None], "qkv")[part][0], atol=1e-5, rtol=1e-4)


def test_whitening_makes_what_prompts_multiply_uncorrelated():
    """P W (Wq Wk^T X^T): the rows of W M are uncorrelated with variance one, however unequal those of M are."""
    torch.manual_seed(0)
    block = build_backbone("vit").require_tower("prompts").blocks[1]
    uneven = torch.randn(4000, 48) * torch.logspace(0, -2, 48)
    rows = uneven @ torch.linalg.qr(torch.randn(48, 48)).Q
    query, key = block.project.module.weight[:48], block.project.module.weight[48:96]
    scores = (query.T @ key @ rows.T).double()
    matrix = whitening(block, rows).double()
    met = matrix @ scores
    spectrum = torch.linalg.eigvalsh(met @ met.T / 4000)
    torch.testing.assert_close(spectrum, torch.ones_like(spectrum), atol=1e-2, rtol=0)
    # Adding a share of the mean variance to all once made it a multiple of the identity where few directions dominate.
    flat = matrix.diagonal().mean() * torch.eye(48).double()
    assert (matrix - flat).norm() > 0.5 * matrix.norm()


def test_fewer_rows_than_channels_do_not_blow_up():
    block = build_backbone("vit").require_tower("prompts").blocks[1]
    rows = block.before1(torch.randn(10, 48))
    query, key = block.project.module.weight[:48], block.project.module.weight[48:96]
    met = whitening(block, rows) @ (query.T @ key @ rows.T)
    spectrum = torch.linalg.eigvalsh(met @ met.T / 10)
    torch.testing.assert_close(spectrum[-10:], torch.ones(10), atol=1e-2, rtol=0)
    assert spectrum[:-10].abs().max() < 1e-4
    columns = whitened_columns(block, rows, rank=60, seed=0)
    assert columns.shape == (48, 60)
    assert torch.isfinite(columns).all()
    assert columns.std() == pytest.approx((2 / 108) ** 0.5, rel=1e-3)


def test_bpt_starts_every_layer_from_its_own_rows():
    backbone = build_backbone("vit")
    config = BptPrompt(tokens=3, rank=5, layers=[1, 3], init="whitening")
    prompt = build_tokens(config, Shape.of(backbone.require_tower("prompts")))
    before = prompt.left.detach().clone()
    start(prompt, config, backbone, [images_for(backbone, 4)], seed=0)
    assert torch.equal(prompt.left, before)
    entering = backbone.entering(images_for(backbone, 4), [3])[3]
    block = backbone.require_tower("prompts").blocks[3]
    expected = whitened_columns(block, block.before1(entering.flatten(0, 1)), 5, seed=1)
    torch.testing.assert_close(prompt.right[1], expected)


@torch.no_grad()
def attention_outputs(net, images: torch.Tensor) -> list[torch.Tensor]:
    """Batch mean of what enters the output projection of each layer of a timm ViT, (N, C)."""
    outputs: list[torch.Tensor] = []
    hooks = [
        block.attn.proj.register_forward_pre_hook(lambda _module, inputs: outputs.append(inputs[0].mean(0)))
        for block in net.blocks
    ]
    net.forward_features(images)
    for hook in hooks:
        hook.remove()
    return outputs


class TestVipamin:
    def start(self, nearest: int, expand: float) -> tuple[torch.Tensor, torch.Tensor, object, torch.Tensor]:
        backbone = build_backbone("vit")
        tower = backbone.require_tower("prompts")
        torch.manual_seed(1)
        tokens = 0.1 * torch.randn(2, 3, 48)
        images = images_for(backbone, 4)
        with torch.no_grad():
            return vipamin(tower, images, tokens, [0, 2], nearest, expand), tokens, backbone, images

    def test_selected_prompts_are_means_of_the_patches_with_the_likest_keys(self):
        found, tokens, backbone, images = self.start(nearest=2, expand=0.0)
        net = backbone.net
        rows = net._pos_embed(net.patch_embed(images))
        attention = net.blocks[0].attn

        def keys(some: torch.Tensor) -> torch.Tensor:
            key = attention.qkv(net.blocks[0].norm1(some)).chunk(3, dim=-1)[1]
            return key.unflatten(-1, (3, 16)).mean((0, -2))  # batch, heads

        patch_keys, prompt_keys = keys(rows[:, 1:]), keys(tokens[:1])
        for number in range(3):
            likeness = torch.cosine_similarity(patch_keys, prompt_keys[number][None])
            best = likeness.sort(descending=True).indices[:2]
            torch.testing.assert_close(found[0, number], rows[:, 1:].mean(0)[best].mean(0), atol=1e-5, rtol=1e-4)

    def test_expanded_prompts_are_the_papers_formula(self, monkeypatch: pytest.MonkeyPatch):
        """(I - V V^T)(p W) W^+ with a basis V of the attention outputs, where the inverse is taken whole."""
        monkeypatch.setattr("vpt.prompts.init.vipamin.LONGEST", 1e9)
        found, tokens, backbone, images = self.start(nearest=2, expand=1.0)
        used, weight = attention_outputs(backbone.net, images)[0], backbone.net.blocks[0].attn.qkv.weight[96:]
        basis = torch.linalg.svd(used, full_matrices=False).Vh
        expected = (tokens[0] @ weight.T) @ (torch.eye(48) - basis.T @ basis) @ torch.linalg.pinv(weight.T)
        torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=1e-3)
        assert (found[0] @ weight.T @ basis.T).norm() < 1e-3 * (tokens[0] @ weight.T @ basis.T).norm()

    def test_on_trained_weights_the_orthogonal_part_counts_and_leaves_the_space_in_use(self):
        """The paper's is 0.21 to 0.39 of the matched part; damping left 0.015 of it in deep layers of this net."""
        backbone = backbone_for(load_config(overrides=["backbone=vpt_nano"]))
        tower, net = backbone.require_tower("prompts"), backbone.net
        torch.manual_seed(0)
        images = torch.randn(8, 3, 64, 64).cumsum(2).cumsum(3)  # smooth, so that patches differ
        images = images / images.flatten(1).std(1)[:, None, None, None]
        depth = len(tower.blocks)
        tokens = torch.empty(depth, 10, tower.width)
        uniform_(tokens, tower.patch)
        with torch.no_grad():
            matched, orthogonal = (vipamin(tower, images, tokens, range(depth), 8, share) for share in (0.0, 1.0))
        ratios = orthogonal.norm(dim=(1, 2)) / matched.norm(dim=(1, 2))
        assert ((ratios > 0.1) & (ratios <= 1.001)).all()
        for layer, used in enumerate(attention_outputs(net, images)):
            weight = net.blocks[layer].attn.qkv.weight[2 * tower.width :]
            basis = torch.linalg.svd(used, full_matrices=False).Vh
            before, after = (some[layer] @ weight.T @ basis.T for some in (tokens, orthogonal))
            assert after.norm() < 0.05 * before.norm()

    def test_a_layer_that_hardly_sees_some_directions_makes_no_long_prompts(self):
        """Real layers do; a plain inverse made prompts 1,000 times as long as patch tokens, all alike."""
        backbone = build_backbone("vit")
        tower = backbone.require_tower("prompts")
        values = backbone.net.blocks[0].attn.qkv.weight.data[96:]
        left, sizes, right = torch.linalg.svd(values)
        values.copy_(left @ torch.diag(sizes * torch.logspace(0, -5, 48)) @ right)
        backbone.net.blocks[0].attn.qkv.bias.data[96:] = 10 * torch.randn(48)
        torch.manual_seed(1)
        tokens = 0.1 * torch.randn(1, 5, 48)
        with torch.no_grad():
            found = vipamin(tower, images_for(backbone, 4), tokens, [0], 2, 1.0)[0]
            matched = vipamin(tower, images_for(backbone, 4), tokens, [0], 2, 0.0)[0]
        assert found.norm() <= 1.001 * matched.norm()

    def test_fewer_channels_than_tokens_leave_something_outside(self):
        """197 tokens in 192 channels span them all; what carries the outputs is less."""
        backbone = backbone_for(load_config(overrides=["backbone=vit_tiny_patch16_224", "backbone.pretrained=false"]))
        torch.manual_seed(1)
        tokens = 0.1 * torch.randn(1, 5, 192)
        with torch.no_grad():
            found = vipamin(backbone.require_tower("prompts"), torch.randn(2, 3, 224, 224), tokens, [0], 2, 1.0)[0]
        assert (found.norm(dim=1) > 0.1 * tokens[0].norm(dim=1)).all()

    def test_a_mix_lies_between(self):
        selected, expanded, mixed = (self.start(nearest=2, expand=share)[0] for share in (0.0, 1.0, 0.25))
        torch.testing.assert_close(mixed, 0.75 * selected + 0.25 * expanded)


def test_spt_starts_the_first_layer_from_patch_embeddings_without_position():
    backbone = build_backbone("vit")
    config = DeepPrompt(tokens=4, init="sample")
    prompt = build_tokens(config, Shape.of(backbone.require_tower("prompts")))
    images = images_for(backbone, 3)
    start(prompt, config, backbone, [images], seed=0)
    patches = backbone.net.patch_embed(images).flatten(0, 1)
    assert all((patches - token).abs().sum(1).min() < 1e-5 for token in prompt.tokens[0])
    entering = backbone.entering(images, [2])[2].flatten(0, 1)
    assert all((entering - token).abs().sum(1).min() < 1e-5 for token in prompt.tokens[2])


def test_a_pruned_run_trains_twice_from_the_same_start(shapes: Path, tmp_path: Path):
    words = ["prompt=e2vpt", "prompt.tokens=4", "prompt.prune_tokens=0.5", "prompt.prune_segments=0.25"]
    result = train(settings(shapes, tmp_path, *words), QUIET)
    tensors = read_artifact(result.artifact).tensors
    assert tensors["prompt.token_mask"].sum() == 2
    assert (tensors["prompt.segment_mask"].sum(1) == 12).all()
    rows = read_rows(result.folder)
    steps = [row["step"] for row in rows if row["kind"] == "step"]
    assert steps == list(range(1, 31))
    epochs = [row for row in rows if row["kind"] == "epoch"]
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 1, 2, 3]
    assert result.metrics["epochs"] == 3
    # The schedule starts anew, and pruned tokens take no gradient.
    shares = [row["lr"] for row in rows if row["kind"] == "step"]
    assert shares[:15] == shares[15:]
    # What is left is all that is stored: of two layers two tokens, twelve of sixteen segments, two channels each.
    assert tensors["prompt.tokens"].shape == (2, 2 * 12 * 2)
    model = load(result.artifact, device="cpu").model
    for tokens in model.prompt.sets(1):
        assert (tokens != 0).sum() == 2 * 12 * 2
    assert torch.equal(model.prompt.tokens[:, model.prompt.mask(32) > 0], tensors["prompt.tokens"])
    plain = train(settings(shapes, tmp_path / "plain", *words[:2]), QUIET)
    assert result.artifact.stat().st_size < plain.artifact.stat().st_size
    again = train(settings(shapes, tmp_path / "again", *words), QUIET)
    assert again.artifact.read_bytes() == result.artifact.read_bytes()


def test_a_pruned_artifact_of_an_earlier_version_scores_as_it_did(tmp_path: Path):
    """It holds zeros, and masks of floating numbers."""
    config = load_config(overrides=["backbone=vpt_nano", "prompt=e2vpt", "prompt.tokens=4", "prompt.prune_tokens=0.5"])
    model = build_model(config, backbone_for(config), ["a", "b"]).eval()
    prune(model.prompt, torch.tensor([4.0, 1.0, 2.0, 3.0]), torch.rand(4, 16), tokens=0.5, segments=0.25)
    torch.nn.init.normal_(model.head[1].weight)
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    paths = [tmp_path / "old.safetensors", tmp_path / "new.safetensors"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(model, "stored_state", model.owned_state)  # as earlier versions wrote it
        save_artifact(paths[0], model, config, ["a", "b"])
    save_artifact(paths[1], model, config, ["a", "b"])
    with torch.no_grad():
        old, new = (load(path, device="cpu").model(images) for path in paths)
    assert torch.equal(old, new)
    assert paths[1].stat().st_size < 0.8 * paths[0].stat().st_size
    tensors = model.stored_state()
    tensors["prompt.tokens"] = tensors["prompt.tokens"][:, 1:]
    with pytest.raises(UserError, match=r"see prompt\.tokens"):
        model.load_owned(tensors)


def test_a_pruned_run_averages_its_second_training_alone(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    states = states_of_epochs(monkeypatch)
    words = ["prompt=e2vpt", "prompt.tokens=4", "prompt.prune_tokens=0.5", "train.average={mean: 2, std: 0.8}"]
    tensors = read_artifact(train(settings(shapes, tmp_path, *words), QUIET).artifact).tensors
    assert sorted(tensors["prompt.token_mask"].tolist()) == [0, 0, 1, 1]
    weights = gaussian_weights(3, mean=2, std=0.8)
    left = tensors["prompt.token_mask"].bool()[:, None].expand(-1, 32)
    for name, value in tensors.items():
        if not name.endswith("_mask"):
            expected = sum(weight * state[name] for weight, state in zip(weights, states[3:], strict=True))
            if name == "prompt.tokens":
                expected = expected[:, left]
            torch.testing.assert_close(value, expected)
