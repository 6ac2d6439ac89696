"""The hooks of a prompt, seen in whole runs of a tiny method; and key masks, against attention written out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import vpt
from tests.helpers import tiny_method
from tests.helpers.concatenation_twin import _embed, _pool
from tests.helpers.method_twins import written_out
from tests.helpers.plugins import nothing_named
from tests.helpers.runs import NET, QUIET, settings
from tests.helpers.tensors import close, images_for
from tests.helpers.vit_families import build_backbone
from vpt.backbones.backbone import Backbone
from vpt.backbones.block import Block
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.backbones.liveness import After, plan
from vpt.config import RunConfig, load_config
from vpt.models.attention_maps import attention_of
from vpt.models.classifier import PromptedModel
from vpt.models.wrap import load_prompt, wrap
from vpt.prompts.base import Shape, TokenPrompts
from vpt.prompts.batching import shape_of
from vpt.utils.errors import UserError
from vpt.utils.tensor_io import open_tensors, read_tensors, write_tensors

pytestmark = [pytest.mark.usefixtures("small_net"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]
TINY = f"prompt={tiny_method.NAME}"
TRAINING_ONLY = {"prompt.teacher.weight", "prompt.teacher.bias", "prompt.scale"}


@pytest.fixture(autouse=True)
def _nothing_called() -> Iterator[None]:
    with nothing_named():
        tiny_method.calls.clear()
        yield
        tiny_method.stop_at.clear()


def tiny(shapes: Path, out: Path, *words: str) -> RunConfig:
    config = settings(shapes, out, "prompt.dropout=0", "train.checkpoint_minutes=0")
    base = config.model_dump(mode="json", exclude={"prompt"})
    return load_config(base=base, overrides=[TINY, *words])


def boxes(out: Path, *words: str) -> RunConfig:
    common = ["task=detection", *NET, f"out={out}", "name=run", "train.epochs=2", "data.workers=0", "data.shots=4"]
    return load_config(overrides=[TINY, *common, "head.scales=[1.0,0.5]", "head.size=64", *words])


def names_in(file: Path) -> set[str]:
    with safe_open(file, "pt") as opened:
        return set(opened.keys())


def called(hook: str) -> list[tuple]:
    return [call[1:] for call in tiny_method.calls if call[0] == hook]


class TestClassification:
    def test_hooks_are_called_with_what_they_are_promised(self, shapes: Path, tmp_path: Path):
        vpt.train(tiny(shapes, tmp_path), QUIET)
        assert called("before_epoch") == [(0, 3), (1, 3), (2, 3)]
        [(images, labels)] = called("initialize")
        assert sum(map(len, images)) == sum(map(len, labels)) == 36
        assert torch.bincount(torch.cat(list(labels))).tolist() == [12, 12, 12]
        passes = called("extra_losses")
        assert len(passes) >= 3 * 5
        assert all(len(one) == len(wanted) and one.dtype == torch.uint8 for one, wanted in passes)
        order = [call[0] for call in tiny_method.calls if call[0] != "extra_losses"]
        assert order[0] == "initialize"

    def test_labels_belong_to_their_images(self, shapes: Path, tmp_path: Path):
        """The mean images of lying and standing bars are told apart by their rows and columns."""
        vpt.train(tiny(shapes, tmp_path, "train.epochs=1"), QUIET)
        [(images, labels)] = called("initialize")
        every, wanted = torch.cat(list(images)), torch.cat(list(labels))
        spread = every.mean(1).std(1).mean(1) - every.mean(1).std(2).mean(1)  # over rows less over columns
        lying, standing = (spread[wanted == label].mean() for label in (0, 2))
        assert lying > standing

    def test_extra_losses_train_what_only_they_reach(self, shapes: Path, tmp_path: Path):
        scales = {}
        for weight in ("0", "5"):
            run = vpt.train(tiny(shapes, tmp_path / weight, f"prompt.weight={weight}"), QUIET)
            tensors = read_tensors(run.folder / "checkpoint.safetensors")[0]
            [scales[weight]] = {float(tensors[name]) for name in tensors if name == "model:prompt.scale"}
        assert scales["0"] == 1.0
        assert scales["5"] < 0.995

    def test_no_artifact_holds_what_only_training_needs(self, shapes: Path, tmp_path: Path):
        run = vpt.train(tiny(shapes, tmp_path), QUIET)
        assert names_in(run.artifact) == {"prompt.tokens", "head.1.weight", "head.1.bias"}
        held = {name.rpartition(":")[2] for name in names_in(run.folder / "checkpoint.safetensors")}
        assert held >= TRAINING_ONLY
        [found] = vpt.load(run.artifact).predict(next(shapes.glob("test/*/*.png")))
        assert found.top in ("lying", "square", "standing")

    def test_an_artifact_that_holds_it_all_the_same_is_refused(self, shapes: Path, tmp_path: Path):
        run = vpt.train(tiny(shapes, tmp_path, "train.epochs=1"), QUIET)
        with open_tensors(run.artifact) as file:
            tree, tensors = dict(file.tree), file.tensors()
        same = write_tensors(tmp_path / "same.safetensors", tensors, tree)
        assert vpt.load(same).classes == ("lying", "square", "standing")
        more = write_tensors(tmp_path / "more.safetensors", {**tensors, "prompt.scale": torch.ones(())}, tree)
        with pytest.raises(UserError, match=r"prompt\.scale"):
            vpt.load(more)

    @pytest.mark.parametrize("steps", [3, 7])
    def test_a_resumed_run_is_that_of_one_never_interrupted(self, shapes: Path, tmp_path: Path, steps: int):
        whole = vpt.train(tiny(shapes, tmp_path / "whole"), QUIET)
        tiny_method.stop_at[:] = [steps]
        with pytest.raises(KeyboardInterrupt):
            vpt.train(tiny(shapes, tmp_path / "cut"), QUIET)
        tiny_method.stop_at.clear()
        tiny_method.calls.clear()
        again = vpt.resume(tmp_path / "cut" / "run", console=QUIET)
        assert called("before_epoch")[0] == ((steps - 1) // 5, 3)  # of the epoch that it is resumed in
        assert again.artifact.read_bytes() == whole.artifact.read_bytes()


class TestDetection:
    def test_hooks_are_called_with_what_they_are_promised(self, tmp_path: Path):
        run = vpt.train(boxes(tmp_path), QUIET)
        assert called("before_epoch") == [(0, 2), (1, 2)]
        [(images, labels)] = called("initialize")
        assert [len(batch) for batch in images] == [len(targets) for targets in labels]
        assert labels[0][0].boxes.shape[1] == 4
        assert all(len(one) == len(wanted) and wanted[0].labels.ndim == 1 for one, wanted in called("extra_losses"))
        assert not {name for name in names_in(run.artifact) if name in TRAINING_ONLY}
        assert {name for name in names_in(run.artifact) if name.startswith("prompt.")} == {"prompt.tokens"}
        assert vpt.load(run.artifact).classes == tuple(vpt.load(run.folder).classes)


def test_a_loop_of_ones_own_calls_them(tmp_path: Path):
    import timm

    net = timm.create_model("test_vit_patch8_32", num_classes=3)
    section = load_config(overrides=[TINY]).prompt
    model = wrap(net, section.build)
    model.before_epoch(0, 1)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    loss = model.with_extra_losses(nn.functional.cross_entropy(model(images), labels), images, labels)
    loss.backward()
    assert model.prompt.teacher.weight.grad.abs().sum() > 0
    saved = model.save(tmp_path / "own.safetensors")
    assert not names_in(saved) & TRAINING_ONLY
    fresh = timm.create_model("test_vit_patch8_32", num_classes=3)
    fresh.load_state_dict(net.state_dict())
    close(load_prompt(fresh, saved, section.build)(images), model(images))


class MaskedPrompts(TokenPrompts):
    """Tokens that some queries do not attend to."""

    def __init__(self, shape: Shape, inserted: Mapping[int, int], mask: Tensor, after: After = "carry") -> None:
        super().__init__(inserted, after)
        self.tokens = nn.Parameter(torch.randn(len(set(inserted.values())), mask.shape[-1], shape.width))
        self.mask = mask

    def sets(self, batch: int) -> Sequence[Tensor]:
        return self.tokens.unbind(0)

    def in_layer(self, layer: int, block: Block, plain: LayerPrompt, sets: Sequence[Tensor]) -> LayerPrompt:
        return replace(plain, seen=self.mask) if layer in self.inserted else plain


def masked_twin(backbone: Backbone, images: Tensor, prompt: MaskedPrompts, pool: str) -> Tensor:
    """Prompts really in the sequence, and attention with a mask over all of it."""
    net = backbone.net
    vit = net.trunk if hasattr(net, "trunk") else net
    rows, _, layers, prefix = _embed(vit, images)
    prompts: Tensor | None = None
    for index, layer in enumerate(layers):
        fresh = index in prompt.inserted
        if fresh:
            prompts = prompt.tokens[prompt.inserted[index]].expand(len(images), -1, -1)
        elif prompt.after == "drop":
            prompts = None
        count = 0 if prompts is None else prompts.shape[1]
        sequence = rows if prompts is None else torch.cat([prompts, rows], dim=1)
        visible = torch.ones(len(images), sequence.shape[1], sequence.shape[1], dtype=torch.bool)
        if fresh:
            by_row = prompt.mask if prompt.mask.ndim == 3 else prompt.mask[:, None]
            visible[:, count:, :count] = by_row.expand(len(images), rows.shape[1], -1)
            if prompt.mask.ndim == 2:
                visible[:, :count, :count] = by_row.expand(len(images), count, -1)
        out = written_out(layer, sequence, visible=visible)
        prompts, rows = (out[:, :count] if count else None), out[:, count:]
    return _pool(net, vit, rows, prompts, prefix, pool)


PLACES: list[tuple[dict[int, int], After, str]] = [
    ({0: 0, 1: 1, 2: 2, 3: 3}, "carry", "native"),
    ({0: 0}, "carry", "native"),
    ({1: 0, 3: 1}, "drop", "prompts"),
]
FAMILIES = ["vit", "vit-qk-norm", "dinov2-registers", "clip"]
# The definition of pooling prompts is written for timm.
CASES = [(family, *place) for family in FAMILIES for place in PLACES if family != "clip" or place[2] == "native"]


@pytest.mark.parametrize("by", ["image", "query", "image and query"])
@pytest.mark.parametrize(("family", "inserted", "after", "pool"), CASES)
def test_a_key_mask_hides_prompt_tokens(family: str, inserted: dict[int, int], after: After, pool: str, by: str):
    backbone = build_backbone(family)
    tower = backbone.require_tower("prompts")
    images = images_for(backbone)
    rows = tower.prefix + tower.grid[0] * tower.grid[1]
    shape = {"image": (2, 3), "query": (1, rows, 3), "image and query": (2, rows, 3)}[by]
    mask = (torch.arange(math.prod(shape)) % 2 == 0).view(shape)
    prompt = MaskedPrompts(Shape.of(tower), inserted, mask, after)
    steps = plan(len(tower.blocks), prompt.inserted, prompt.after, backbone.reads(pool))
    mine = backbone.features(images, steps, pool, prompt.layers(tower, steps, len(images)))
    theirs = masked_twin(backbone, images, prompt, pool)
    close(mine, theirs, "the output")
    weight = torch.randn(mine.shape, generator=torch.Generator().manual_seed(2))
    close(
        *(torch.autograd.grad((one * weight).sum(), prompt.tokens)[0] for one in (mine, theirs)),
        "the gradient",
    )
    hidden = MaskedPrompts(Shape.of(tower), inserted, torch.ones_like(mask), after)
    hidden.load_state_dict(prompt.state_dict())
    plain = backbone.features(images, steps, pool, hidden.layers(tower, steps, len(images)))
    assert (plain - mine).abs().max() > 3e-6 * mine.abs().max()


def test_attention_maps_show_what_a_mask_hides():
    backbone = build_backbone("vit")
    tower = backbone.require_tower("prompts")
    mask = torch.zeros(1, tower.prefix + tower.grid[0] * tower.grid[1], 2, dtype=torch.bool)
    mask[:, tower.prefix :, 0] = True  # patches attend to the first token alone
    size = backbone.preprocess.size
    images = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    shown = []
    for tokens in (mask, torch.ones_like(mask), torch.zeros_like(mask)):
        torch.manual_seed(0)
        prompt = MaskedPrompts(Shape.of(tower), {0: 0}, tokens, "drop")
        model = PromptedModel(backbone, prompt, nn.Linear(tower.width, 3)).eval()
        shown.append(float(attention_of(model, images)[0].prompts[0].sum()))
    assert 0 == shown[2] < shown[0] < shown[1]


def test_prompts_with_masks_of_their_own_are_not_batched_with_others():
    backbone = build_backbone("vit")
    tower = backbone.require_tower("prompts")
    steps = plan(len(tower.blocks), {0: 0}, "carry", backbone.reads("native"))
    made = [MaskedPrompts(Shape.of(tower), {0: 0}, torch.ones(1, 2, dtype=torch.bool)) for _ in range(2)]
    layers = [prompt.layers(tower, steps, 1) for prompt in made]
    assert shape_of(steps, layers[0]) != shape_of(steps, layers[1])
