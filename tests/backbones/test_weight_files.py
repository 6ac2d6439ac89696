"""Local weight files as the real tools lay them out; each is loaded with the right values, or named as what it is."""

from __future__ import annotations

import argparse
import json
import pickle
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import safetensors.torch
import timm
import torch
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import Tensor, nn

from vpt.backbones.factory import current_name, load_backbone
from vpt.backbones.weight_files import read_weights
from vpt.config import BackboneConfig
from vpt.utils.errors import UserError

State = Mapping[str, Tensor]
NAME = "test_vit_patch8_32"
SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
CFG = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}


@pytest.fixture(scope="module", autouse=True)
def _nets(small_net: None) -> None:
    """Small nets under names of their own: one as DINOv2 with registers is built, one without tensor names of a CLS."""

    def test_dinov2_reg(pretrained: bool = False, num_classes: int = 0, **_: object) -> VisionTransformer:
        return with_cfg(VisionTransformer(**SIZES, num_classes=0, reg_tokens=4, no_embed_class=True, init_values=1e-5))

    def test_deeper(pretrained: bool = False, num_classes: int = 0, **_: object) -> VisionTransformer:
        return with_cfg(VisionTransformer(**{**SIZES, "depth": 3}, num_classes=0))

    def test_coarser(pretrained: bool = False, num_classes: int = 0, **_: object) -> VisionTransformer:
        return with_cfg(VisionTransformer(**{**SIZES, "patch_size": 16}, num_classes=0))

    def test_larger(pretrained: bool = False, num_classes: int = 0, **_: object) -> VisionTransformer:
        return with_cfg(VisionTransformer(**{**SIZES, "img_size": 64}, num_classes=0), 64)

    for builder in (test_dinov2_reg, test_deeper, test_coarser, test_larger):
        builder.__module__ = "timm.models.vision_transformer"
        register_model(builder)


def with_cfg(net: VisionTransformer, size: int = 32) -> VisionTransformer:
    net.pretrained_cfg = net.default_cfg = {**CFG, "input_size": (3, size, size)}
    return net


def make(name: str = NAME, classes: int = 0, seed: int = 3) -> Any:
    torch.manual_seed(seed)
    net = timm.create_model(name, num_classes=classes)
    with torch.no_grad():
        for value in net.parameters():  # biases and scales too, so that no mix-up goes unseen
            value.copy_(torch.randn_like(value) * 0.1)
    return net


def load(path: Path, name: str = NAME) -> Any:
    return load_backbone(BackboneConfig(name=name, weights=path))


def assert_holds(backbone: Any, state: State) -> None:
    found = backbone.net.state_dict()
    assert found
    for name, value in found.items():
        torch.testing.assert_close(value, state[name], msg=name)


def stepped(net: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    """An optimiser and its schedule after a step, so that they hold what real ones hold."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    sum(value.sum() for value in net.parameters()).backward()
    optimizer.step()
    schedule.step()
    return optimizer, schedule


# Trainers


def test_timms_own_trainer(tmp_path: Path):
    """Written by timm's CheckpointSaver, with the arguments that its train.py hands it."""
    net, average = make(classes=7), make(classes=7, seed=4)
    optimizer, _ = stepped(net)
    args = argparse.Namespace(model=NAME, lr=0.1, opt_betas=None, mean=[0.5], drop_path=np.float64(0.1))
    saver = CheckpointSaver(net, optimizer, args=args, checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=np.float64(51.5))
    backbone = load(tmp_path / "last.pth.tar")
    assert_holds(backbone, net.state_dict())
    assert backbone.notes == ()
    ema = ModelEmaV3(net)
    ema.module.load_state_dict(average.state_dict())
    saver = CheckpointSaver(net, optimizer, args=args, model_ema=ema, checkpoint_dir=str(tmp_path / "ema"))
    (tmp_path / "ema").mkdir()
    saver.save_checkpoint(0)
    backbone = load(tmp_path / "ema" / "last.pth.tar")
    assert_holds(backbone, average.state_dict())
    assert "using the averaged weights (state_dict_ema)" in backbone.notes[0]


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda net: torch.compile(nn.DataParallel(net))])
def test_wrapped_modules(tmp_path: Path, wrap: Callable[[nn.Module], Any]):
    net = make(classes=7)
    torch.save(wrap(net).state_dict(), tmp_path / "a.pth")
    assert_holds(load(tmp_path / "a.pth"), net.state_dict())


@pytest.mark.parametrize("zipped", [True, False])
def test_whatever_stands_beside_the_weights(tmp_path: Path, zipped: bool):
    net = make()
    optimizer, schedule = stepped(net)
    beside = {
        "optimizer": optimizer.state_dict(),
        "schedule": schedule,  # an object, with a defaultdict inside
        "args": argparse.Namespace(lr=1, path=Path("x")),
        "config": types.SimpleNamespace(a=1),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "random": torch.get_rng_state(),
        "best": np.float32(0.5),
        "epoch": 3,
    }
    torch.save({"model": net.state_dict(), **beside}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert_holds(load(tmp_path / "a.pth"), net.state_dict())


def test_lightning(tmp_path: Path):
    net = make()
    state = {f"model.backbone.{name}": value for name, value in net.state_dict().items()}
    state["model.head.weight"] = torch.zeros(2, 32)
    state["criterion.weight"] = torch.zeros(2)
    tree = {"state_dict": state, "pytorch-lightning_version": "2.4", "hyper_parameters": {"lr": 1}, "loops": {}}
    torch.save(tree, tmp_path / "a.ckpt")
    backbone = load(tmp_path / "a.ckpt")
    assert_holds(backbone, net.state_dict())
    assert backbone.notes[0].endswith("2 tensors outside the backbone are not loaded (criterion, model)")


def test_dino_with_teacher_and_student(tmp_path: Path):
    """As main_dino.py saves it: a student in DDP, a teacher without, each with a projection head."""
    student, teacher = make(seed=5), make(seed=6)
    head = {"mlp.0.weight": torch.zeros(8, 32), "last_layer.weight_v": torch.zeros(8, 8)}

    def whole(net: nn.Module, prefix: str) -> dict[str, Tensor]:
        parts = {f"backbone.{name}": value for name, value in net.state_dict().items()}
        return {f"{prefix}{name}": value for name, value in (parts | {f"head.{k}": v for k, v in head.items()}).items()}

    optimizer, _ = stepped(student)
    tree = {
        "student": whole(student, "module."),
        "teacher": whole(teacher, ""),
        "optimizer": optimizer.state_dict(),
        "epoch": 1,
        "args": argparse.Namespace(arch="vit_small"),
        "dino_loss": {"center": torch.zeros(1, 8)},
    }
    torch.save(tree, tmp_path / "checkpoint.pth")
    backbone = load(tmp_path / "checkpoint.pth")
    assert_holds(backbone, teacher.state_dict())
    assert "2 tensors outside the backbone are not loaded (head)" in backbone.notes[0]


def test_mae_with_its_decoder(tmp_path: Path):
    net = make()
    decoder = {"decoder_embed.weight": torch.zeros(16, 32), "decoder_blocks.0.norm1.weight": torch.zeros(16)}
    decoder |= {"mask_token": torch.zeros(1, 1, 16), "decoder_pos_embed": torch.zeros(1, 17, 16)}
    torch.save({"model": {**net.state_dict(), **decoder}}, tmp_path / "mae.pth")
    assert_holds(load(tmp_path / "mae.pth"), net.state_dict())


def test_moco_v3(tmp_path: Path):
    base, momentum = make(seed=7), make(seed=8)
    state = {f"module.base_encoder.{name}": value for name, value in base.state_dict().items()}
    state |= {f"module.momentum_encoder.{name}": value for name, value in momentum.state_dict().items()}
    state |= {"module.base_encoder.head.0.weight": torch.zeros(4, 32), "module.predictor.0.weight": torch.zeros(4, 4)}
    optimizer, _ = stepped(base)
    tree = {"epoch": 1, "arch": "vit_small", "state_dict": state, "optimizer": optimizer.state_dict(), "scaler": {}}
    torch.save(tree, tmp_path / "vit-s-300ep.pth.tar")
    assert_holds(load(tmp_path / "vit-s-300ep.pth.tar"), base.state_dict())


def test_moco(tmp_path: Path):
    query, key = make(seed=7), make(seed=8)
    state = {f"module.encoder_k.{name}": value for name, value in key.state_dict().items()}
    state |= {f"module.encoder_q.{name}": value for name, value in query.state_dict().items()}
    state["module.queue"] = torch.zeros(4, 8)
    torch.save({"state_dict": state}, tmp_path / "moco.pth.tar")
    assert_holds(load(tmp_path / "moco.pth.tar"), query.state_dict())


def test_dinov2s_own_file(tmp_path: Path):
    net = make()
    torch.save({**net.state_dict(), "mask_token": torch.zeros(1, 32)}, tmp_path / "dinov2_pretrain.pth")
    assert_holds(load(tmp_path / "dinov2_pretrain.pth"), net.state_dict())


def test_dinov2s_own_file_with_registers(tmp_path: Path):
    """There the class token has a position embedding, which timm adds to it."""
    net = make("test_dinov2_reg")
    mine = dict(net.state_dict())
    place = torch.randn(1, 1, 32)
    theirs = {name: value for name, value in mine.items() if name not in ("reg_token", "cls_token", "pos_embed")}
    theirs["register_tokens"], theirs["cls_token"] = mine["reg_token"], mine["cls_token"] - place
    theirs["pos_embed"] = torch.cat([place, mine["pos_embed"]], dim=1)
    theirs["mask_token"] = torch.zeros(1, 32)
    torch.save(theirs, tmp_path / "reg.pth")
    backbone = load(tmp_path / "reg.pth", "test_dinov2_reg")
    assert_holds(backbone, mine)
    assert backbone.notes == ()


def test_layers_that_timm_has_removed(tmp_path: Path):
    net = make()
    old = {**net.state_dict(), "pre_logits.fc.weight": torch.zeros(32, 32), "pre_logits.fc.bias": torch.zeros(32)}
    torch.save(old, tmp_path / "a.pth")
    assert_holds(load(tmp_path / "a.pth"), net.state_dict())


def test_the_embedded_backbone_takes_a_file_too(tmp_path: Path):
    usual = load_backbone(BackboneConfig(name="vpt_nano"))
    torch.save({"state_dict": {f"module.{n}": v for n, v in usual.net.state_dict().items()}}, tmp_path / "nano.pth")
    assert load(tmp_path / "nano.pth", "vpt_nano").fingerprint == usual.fingerprint


# Hubs


def test_safetensors_whatever_the_file_is_called(tmp_path: Path):
    net = make()
    safetensors.torch.save_file(net.state_dict(), tmp_path / "pytorch_model.bin", {"format": "pt"})
    assert_holds(load(tmp_path / "pytorch_model.bin"), net.state_dict())


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards(tmp_path: Path, suffix: str):
    net = make()
    state = net.state_dict()
    shards: list[dict[str, Tensor]] = [{}, {}]
    for at, (name, value) in enumerate(state.items()):
        shards[at % 2][name] = value
    places = {}
    for number, shard in enumerate(shards):
        file = f"model-0000{number + 1}-of-00002.{suffix}"
        (safetensors.torch.save_file if suffix == "safetensors" else torch.save)(shard, tmp_path / file)
        places |= dict.fromkeys(shard, file)
    index = tmp_path / f"model.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    assert_holds(load(index), state)
    (tmp_path / f"model-00002-of-00002.{suffix}").unlink()
    with pytest.raises(UserError, match=r"names the shard model-00002-of-00002.*not next to it"):
        load(index)
    index.write_text(json.dumps({"weight_map": {"a": "../secret.bin"}}))
    with pytest.raises(UserError, match="shards must be in its own folder"):
        load(index)
    index.write_text(json.dumps({"weight_map": {**places, "lost": f"model-00001-of-00002.{suffix}"}}))
    torch.save(shards[1], tmp_path / f"model-00002-of-00002.{suffix}") if suffix == "bin" else (
        safetensors.torch.save_file(shards[1], tmp_path / f"model-00002-of-00002.{suffix}")
    )
    with pytest.raises(UserError, match=r"its shards are missing 1 of \d+ tensors, such as lost"):
        load(index)


def augreg(net: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """A net's weights as Google's "How to train your ViT" has them: (in, heads, width) for queries, keys and values."""
    state = {name: value.numpy() for name, value in net.state_dict().items()}
    found = {
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": np.zeros((32, 21843), np.float32),
        "head/bias": np.zeros(21843, np.float32),
        "pre_logits/kernel": np.zeros((32, 32), np.float32),
        "pre_logits/bias": np.zeros(32, np.float32),
    }
    heads = SIZES["num_heads"]
    for layer in range(len(net.blocks)):
        block, mine = f"Transformer/encoderblock_{layer}", f"blocks.{layer}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        weights, biases = (np.split(state[f"{mine}.attn.qkv.{part}"], 3) for part in ("weight", "bias"))
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            found[f"{attention}/{name}/kernel"] = weight.T.reshape(32, heads, -1)
            found[f"{attention}/{name}/bias"] = bias.reshape(heads, -1)
        found[f"{attention}/out/kernel"] = state[f"{mine}.attn.proj.weight"].T.reshape(heads, -1, 32)
        found[f"{attention}/out/bias"] = state[f"{mine}.attn.proj.bias"]
        for theirs, ours in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            found[f"{block}/{theirs}/scale"] = state[f"{mine}.{ours}.weight"]
            found[f"{block}/{theirs}/bias"] = state[f"{mine}.{ours}.bias"]
        for number in range(2):
            found[f"{block}/MlpBlock_3/Dense_{number}/kernel"] = state[f"{mine}.mlp.fc{number + 1}.weight"].T
            found[f"{block}/MlpBlock_3/Dense_{number}/bias"] = state[f"{mine}.mlp.fc{number + 1}.bias"]
    return {f"{prefix}{name}": value for name, value in found.items()}


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_googles_numpy_files(tmp_path: Path, prefix: str, save: Callable[..., None]):
    net = make()
    arrays = augreg(net, prefix)
    if prefix:
        arrays["opt/state/step"] = np.zeros(5)
    save(tmp_path / "S_16.npz", **arrays)
    assert_holds(load(tmp_path / "S_16.npz"), net.state_dict())


def test_numpy_files_that_do_not_fit(tmp_path: Path):
    arrays = augreg(make("test_deeper"))
    np.savez(tmp_path / "deep.npz", **arrays)
    with pytest.raises(
        UserError, match=r"does not fit test_vit_patch8_32: it has [\d,]+ parameters, the network [\d,]+"
    ):
        load(tmp_path / "deep.npz")
    np.savez(tmp_path / "coarse.npz", **augreg(make("test_coarser")))
    with pytest.raises(UserError, match="its patch size is 16 x 16 pixels, not 8 x 8"):
        load(tmp_path / "coarse.npz")
    swapped = augreg(make())
    swapped["Transformer/encoderblock_0/LayerNorm_1/bias"] = swapped.pop("Transformer/encoderblock_0/LayerNorm_2/bias")
    np.savez(tmp_path / "swapped.npz", **swapped)
    with pytest.raises(UserError, match="LayerNorm_2/bias"):
        load(tmp_path / "swapped.npz")
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="not an array of numbers"):
        load(tmp_path / "objects.npz")


def test_numpy_files_of_another_size_are_told(tmp_path: Path):
    np.savez(tmp_path / "large.npz", **augreg(make("test_larger")))
    backbone = load(tmp_path / "large.npz")
    assert (
        "trained at another image size: its position embeddings for 65 tokens were resampled to 17" in backbone.notes[0]
    )


# What does not fit, and what is something else


def test_a_file_for_another_size_is_resampled_as_timm_does_it(tmp_path: Path):
    large = make("test_larger")
    torch.save(large.state_dict(), tmp_path / "large.pth")
    backbone = load(tmp_path / "large.pth")
    assert "its position embeddings for 65 tokens were resampled to 17" in backbone.notes[0]
    theirs = timm.create_model(NAME)
    timm.models.load_checkpoint(
        theirs, str(tmp_path / "large.pth"), filter_fn=timm.models.vision_transformer.checkpoint_filter_fn
    )
    assert_holds(backbone, theirs.state_dict())


def test_a_file_with_other_patches_is_refused(tmp_path: Path):
    torch.save(make("test_coarser").state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match="its patch size is 16 x 16 pixels, not 8 x 8; name the architecture"):
        load(tmp_path / "a.pth")


def test_the_difference_is_told(tmp_path: Path):
    state = dict(make("test_deeper").state_dict())
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(
        UserError, match=r"\(\+ unknown 12: blocks.2.attn.proj.bias, .*, \.\.\.\): name the architecture"
    ):
        load(tmp_path / "a.pth")
    del state["norm.bias"], state["cls_token"]
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"- missing 2: cls_token, norm.bias; \+ unknown 12: "):
        load(tmp_path / "a.pth")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path):
    state = dict(make().state_dict())
    state["norm.bias"] = torch.full((32,), torch.nan)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"contains NaN or infinite values in 1: norm\.bias"):
        load(tmp_path / "a.pth")


def test_a_torchscript_archive_is_named(tmp_path: Path):
    with pytest.warns(FutureWarning, match=r"torch\.jit"):
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "ViT-B-32.pt")
    with pytest.raises(
        UserError, match=r"is a TorchScript archive.*OpenAI.*torch\.jit\.load.*backbone\.pretrained=openai"
    ):
        read_weights(tmp_path / "ViT-B-32.pt")


@pytest.mark.parametrize("tree", [lambda net: net, lambda net: {"model": net, "epoch": 1}])
def test_a_whole_module_is_named(tmp_path: Path, tree: Callable[[nn.Module], Any]):
    torch.save(tree(make()), tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"whole object \(timm.*VisionTransformer\).*model\.state_dict\(\)"):
        read_weights(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html>\n<html>404", "is a web page"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1f\x8b\x08", "is an archive; unpack it"),
        (b"PK\x03\x04 cut short", "damaged or truncated"),
        (b"hello, I am no weights at all", "damaged, or was not written by torch.save"),
        (pickle.dumps({"a": 1}), "damaged, or was not written by torch.save"),
    ],
)
def test_what_holds_no_weights_is_named(tmp_path: Path, content: bytes, told: str):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError, match=told):
        read_weights(tmp_path / "a.pth")


def test_files_cut_short_are_named(tmp_path: Path):
    net = make()
    torch.save(net.state_dict(), tmp_path / "a.pth")
    safetensors.torch.save_file(net.state_dict(), tmp_path / "b.safetensors")
    np.savez(tmp_path / "c.npz", **augreg(net))
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match="damaged"):
            load(file)


def test_a_checkpoint_without_weights_tells_its_keys(tmp_path: Path):
    torch.save({"epoch": 1, "optimizer": {}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"contains no named weights: its keys are epoch, optimizer"):
        load(tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"is a folder without model\.safetensors; give the file in it"):
        load(tmp_path)


def test_openais_clip_needs_its_activation(tmp_path: Path):
    """Its files hold three numbers beside the weights; open_clip's plain variants compute another activation."""
    sides = {
        "embed_dim": 16,
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    sides["vision_cfg"] = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
    for name, more in (("tiny-openai", {}), ("tiny-openai-quickgelu", {"quick_gelu": True})):
        (tmp_path / f"{name}.json").write_text(json.dumps(sides | more))
        open_clip.add_model_config(tmp_path / f"{name}.json")
    torch.manual_seed(0)
    clip = open_clip.create_model("tiny-openai-quickgelu", pretrained=None)
    numbers = {
        "input_resolution": torch.tensor(32),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    torch.save({**clip.half().state_dict(), **numbers}, tmp_path / "openai.pth")
    for text in (True, False):
        config = BackboneConfig(name="open_clip:tiny-openai-quickgelu", weights=tmp_path / "openai.pth")
        assert_holds(load_backbone(config, text=text), clip.float().visual.state_dict())
    with pytest.raises(UserError, match=r"trained with QuickGELU.*set backbone=open_clip:tiny-openai-quickgelu"):
        load_backbone(BackboneConfig(name="open_clip:tiny-openai", weights=tmp_path / "openai.pth"))


# Names


def test_timms_old_names_are_its_new_ones():
    config = BackboneConfig(name="vit_tiny_patch16_224_in21k", pretrained=False)
    backbone = load_backbone(config)
    assert backbone.name == "vit_tiny_patch16_224.augreg_in21k"
    assert "timm has renamed vit_tiny_patch16_224_in21k to vit_tiny_patch16_224.augreg_in21k" in backbone.notes[0]
    assert backbone.preprocess.mean == (0.5, 0.5, 0.5)  # that of these weights


def test_every_old_name_is_known_or_told():
    from timm.models._registry import _deprecated_models

    assert len(_deprecated_models) > 100
    for name, new in _deprecated_models.items():
        config = BackboneConfig(name=name)
        if new is None:
            with pytest.raises(UserError, match=f"timm .* has removed {name}"):
                current_name(config)
        else:
            assert timm.is_model(current_name(config)[0].name.split(".")[0])


def test_an_old_name_asks_for_the_weights_it_had(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def remember(name: str, pretrained: bool, **_: object) -> None:
        asked.append((name, pretrained))
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", remember)
    with pytest.raises(
        UserError, match=r"Could not download the weights of vit_base_patch16_224.augreg_in21k .*has renamed vit_b"
    ):
        load_backbone(BackboneConfig(name="vit_base_patch16_224_in21k"))
    assert asked == [("vit_base_patch16_224.augreg_in21k", True)]


def test_tags_that_do_not_exist_are_told():
    with pytest.raises(
        UserError, match=r"no weights for vit_base_patch16_224\.augreg_in22k; did you mean 'augreg_in21k'"
    ):
        load_backbone(BackboneConfig(name="vit_base_patch16_224.augreg_in22k"))
    with pytest.raises(UserError, match=r"is for open_clip; .*backbone=vit_base_patch16_224\.augreg_in21k"):
        load_backbone(BackboneConfig(name="vit_base_patch16_224", pretrained="augreg_in21k"))
