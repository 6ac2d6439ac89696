"""What engineers do with a wrapped network in loops of their own: freeze, copy, resume, export, forget a call."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

import vpt
from tests.helpers.tensors import close
from tests.models.test_wrap import loud, photos, small
from vpt.config import Sa2vpPrompt
from vpt.models.wrap import load_prompt, wrap
from vpt.prompts.base import Shape
from vpt.prompts.registry import build_tokens
from vpt.utils.errors import UserError

WITH_LOSSES = ["tcpa", "davpt", "ship"]


def wrapped(kind: str, **settings: Any) -> Any:
    images = {"images": photos(8), "labels": [0, 1, 2, 0, 1, 2, 0, 1]} if kind in ("davpt", "ship", "viapt") else {}
    settings = {"ship": {"tokens": 2, "centres": 3}, "tcpa": {"random_epochs": 0}}.get(kind, {}) | settings
    return wrap(small(), kind, **images, **settings)


@pytest.mark.parametrize("frozen", ["everything", "the prompt", "the classifier"])
def test_what_is_frozen_is_saved_too(frozen: str, tmp_path: Path):
    model = loud(wrap(small(), "deep", tokens=3)).eval()
    with torch.no_grad():
        model.net.head.bias.normal_()
    part = {"everything": model, "the prompt": model.prompt, "the classifier": model.net.head}[frozen]
    part.requires_grad_(False)
    again = load_prompt(small(), model.save(tmp_path / "a.safetensors"))
    close(again(photos()), model(photos()))


def test_what_a_method_freezes_is_not_the_tasks(tmp_path: Path):
    model = wrap(small(), "gated", tokens=3, temperature=False).eval()
    assert "prompt.temperatures" not in model.stored_state()
    again = load_prompt(small(), model.save(tmp_path / "a.safetensors"))
    close(again(photos()), model(photos()))


def test_what_was_unfrozen_is_saved_after_it_is_frozen_again(tmp_path: Path):
    model = loud(wrap(small(), "deep", tokens=3)).eval()
    model.net.norm.requires_grad_(True)
    optimizer = torch.optim.SGD(model.learning(), lr=0.1)
    model(photos()).square().sum().backward()
    optimizer.step()
    model.requires_grad_(False)
    again = load_prompt(small(), model.save(tmp_path / "a.safetensors"))
    close(again(photos()), model(photos()))


def test_weights_in_lower_precision_are_still_those_of_the_network(tmp_path: Path):
    model = loud(wrap(small(), "deep", tokens=3)).eval()
    best = copy.deepcopy(model.state_dict())
    model.bfloat16().load_state_dict(best)
    load_prompt(small(), model.save(tmp_path / "a.safetensors"))


def test_the_projection_of_clip_is_no_classifier():
    from open_clip.timm_model import TimmModel

    tower = TimmModel("vit_tiny_patch16_224", embed_dim=16, image_size=32, pool="token", proj="linear")
    assert [role for _, role, _ in wrap(tower, "pixel", size=3, image_size=32).trainable()] == ["pixels"]


def test_a_file_without_the_classifier_is_of_a_version_that_did_not_know_it(tmp_path: Path):
    def net() -> nn.Module:
        torch.manual_seed(0)
        made = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=5)
        nn.init.normal_(made.heads.head.weight)
        return made

    model = wrap(net(), "pixel", size=3, image_size=32, head=False)
    model.settings["head"] = True  # as 0.2.0 wrote
    again = load_prompt(net(), model.save(tmp_path / "a.safetensors"))
    close(again(photos()), model.eval()(photos()))


@pytest.mark.parametrize("kind", ["deep", "vapt", "viapt"])
def test_a_loaded_prompt_predicts(kind: str, tmp_path: Path):
    model = loud(wrapped(kind, **({"dropout": 0.5} if kind == "deep" else {})))
    again = load_prompt(small(), model.save(tmp_path / "a.safetensors"))
    assert not again.training
    assert torch.equal(again(photos()), again(photos()))


@pytest.mark.parametrize("kind", WITH_LOSSES)
def test_losses_of_the_prompt_reach_the_loop_that_the_page_shows(kind: str):
    model = wrapped(kind).train()
    images, labels = photos(6), torch.arange(6) % 3
    model.before_epoch(0, 2)
    plain = nn.functional.cross_entropy(model(images), labels)
    loss = model.with_extra_losses(plain, images, labels)
    assert loss != plain
    loss.backward()
    assert [name for name, _, value in model.trainable() if value.grad is None] == []
    model.after_step()


@pytest.mark.parametrize("kind", [*WITH_LOSSES, "provpt", "deep, pae"])
def test_a_loop_that_leaves_them_out_is_warned_once(kind: str):
    pae = {"pae": {"from_images": False}} if "pae" in kind else {}
    model = wrapped(kind.partition(",")[0], **pae).train()
    nn.functional.cross_entropy(model(photos()), torch.tensor([0, 1])).backward()
    with pytest.warns(UserWarning, match=r"model\.with_extra_losses\(loss, images, labels\)"):
        model.after_step()
    model.after_step()


@pytest.mark.parametrize("kind", ["shallow", "deep", "gated", "vapt", "adapter", "cvpt"])
def test_a_loop_that_needs_neither_is_not_warned(kind: str):
    model = wrapped(kind).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.after_step()


@pytest.mark.parametrize("kind", WITH_LOSSES)
def test_copies_are_taken_between_forward_and_losses(kind: str):
    model = loud(wrapped(kind)).train()
    model(photos(6)).sum().backward()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        close(twin.eval()(photos()), model.eval()(photos()))
    averaged = torch.optim.swa_utils.AveragedModel(model)
    assert averaged.module.prompt is not model.prompt


def test_a_resumed_wrap_is_known_by_the_weights_that_were_loaded(tmp_path: Path):
    model = loud(wrap(small(), "deep", tokens=3)).eval()
    resumed = wrap(small(seed=5), "deep", tokens=3)
    resumed.load_state_dict(model.state_dict())
    again = load_prompt(small(), resumed.save(tmp_path / "a.safetensors"))
    close(again(photos()), model(photos()))
    with pytest.raises(UserError, match="other weights"):
        load_prompt(small(seed=6), tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("net", "names"),
    [
        (lambda: torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=5), {"heads.head"}),
        (lambda: torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [1, 1], [4, 4], num_classes=5), {"head"}),
        (lambda: torchvision.models.squeezenet1_1(num_classes=5), {"classifier.1"}),
    ],
)
def test_classifiers_of_torchvision_learn(net: Any, names: set[str]):
    model = wrap(net(), "pixel", size=3, image_size=32)
    found = {
        name.removeprefix("backbone.net.").rpartition(".")[0] for name, role, _ in model.trainable() if role == "head"
    }
    assert found == names


@pytest.mark.parametrize("kind", ["deep", "gated", "vapt", "tcpa", "adapter"])
def test_programs_take_batches_of_any_size(kind: str):
    model = loud(wrapped(kind)).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (photos(2),), dynamic_shapes=({0: batch},), strict=False)
    close(program.module()(photos(5)), model(photos(5)))


def test_an_empty_batch_has_no_scores():
    assert wrap(small(), "deep", tokens=3).eval()(photos(0)).shape == (0, 3)


@pytest.mark.parametrize("step", ["wrap", "load"])
def test_a_network_that_is_refused_is_as_it_was(step: str, tmp_path: Path):
    file = wrap(small(), "deep", tokens=3).save(tmp_path / "a.safetensors")
    net = small(seed=7).train()
    net.pos_embed.requires_grad_(False)
    with pytest.raises(UserError):
        wrap(net, "deep", layers=[99]) if step == "wrap" else load_prompt(net, file)
    assert [name for name, value in net.named_parameters() if not value.requires_grad] == ["pos_embed"]
    assert all(module.training for module in net.modules())


def test_timm_reads_how_images_are_normalised():
    net = timm.create_model("vit_base_patch16_siglip_224", img_size=32, depth=1, embed_dim=48, num_heads=2)
    model = wrap(net, "deep")
    assert timm.data.resolve_model_data_config(model) == timm.data.resolve_model_data_config(net)
    assert model.num_classes == net.num_classes


@pytest.mark.parametrize("kind", ["vapt", "viapt"])
def test_images_of_another_size_are_refused_by_prompts_of_one_size(kind: str):
    model = wrapped(kind).eval()
    for read in (model, model.grids):
        with pytest.raises(UserError, match="needs images of 32 x 32 pixels"):
            read(photos(2, 48, 48))


def test_labels_in_words_are_refused():
    with pytest.raises(UserError, match="labels must be class indices"):
        wrap(small(), "davpt", images=photos(2), labels=["cat", "dog"])


def test_a_prompt_with_a_tensor_of_the_step_is_copied():
    prompt = build_tokens(Sa2vpPrompt(), Shape(depth=2, width=48, heads=3, patch=(8, 8), grid=(4, 4)))
    prompt._outputs = torch.zeros(1, requires_grad=True) * 2
    assert copy.deepcopy(prompt)._outputs is None


def test_settings_are_given_by_name():
    for wrong in ("digits", {"data": "digits"}):
        with pytest.raises(UserError, match=r"give settings by name, as in vpt\.train\(data='photos'"):
            vpt.train(wrong)  # type: ignore[arg-type]
