"""Artifacts made of other projects' files score as those projects do, or are refused in one sentence."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from tests.helpers import other_projects as foreign
from vpt.cli.main import main
from vpt.inference.predictor import load
from vpt.interop.convert.convert import convert
from vpt.models.artifact import read_artifact
from vpt.utils.errors import UserError

IMAGES = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
NAMES = ["hot dog", "cat", "dump truck", "skyscraper"]
DEPTH, WIDTH, CLASSES = 3, 32, 3
VIT = ["backbone=test_foreign_vit", "backbone.pretrained=false"]
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 48, "layers": 3, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 24, "heads": 3, "layers": 3},
}


def pixels(stats: tuple[Any, Any]) -> Tensor:
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in stats)
    return (IMAGES / 255 - mean) / std


def numbers(*shape: int, seed: int = 7, size: float = 0.5) -> Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def ours(path: Path) -> Tensor:
    """Scores of the artifact, read back from disk."""
    return load(path, device="cpu").model(IMAGES)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert one.std() > 1e-2  # nothing is hidden by scores that are all the same


@pytest.fixture(scope="module", autouse=True)
def foreign_vits() -> None:
    """Three-layer ViTs with random weights under names of their own: one reads its class row, one the mean."""
    from timm.models import register_model
    from timm.models.vision_transformer import VisionTransformer

    def build(pool: str) -> VisionTransformer:
        net = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=WIDTH, depth=DEPTH, num_heads=4, num_classes=0, global_pool=pool
        )
        net.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
        net.default_cfg = net.pretrained_cfg
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.2)
        return net

    def test_foreign_vit(pretrained: bool = False, **_: object) -> VisionTransformer:
        return build("token")

    def test_foreign_mae(pretrained: bool = False, **_: object) -> VisionTransformer:
        return build("avg")

    def test_foreign_classifier(pretrained: bool = False, num_classes: int = 7, **_: object) -> VisionTransformer:
        net = build("token")
        if num_classes:
            net.reset_classifier(num_classes)
            torch.nn.init.normal_(net.head.weight)
        return net

    for builder in (test_foreign_vit, test_foreign_mae, test_foreign_classifier):
        builder.__module__ = "timm.models.vision_transformer"
        register_model(builder)


def vit(name: str = "test_foreign_vit") -> Any:
    """The network as our loader builds it: random weights of seed 0."""
    from vpt.backbones.factory import load_backbone
    from vpt.config import BackboneConfig

    return load_backbone(BackboneConfig(name=name, pretrained=False)).net


def jia_state(deep: int | None, project: int | None = None, tokens: int = 5) -> dict[str, Tensor]:
    """A whole state dict as the original code saves it."""
    state = foreign.jia_names(vit())
    width = project or WIDTH
    state["enc.transformer.prompt_embeddings"] = numbers(1, tokens, width)
    if deep is not None:
        state["enc.transformer.deep_prompt_embeddings"] = numbers(deep, tokens, width, seed=8)
    if project:
        state["enc.transformer.prompt_proj.weight"] = numbers(WIDTH, project, seed=9)
        state["enc.transformer.prompt_proj.bias"] = numbers(WIDTH, seed=10)
    return state | jia_head()


def jia_head() -> dict[str, Tensor]:
    return {"head.last_layer.weight": numbers(CLASSES, WIDTH, seed=11), "head.last_layer.bias": numbers(CLASSES)}


JIA: dict[str, tuple[dict[str, Any], list[str], dict[str, Any]]] = {
    "shallow": ({"deep": None}, [], {}),
    "deep": ({"deep": 2}, [], {}),
    "projected": ({"deep": 2, "project": 6}, [], {}),
    "shallow, projected": ({"deep": None, "project": 6}, [], {}),
    "the first layers": ({"deep": 1}, [], {}),
    "the first layers, then none": ({"deep": 1}, ["prompt.after=drop"], {"after": "drop"}),
    "shared": ({"deep": 2}, ["prompt.shared=true"], {"shared": True}),
}


@pytest.mark.parametrize("case", JIA)
def test_the_original_vpt(tmp_path: Path, case: str):
    made, words, how = JIA[case]
    state = jia_state(**made)
    torch.save({"model": OrderedDict(state), "iteration": 99}, tmp_path / "last_model.pth")
    found = convert([tmp_path / "last_model.pth"], [*VIT, *words], tmp_path / "a.safetensors", ["x", "y", "z"])
    theirs = foreign.jia_logits(state, pixels(IMAGENET), patch=8, heads=4, depth=DEPTH, **how)
    close(ours(found.path), theirs)
    pre = read_artifact(found.path).preprocess
    assert (pre.mean, pre.std, pre.interpolation) == (*IMAGENET, "bilinear")
    assert pre.crop_pct == pytest.approx(224 / 256, abs=0.02)


def test_the_original_vpt_on_mae_reads_the_mean_of_prompts_and_patches(tmp_path: Path):
    """MAE's file has a norm before pooling, which the code drops for one of its own that is never trained."""
    net = vit()
    state = {f"enc.{name}": value for name, value in net.state_dict().items() if not name.startswith("norm.")}
    state |= {"enc.fc_norm.weight": torch.ones(WIDTH), "enc.fc_norm.bias": torch.zeros(WIDTH)}
    for shallow in (True, False):
        state["enc.prompt_embeddings"] = numbers(1, 5, WIDTH)
        deep = numbers(2, 5, WIDTH, seed=8)
        whole = state | jia_head() | ({} if shallow else {"enc.deep_prompt_embeddings": deep})
        torch.save({"model": OrderedDict(whole)}, tmp_path / "mae.pth")
        found = convert([tmp_path / "mae.pth"], VIT, tmp_path / "a.safetensors", ["x", "y", "z"])
        assert read_artifact(found.path).config.head.pool == "mean_then_norm"
        close(ours(found.path), foreign.mae_logits(whole, net, pixels(IMAGENET)))


def test_the_original_vpt_on_mae_with_a_norm_behind_pooling(tmp_path: Path):
    net = vit("test_foreign_mae")
    state = {f"enc.{name}": value for name, value in net.state_dict().items()}
    state |= {"enc.prompt_embeddings": numbers(1, 5, WIDTH), "enc.deep_prompt_embeddings": numbers(2, 5, WIDTH, seed=8)}
    state = {name: value for name, value in state.items() if not name.startswith("enc.norm.")}
    torch.save(state | jia_head(), tmp_path / "mae.pth")
    words = ["backbone=test_foreign_mae", "backbone.pretrained=false"]
    found = convert([tmp_path / "mae.pth"], words, tmp_path / "a.safetensors", ["x", "y", "z"])
    close(ours(found.path), foreign.mae_logits(state | jia_head(), net, pixels(IMAGENET)))
    with pytest.raises(UserError, match="applies the norm before"):
        convert([tmp_path / "mae.pth"], VIT, tmp_path / "b.safetensors", ["x", "y", "z"])


def test_prompts_of_an_epoch_as_numpy_arrays_with_the_head_beside(tmp_path: Path):
    state = jia_state(deep=2)
    shallow, deep = (state[f"enc.transformer.{name}_embeddings"].numpy() for name in ("prompt", "deep_prompt"))
    torch.save({"shallow_prompt": shallow, "deep_prompt": np.asfortranarray(deep)}, tmp_path / "prompt_ep100.pth")
    torch.save({name.replace("last_layer.", ""): value for name, value in jia_head().items()}, tmp_path / "head.pth")
    with pytest.raises(UserError, match="prompts but no head"):
        convert([tmp_path / "prompt_ep100.pth"], VIT, tmp_path / "a.safetensors", ["x", "y", "z"])
    both = [tmp_path / "prompt_ep100.pth", tmp_path / "head.pth"]
    found = convert(both, VIT, tmp_path / "a.safetensors", ["x", "y", "z"])
    close(ours(found.path), foreign.jia_logits(state, pixels(IMAGENET), patch=8, heads=4, depth=DEPTH))
    with pytest.raises(UserError, match="again"):
        convert([*both, tmp_path / "head.pth"], VIT, tmp_path / "a.safetensors", ["x", "y", "z"])


LAYER = "enc.transformer.encoder.layer"
REFUSED: dict[str, tuple[int | None, dict[str, Tensor | None], str]] = {
    "too many layers": (7, {}, "first:8"),
    "another width": (None, {"enc.transformer.prompt_embeddings": numbers(1, 5, 8)}, r"not \(1, 5, 32\)"),
    "other classes": (2, {"head.last_layer.weight": numbers(9, WIDTH)}, r"not \(3, 32\)"),
    "a head of several layers": (2, {"head.projection.0.weight": numbers(4, 4)}, "MLP_NUM"),
    "unknown tensors": (
        2,
        {"enc.transformer.prompt_embeddings_tb": numbers(1, 5)},
        "contains unknown tensors: prompt_embeddings_tb",
    ),
    "biases that learned": (2, {f"{LAYER}.1.attn.key.bias": numbers(WIDTH)}, r"key\.bias' differs"),
    "a class row that learned": (2, {"enc.transformer.embeddings.cls_token": numbers(1, 1, WIDTH)}, "token' differs"),
    "Swin": (2, {"enc.deep_prompt_embeddings_0": numbers(1, 5, 8)}, "Swin"),
    "prompts that overwrite patches": (
        2,
        {"enc.transformer.prompt_embeddings": None},
        "overwrites the first 5 patches",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(tmp_path: Path, case: str):
    deep, others, message = REFUSED[case]
    state = {name: value for name, value in (jia_state(deep) | others).items() if value is not None}
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(UserError, match=message):
        convert([tmp_path / "file.pth"], VIT, tmp_path / "a.safetensors", ["x", "y", "z"])
    assert not (tmp_path / "a.safetensors").exists()


def test_files_of_no_known_project_and_files_that_are_cut(tmp_path: Path):
    torch.save({"weight": numbers(3, 3)}, tmp_path / "file.pth")
    with pytest.raises(UserError, match="unknown checkpoint format"):
        convert([tmp_path / "file.pth"], VIT, tmp_path / "a.safetensors", ["x", "y", "z"])
    cut = {name: value for name, value in jia_state(deep=2).items() if name != "head.last_layer.bias"}
    torch.save(cut, tmp_path / "cut.pth")
    with pytest.raises(UserError, match=r"has no tensor 'head\.last_layer\.bias'"):
        convert([tmp_path / "cut.pth"], VIT, tmp_path / "a.safetensors", ["x", "y", "z"])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[str]]:
    """A small CLIP with weights large enough that a mistake shows, and the settings that name it."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-foreign.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / "tiny-foreign.json")
    torch.manual_seed(3)
    model: Any = open_clip.create_model("tiny-foreign").eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 0:
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "clip.safetensors")
    return model, ["backbone=open_clip:tiny-foreign", f"backbone.weights={folder / 'clip.safetensors'}"]


def learner(model: Any, prefix: str, count: int, names: list[str] = NAMES) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a prompt learner keeps of the names, and the part of it that goes into its file."""
    kept = foreign.texts(model, prefix, names, count, 24)
    return kept, {name: kept[name] for name in ("token_prefix", "token_suffix")}


def width(model: Any) -> int:
    return model.token_embedding.weight.shape[1]


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("own", [False, True], ids=["unified", "class-specific"])
def test_coop(clip: tuple[Any, list[str]], tmp_path: Path, position: str, own: bool):
    model, words = clip
    kept, state = learner(model, "X X X X X", 5)
    state["ctx"] = numbers(*([len(NAMES)] if own else []), 5, width(model))
    torch.save(foreign.dassl(state), tmp_path / "model.pth.tar-50")
    found = convert(
        [tmp_path / "model.pth.tar-50"], [*words, f"prompt.position={position}"], tmp_path / "a.safetensors"
    )
    assert found.classes == tuple(NAMES)
    text = foreign.text_features(model, foreign.placed(kept, state["ctx"], position), kept["ends"])
    close(ours(found.path), foreign.clip_logits(model, foreign.image_features(model.visual, pixels(CLIP)), text))


def test_a_context_from_words_is_learned_whole(clip: tuple[Any, list[str]], tmp_path: Path):
    """CoOp learns every word of CTX_INIT, so nothing of them is left between context and name."""
    model, words = clip
    kept, state = learner(model, "a photo of a", 4)
    state["ctx"] = numbers(4, width(model))
    torch.save(foreign.dassl(state), tmp_path / "model.pth.tar-50")
    found = convert([tmp_path / "model.pth.tar-50"], words, tmp_path / "a.safetensors")
    text = foreign.text_features(model, foreign.placed(kept, state["ctx"]), kept["ends"])
    close(ours(found.path), foreign.clip_logits(model, foreign.image_features(model.visual, pixels(CLIP)), text))


def test_cocoop(clip: tuple[Any, list[str]], tmp_path: Path):
    model, words = clip
    kept, state = learner(model, "a photo of a", 4)
    state |= {
        "ctx": numbers(4, width(model)),
        "meta_net.linear1.weight": numbers(2, 32, seed=1),
        "meta_net.linear1.bias": numbers(2, seed=2),
        "meta_net.linear2.weight": numbers(width(model), 2, seed=3),
        "meta_net.linear2.bias": numbers(width(model), seed=4),
    }
    torch.save(foreign.dassl(state), tmp_path / "model.pth.tar-10")
    found = convert([tmp_path / "model.pth.tar-10"], words, tmp_path / "a.safetensors")
    image = F.normalize(foreign.image_features(model.visual, pixels(CLIP)), dim=-1)
    inner = F.relu(F.linear(image, state["meta_net.linear1.weight"], state["meta_net.linear1.bias"]))
    shifts = F.linear(inner, state["meta_net.linear2.weight"], state["meta_net.linear2.bias"])
    each = [foreign.text_features(model, foreign.placed(kept, state["ctx"] + shift), kept["ends"]) for shift in shifts]
    close(ours(found.path), foreign.clip_logits(model, image, torch.stack(each)))
    assert read_artifact(found.path).config.prompt.kind == "cocoop"


def test_kgcoop_has_a_meta_net_that_its_forward_pass_never_uses(clip: tuple[Any, list[str]], tmp_path: Path):
    model, words = clip
    kept, state = learner(model, "a photo of a", 4)
    state |= {
        "ctx": numbers(4, width(model)),
        "bias_vectors": numbers(1, 512).half(),
        "meta_net.linear1.weight": numbers(512, 512, seed=1),
        "meta_net.linear1.bias": numbers(512, seed=2),
    }
    torch.save(foreign.dassl(state), tmp_path / "model.pth.tar-100")
    found = convert([tmp_path / "model.pth.tar-100"], words, tmp_path / "a.safetensors")
    assert found.prompt == "kgcoop"
    text = foreign.text_features(model, foreign.placed(kept, state["ctx"]), kept["ends"])
    close(ours(found.path), foreign.clip_logits(model, foreign.image_features(model.visual, pixels(CLIP)), text))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("prefix", ["a photo of a", "X X"])
def test_maple(clip: tuple[Any, list[str]], tmp_path: Path, depth: int, prefix: str):
    """With two tokens of four words 'of a' stays between context and name."""
    model, words = clip
    kept, state = learner(model, prefix, 2)
    state |= {"ctx": numbers(2, width(model)), "proj.weight": numbers(48, width(model)), "proj.bias": numbers(48)}
    for layer in range(depth - 1):
        state[f"compound_prompts_text.{layer}"] = numbers(2, width(model), seed=20 + layer)
        state[f"compound_prompt_projections.{layer}.weight"] = numbers(48, width(model), seed=30 + layer)
        state[f"compound_prompt_projections.{layer}.bias"] = numbers(48, seed=40 + layer)
    whole = {f"prompt_learner.{name}": value for name, value in state.items()} | foreign.whole(model)
    torch.save(foreign.dassl(whole), tmp_path / "model.pth.tar-5")
    found = convert([tmp_path / "model.pth.tar-5"], words, tmp_path / "a.safetensors")
    assert found.prompt == "maple"
    deeper = [state[f"compound_prompts_text.{layer}"] for layer in range(depth - 1)]
    maps = [
        [state[f"compound_prompt_projections.{layer}.{part}"] for part in ("weight", "bias")]
        for layer in range(depth - 1)
    ]
    first = F.linear(state["ctx"], state["proj.weight"], state["proj.bias"])
    mapped = [F.linear(rows, *each) for rows, each in zip(deeper, maps, strict=True)]
    text = foreign.text_features(model, foreign.placed(kept, state["ctx"]), kept["ends"], deeper)
    image = foreign.image_features(model.visual, pixels(CLIP), first, mapped)
    close(ours(found.path), foreign.clip_logits(model, image, text))


@pytest.mark.parametrize(("image_depth", "text_depth"), [(3, 3), (1, 2), (2, 1), (0, 2), (2, 0)])
def test_ivlp_promptsrc_and_vpt_in_clip(clip: tuple[Any, list[str]], tmp_path: Path, image_depth: int, text_depth: int):
    model, words = clip
    kept, state = learner(model, "a photo of a", 4)
    state = {f"prompt_learner.{name}": value for name, value in state.items()} | foreign.whole(model)
    context, image_rows = numbers(text_depth, 4, width(model)), numbers(image_depth, 3, 48, seed=5)
    for layer, rows in enumerate(context):
        where = f"text_encoder.transformer.resblocks.{layer}.VPT_shallow" if layer else "prompt_learner.ctx"
        state[where] = rows
    for layer, rows in enumerate(image_rows):
        state[f"image_encoder.{f'transformer.resblocks.{layer}.VPT_shallow' if layer else 'VPT'}"] = rows
    state["prompt_learner.ZS_image_encoder.proj"] = numbers(3, 3)  # PromptSRC's frozen tower
    if not text_depth:
        state = {name: value for name, value in state.items() if "token_" not in name}
    torch.save(foreign.dassl(state), tmp_path / "model.pth.tar-20")
    names = None if text_depth else NAMES
    found = convert([tmp_path / "model.pth.tar-20"], words, tmp_path / "a.safetensors", names)
    first, deeper = (image_rows[0], list(image_rows[1:])) if image_depth else (None, [])
    image = foreign.image_features(model.visual, pixels(CLIP), first, deeper)
    if text_depth:
        rows = foreign.placed(kept, context[0])
    else:
        rows = model.token_embedding(open_clip.get_tokenizer("tiny-foreign")([f"a photo of a {n}." for n in NAMES]))
    text = foreign.text_features(model, rows, kept["ends"], list(context[1:]))
    close(ours(found.path), foreign.clip_logits(model, image, text))
    assert found.classes == tuple(NAMES)


def test_half_precision_files(clip: tuple[Any, list[str]], tmp_path: Path):
    """Their default precision: the context is rounded, names and backbone are still known."""
    model, words = clip
    kept, state = learner(model, "X X X X", 4)
    state["ctx"] = numbers(4, width(model))
    half = {name: value.half() for name, value in (state | foreign.whole(model)).items()}
    torch.save(foreign.dassl(half), tmp_path / "model.pth.tar-50")
    found = convert([tmp_path / "model.pth.tar-50"], words, tmp_path / "a.safetensors")
    text = foreign.text_features(model, foreign.placed(kept, half["ctx"].float()), kept["ends"])
    close(ours(found.path), foreign.clip_logits(model, foreign.image_features(model.visual, pixels(CLIP)), text))


@pytest.mark.parametrize(("epochs", "mean", "std"), [(20, 15, 1), (50, 30, 30)], ids=["base to new", "few shots"])
def test_promptsrc_averages_whole_models_in_half_precision(
    clip: tuple[Any, list[str]], tmp_path: Path, epochs: int, mean: float, std: float
):
    """Towers and embeddings of class names differ from CLIP's by the rounding; its own code reads the names anew."""
    model, words = clip
    kept, state = learner(model, "a photo of a", 4)
    state = {f"prompt_learner.{name}": value for name, value in state.items()} | foreign.whole(model)
    state |= {f"prompt_learner.ZS_{name}": value for name, value in state.items() if name.startswith("image_encoder.")}
    state |= {"prompt_learner.ctx": numbers(4, width(model)), "image_encoder.VPT": numbers(3, 48, seed=5)}
    mean_state = foreign.averaged(state, epochs, mean, std)
    assert not torch.equal(mean_state["prompt_learner.token_suffix"], state["prompt_learner.token_suffix"].half())
    torch.save(foreign.dassl(mean_state), tmp_path / "model.pth.tar-20")
    found = convert([tmp_path / "model.pth.tar-20"], words, tmp_path / "a.safetensors")
    assert found.classes == tuple(NAMES)
    context, rows = (mean_state[name].float() for name in ("prompt_learner.ctx", "image_encoder.VPT"))
    text = foreign.text_features(model, foreign.placed(kept, context), kept["ends"])
    close(ours(found.path), foreign.clip_logits(model, foreign.image_features(model.visual, pixels(CLIP), rows), text))


def test_names_with_digits_and_signs_come_back_whole(clip: tuple[Any, list[str]], tmp_path: Path):
    """CLIP's tokenizer takes digits one by one, so that '737-200' reads '7 3 7 - 2 0 0'."""
    model, words = clip
    names = ["737-200", "DC-10", "2012 audi", "black-footed albatross", "3/4 view", "cat's eye", "fig, ripe"]
    _, state = learner(model, "X X X X", 4, names)
    torch.save(state | {"ctx": numbers(4, width(model))}, tmp_path / "coop.pth")
    found = convert([tmp_path / "coop.pth"], words, tmp_path / "a.safetensors")
    assert found.classes == tuple(name.lower() for name in names)


def test_class_names_are_held_to_the_file(clip: tuple[Any, list[str]], tmp_path: Path):
    model, words = clip
    _, state = learner(model, "X X X X", 4)
    torch.save(state | {"ctx": numbers(4, width(model))}, tmp_path / "coop.pth")

    def converted(names: list[str]) -> tuple[str, ...]:
        return convert([tmp_path / "coop.pth"], words, tmp_path / "a.safetensors", names).classes

    assert converted(["Hot_Dog", *NAMES[1:]])[0] == "Hot_Dog"  # read alike
    with pytest.raises(UserError, match=r"class 'dog' reads 'cat \.' in the file"):
        converted(["hot dog", "dog", *NAMES[2:]])
    with pytest.raises(UserError, match="4 classes, not 2"):
        converted(NAMES[:2])
    with pytest.raises(UserError, match="contains a class twice"):
        converted(["cat", "cat"])


def test_another_clip_is_refused(clip: tuple[Any, list[str]], tmp_path: Path):
    model, words = clip
    _, state = learner(model, "X X X X", 4)
    context = {"ctx": numbers(4, width(model))}
    torch.save(state | context | {"token_suffix": state["token_suffix"] + 0.1}, tmp_path / "tokens.pth")
    with pytest.raises(UserError, match="does not go with the token embeddings of open_clip:tiny-foreign: no token is"):
        convert([tmp_path / "tokens.pth"], words, tmp_path / "a.safetensors")
    tower = foreign.whole(model)
    tower["image_encoder.ln_post.bias"] = tower["image_encoder.ln_post.bias"] + 1
    torch.save(state | context | tower, tmp_path / "tower.pth")
    with pytest.raises(UserError, match=r"ln_post\.bias' differs"):
        convert([tmp_path / "tower.pth"], words, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="needs a CLIP"):
        convert([tmp_path / "tower.pth"], VIT, tmp_path / "a.safetensors")
    torch.save(context, tmp_path / "bare.pth")
    with pytest.raises(UserError, match="does not contain its class names"):
        convert([tmp_path / "bare.pth"], words, tmp_path / "a.safetensors")
    torch.save(context | {"other_vectors": numbers(4)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="contains unknown tensors: other_vectors"):
        convert([tmp_path / "other.pth"], words, tmp_path / "a.safetensors", NAMES)


def frame(size: int = 5) -> dict[str, Tensor]:
    return {
        "pad_up": numbers(1, 3, size, 32, seed=1),
        "pad_down": numbers(1, 3, size, 32, seed=2),
        "pad_left": numbers(1, 3, 32 - 2 * size, size, seed=3),
        "pad_right": numbers(1, 3, 32 - 2 * size, size, seed=4),
    }


def test_padding_prompts_on_clip(clip: tuple[Any, list[str]], tmp_path: Path):
    model, words = clip
    state = frame()
    torch.save({"epoch": 9, "state_dict": state, "best_acc1": torch.tensor(0.5)}, tmp_path / "model_best.pth.tar")
    names = ["T-Shirt", "hot_dog"]
    found = convert([tmp_path / "model_best.pth.tar"], words, tmp_path / "a.safetensors", names)
    assert found.classes == ("t shirt", "hot dog")
    tokens = open_clip.get_tokenizer("tiny-foreign")(["This is a photo of a t shirt", "This is a photo of a hot dog"])
    image = model.encode_image(foreign.padded(state, pixels(CLIP)))
    close(ours(found.path), foreign.clip_logits(model, image, model.encode_text(tokens)))


@pytest.mark.parametrize("shape", ["pad", "patch"])
def test_pixel_prompts_on_a_vision_model_answer_with_its_first_classes(tmp_path: Path, shape: str):
    from vpt.backbones.factory import load_backbone
    from vpt.config import BackboneConfig

    words = ["backbone=test_foreign_classifier", "backbone.pretrained=false"]
    net = load_backbone(BackboneConfig(name="test_foreign_classifier", pretrained=False), classifier=True).net
    state = frame() if shape == "pad" else {"patch": numbers(1, 3, 6, 6)}
    torch.save({"state_dict": state}, tmp_path / "model.pth.tar")
    found = convert([tmp_path / "model.pth.tar"], words, tmp_path / "a.safetensors", ["x", "y", "z"])
    images = pixels(IMAGENET)
    if shape == "patch":
        images[:, :, :6, :6] += state["patch"]
    else:
        images = foreign.padded(state, images)
    with torch.no_grad():
        close(ours(found.path), net(images)[:, :3])
    if shape == "pad":
        with pytest.raises(UserError, match="32 pixels, but test_foreign_classifier takes 64"):
            convert([tmp_path / "model.pth.tar"], [*words, "backbone.image_size=64"], tmp_path / "b", ["x", "y"])


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.save({"model": jia_state(deep=2)}, tmp_path / "last_model.pth")
    (tmp_path / "classes.txt").write_text("x\ny\nz\n")
    out = tmp_path / "a.safetensors"
    words = ["convert", str(tmp_path / "last_model.pth"), *VIT, "--output", str(out)]
    assert main([*words, "--classes", str(tmp_path / "classes.txt")]) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[0] == str(out)
    assert "prompt=deep: 3 classes, x, y, z" in told
    for more, message in (
        ([], "--classes"),
        (["--classes", "nothing"], "no such file"),
        (["--classes", "x"], "--clas"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    assert main(["convert", "backbone=vpt_nano", "--output", str(out)]) == 2
    assert "name the file" in capsys.readouterr().err


def test_a_converted_artifact_predicts_pictures_and_can_be_served(tmp_path: Path, shapes: Path):
    from vpt.inference.bank.bank import Bank

    torch.save(jia_state(deep=2), tmp_path / "model.pth")
    found = convert([tmp_path / "model.pth"], VIT, tmp_path / "a.safetensors", ["x", "y", "z"])
    picture = next((shapes / "test").rglob("*.png"))
    one = load(found.path, device="cpu").predict(picture)[0]
    assert set(one.labels) == {"x", "y", "z"}
    bank = Bank(device="cpu")
    bank.add("old", found.path)
    other = bank.predict([picture], ["old"])[0]
    assert other.top == one.top
    assert other.scores == pytest.approx(one.scores, abs=1e-5)
