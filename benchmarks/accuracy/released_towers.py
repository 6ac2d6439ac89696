"""Compares released prompt methods for image towers with ours, on one small ViT with the same weights. See released.py.

Each function here runs a released module from its checkout, copies its weights and prompts over, and compares.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from vpt.backbones.backbone import Backbone, Pool
from vpt.backbones.liveness import plan
from vpt.config import load_config
from vpt.data.normalization import Preprocess
from vpt.prompts.base import Shape
from vpt.prompts.pixel.prompt import PixelPrompts
from vpt.prompts.registry import build_tokens

SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 3}
SIZE, PATCH, TOKENS = 224, 16, 100  # the grid of 14 by 14 is fixed in VAPT's code
Pairs = list[tuple[list[nn.Parameter], nn.Parameter]]  # parameters of theirs that are one of ours, in its order
Run = Callable[[Tensor], Tensor]


def main() -> None:
    """python -m benchmarks.accuracy.released_towers METHOD CHECKOUT: one line of JSON."""
    sys.stdout, out = sys.stderr, sys.stdout
    for name in ("termcolor", "simplejson", "torchsummaryX", "wandb"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["termcolor"].colored = lambda text, *_, **__: text
    sys.modules["torchsummaryX"].summary = None
    torch.manual_seed(0)
    found = COMPARED[sys.argv[1]](Path(sys.argv[2]))
    print(json.dumps(found), file=out)


def compared(
    theirs: Run, released: nn.Module, words: list[str], pool: Pool, weights: Any, pairing: Any
) -> dict[str, Any]:
    """Copy weights and prompts, and return the largest differences, relative to the largest released value.

    Args:
        theirs: images to features.
        released: the module that is run.
        words: our settings.
        pool: what our head reads.
        weights: of `released`, by timm's names.
        pairing: of the released module and our prompts.
    """
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0, **SMALL).eval().requires_grad_(False)
    backbone = Backbone(net, "timm", "small", Preprocess(size=SIZE), fingerprint="test")
    assert backbone.tower is not None
    prompt = build_tokens(load_config(overrides=words).prompt, Shape.of(backbone.tower)).eval()
    pairs: Pairs = pairing(released, prompt)
    start = starts_apart((own.data, joined([one.data for one in their])) for their, own in pairs)
    with torch.no_grad():
        for name, value in released.named_parameters():
            if "fc_norm" not in name and "mask" not in name:  # which stay as they are
                value.add_(0.05 * torch.randn_like(value))
        for their, own in pairs:
            own.copy_(joined([one.data for one in their]).view_as(own))
    missing = net.load_state_dict(weights(released), strict=True)
    assert not missing.missing_keys
    steps = plan(SMALL["depth"], prompt.inserted, prompt.after, backbone.reads(pool))
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    mine = backbone.features(images, steps, pool, prompt.layers(backbone.tower, steps, len(images)))
    expected = theirs(images)
    direction = torch.randn(mine.shape, generator=torch.Generator().manual_seed(2))
    for result in (mine, expected):
        (result * direction).sum().backward()
    return {
        "outputs": apart(mine, expected),
        "gradients": max(apart(own.grad.flatten(), joined([one.grad for one in their])) for their, own in pairs),
        "parameters": {
            "theirs": sum(one.numel() for their, _ in pairs for one in their),
            "ours": sum(one.numel() for one in prompt.parameters() if one.requires_grad),
        },
        "start": start,
    }


def joined(tensors: list[Any]) -> Tensor:
    """One after the other."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def apart(mine: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((mine - theirs).detach().abs().max() / theirs.detach().abs().max())


def starts_apart(starts: Iterable[tuple[Tensor, Tensor]]) -> float | None:
    """Largest difference of the standard deviations at initialisation, relative to the released one. Constants must be
    equal; groups of only a few random values are skipped."""
    found = []
    for mine, theirs in starts:
        mine, theirs = mine.detach().flatten(), theirs.detach().flatten()
        few = len(theirs) < 1000 and mine.std() > 0 and theirs.std() > 0
        if torch.equal(mine, theirs):
            found.append(0.0)
        elif not few:
            found.append(float((mine.std() - theirs.std()).abs() / theirs.std()))
    return max(found, default=None)


# --- the ViT of github.com/KMnP/vpt, and what was built on it


def kmnp(root: Path) -> Any:
    """The configuration of a repository that was built on VPT's code, its ViT-B/16 made small."""
    sys.path.insert(0, str(root))
    configs = importlib.import_module("src.configs.vit_configs")
    usual = configs.get_b16_config

    def small() -> Any:
        config = usual()
        config.hidden_size = SMALL["embed_dim"]
        config.transformer.mlp_dim, config.transformer.num_heads = 4 * SMALL["embed_dim"], SMALL["num_heads"]
        config.transformer.num_layers = SMALL["depth"]
        return config

    configs.get_b16_config = small
    return importlib.import_module("src.configs.config").get_cfg().MODEL


def on_kmnp(module: str, name: str, section: Any, words: list[str], pairing: Any) -> dict[str, Any]:
    """A prompted ViT on VPT's own."""
    found = getattr(importlib.import_module(f"src.models.vit_prompt.{module}"), name)
    net = found(section, "sup_vitb16_imagenet21k", img_size=SIZE, num_classes=10).eval().transformer
    return compared(lambda images: net(images)[0][:, 0], net, words, "native", from_kmnp, pairing)


def from_kmnp(net: nn.Module) -> dict[str, Tensor]:
    """The weights of VPT's ViT by timm's names."""
    state = net.state_dict()
    found = {
        "cls_token": state["embeddings.cls_token"],
        "pos_embed": state["embeddings.position_embeddings"],
    }
    kinds = ("weight", "bias")
    for kind in kinds:
        found[f"patch_embed.proj.{kind}"] = state[f"embeddings.patch_embeddings.{kind}"]
        found[f"norm.{kind}"] = state[f"encoder.encoder_norm.{kind}"]
    names = {"norm1": "attention_norm", "norm2": "ffn_norm", "attn.proj": "attn.out"}
    names |= {"mlp.fc1": "ffn.fc1", "mlp.fc2": "ffn.fc2"}
    for layer in range(SMALL["depth"]):
        start = f"encoder.layer.{layer}."
        for kind in kinds:
            for mine, theirs in names.items():
                found[f"blocks.{layer}.{mine}.{kind}"] = state[f"{start}{theirs}.{kind}"]
            parts = [state[f"{start}attn.{part}.{kind}"] for part in ("query", "key", "value")]
            found[f"blocks.{layer}.attn.qkv.{kind}"] = torch.cat(parts)
    return found


def tokens(theirs: Any, prompt: Any) -> Pairs:
    """Prompts of VPT and of repositories that use its names."""
    deep = [theirs.deep_prompt_embeddings] if hasattr(theirs, "deep_prompt_embeddings") else []
    pairs: Pairs = [([theirs.prompt_embeddings, *deep], prompt.tokens)]
    if isinstance(theirs.prompt_proj, nn.Linear):
        pairs += [([theirs.prompt_proj.weight], prompt.project.weight)]
        pairs += [([theirs.prompt_proj.bias], prompt.project.bias)]
    return pairs


def vpt(deep: bool, project: int = -1) -> Callable[[Path], dict[str, Any]]:
    """VPT-shallow, VPT-deep, and tokens in a bottleneck."""

    def run(root: Path) -> dict[str, Any]:
        section = kmnp(root).PROMPT
        section.NUM_TOKENS, section.DEEP, section.PROJECT = TOKENS, deep, project
        words = [f"prompt={'deep' if deep else 'shallow'}", f"prompt.tokens={TOKENS}"]
        words += [f"prompt.project={project}"] if project > 0 else []
        return on_kmnp("vit", "PromptedVisionTransformer", section, words, tokens)

    return run


def vpt_on_mae(root: Path) -> dict[str, Any]:
    """The mean of prompts and patches before a fresh norm."""
    section = kmnp(root).PROMPT
    section.NUM_TOKENS, section.DEEP = TOKENS, True
    module = importlib.import_module("src.models.vit_prompt.vit_mae")
    net = module.PromptedVisionTransformer(section, drop_path_rate=0.0, global_pool=True, **like_timm())
    net.eval()  # which returns nothing there

    def weights(theirs: Any) -> dict[str, Tensor]:
        return timm_names(theirs, {"norm.weight": torch.randn(48), "norm.bias": torch.randn(48)})  # which it drops

    def pairing(theirs: Any, prompt: Any) -> Pairs:
        return [([theirs.prompt_embeddings, theirs.deep_prompt_embeddings], prompt.tokens)]

    words = ["prompt=deep", f"prompt.tokens={TOKENS}"]
    return compared(net.forward_features, net, words, "mean_then_norm", weights, pairing)


def vfpt(root: Path) -> dict[str, Any]:
    section = kmnp(root).PROMPT_FOURIER
    section.NUM_TOKENS, section.DEEP = TOKENS, True
    section.FOURIER_HALF = "none"  # read by the code, in no configuration
    words = ["prompt=vfpt", f"prompt.tokens={TOKENS}", "prompt.fourier=0.5"]
    return on_kmnp("vit_fourier", "PromptedVisionTransformer_Fourier", section, words, tokens)


def e2vpt(pruned: int) -> Callable[[Path], dict[str, Any]]:
    """Tokens and key-value prompts, with some tokens masked in all layers."""

    def run(root: Path) -> dict[str, Any]:
        section = kmnp(root).P_VK
        section.NUM_TOKENS_P, section.NUM_TOKENS, section.MASK_CLS_TOKEN, section.QUERY_PROMPT_MODE = TOKENS, 5, True, 0

        def pairing(theirs: Any, prompt: Any) -> Pairs:
            theirs.mask_soft_tokens(range(pruned))
            prompt.token_mask[:pruned] = 0
            held = [layer.attn.deep_QKV_embeddings for layer in theirs.encoder.layer]
            return [*tokens(theirs, prompt), (held, prompt.keys_values)]

        words = ["prompt=e2vpt", f"prompt.tokens={TOKENS}", "prompt.kv_tokens=5", "prompt.share_kv=true"]
        return on_kmnp("vit_prompt_VK", "PromptedVisionTransformer_Prompt_VK", section, words, pairing)

    return run


def vapt(root: Path) -> dict[str, Any]:
    section = kmnp(root).PROMPT
    section.NUM_TOKENS, section.DEEP, section.ADAPTIVE = TOKENS, True, True
    section.FEAT_PROJECTOR, section.SHARE_PROJECTOR, section.HIDDEN_DIM, section.CONV = True, True, 8, True
    section.KERNEL, section.PADDING, section.CHANNELWISE, section.VPT_DEPTH = 2, 0, True, 1

    def pairing(theirs: Any, prompt: Any) -> Pairs:
        shared = theirs.deep_prompt_embeddings_mlp.block
        pairs: Pairs = [([theirs.prompt_embeddings], prompt.tokens)]
        pairs += [([shared[0].weight], prompt.down.weight), ([shared[2].weight], prompt.up.weight)]
        for own, norm, down in zip(
            prompt.adapters, theirs.deep_prompt_norm, theirs.deep_prompt_downsample, strict=True
        ):
            pairs += [([norm.weight], own.norm.weight), ([norm.bias], own.norm.bias), ([down.conv.kernel], own.kernel)]
            pairs += [([down.linear.weight], own.tokens.weight), ([down.linear.bias], own.tokens.bias)]
        return pairs

    words = ["prompt=vapt", f"prompt.tokens={TOKENS}", "prompt.bottleneck=8", "prompt.kernel=2"]
    return on_kmnp("vit", "PromptedVisionTransformer", section, words, pairing)


# --- ViTs with timm's names


def timm_names(net: nn.Module, more: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Those of timm's own weights."""
    wanted = timm.create_model("vit_tiny_patch16_224", num_classes=0, **SMALL).state_dict()
    state = {**net.state_dict(), **(more or {})}
    return {name: state[name] for name in wanted}


def like_timm() -> dict[str, Any]:
    """What the released classes are built with."""
    import functools

    return {
        **SMALL, "patch_size": PATCH, "mlp_ratio": 4, "qkv_bias": True, "num_classes": 10,
        "norm_layer": functools.partial(nn.LayerNorm, eps=1e-6),
    }  # fmt: skip


def cvpt(root: Path) -> dict[str, Any]:
    sys.path.insert(0, str(root))
    net = importlib.import_module("CVPT").CVPT(**like_timm(), Prompt_num=TOKENS, insert=3).eval()

    def weights(theirs: Any) -> dict[str, Tensor]:
        with torch.no_grad():  # as its training does with the pretrained weights
            for block in theirs.blocks:
                cross = block.CrossAttn
                for kind in ("weight", "bias"):
                    for part, value in zip(
                        (cross.q, cross.k, cross.v), getattr(block.attn.qkv, kind).chunk(3), strict=True
                    ):
                        getattr(part, kind).copy_(value)
                    getattr(cross.proj, kind).copy_(getattr(block.attn.proj, kind))
        return timm_names(theirs)

    words = ["prompt=cvpt", f"prompt.tokens={TOKENS}"]
    return compared(
        net.forward_features, net, words, "native", weights, lambda theirs, own: [([theirs.Prompt_Tokens], own.tokens)]
    )


def gated(root: Path) -> dict[str, Any]:
    sys.path.insert(0, str(root))
    section = importlib.import_module("src.configs.config").get_cfg().MODEL.PROMPT
    section.NUM_TOKENS, section.DEEP, section.GATE_PRIOR, section.GATE_INIT = TOKENS, False, True, 5
    section.GATE_NUM, section.TEMP_LEARN, section.TEMP_NUM = SMALL["depth"] - 1, True, SMALL["depth"]
    section.VIT_POOL_TYPE = "imgprompt_pool"
    module = importlib.import_module("src.models.vit_prompt.vit_mae")
    net = module.PromptedVisionTransformer(section, drop_path_rate=0.0, **like_timm())
    net.eval()  # which returns nothing there

    def pairing(theirs: Any, prompt: Any) -> Pairs:
        pairs = [([theirs.prompt_embeddings], prompt.tokens), ([theirs.gate_logit], prompt.gates)]
        return [*pairs, ([theirs.temp], prompt.temperatures)]

    words = ["prompt=gated", f"prompt.tokens={TOKENS}", "prompt.gate=5"]
    return compared(net.forward_features, net, words, "mean_then_own_norm", timm_names, pairing)


def spt(root: Path) -> dict[str, Any]:
    sys.path.insert(0, str(root))
    module = importlib.import_module("Models.MAE_vpt_deep")
    start = torch.randn(SMALL["depth"], TOKENS, SMALL["embed_dim"])
    net = module.PromptVisionTransformer(num_prompts=TOKENS, prompt_init=start, **like_timm()).eval()
    words = ["prompt=deep", f"prompt.tokens={TOKENS}"]
    found = compared(
        net.forward_features, net, words, "mean_then_own_norm", timm_names,
        lambda theirs, own: [([theirs.prompt_token], own.tokens)],
    )  # fmt: skip
    return {**found, "start": None}


def bpt(root: Path) -> dict[str, Any]:
    sys.path.insert(0, str(root))
    module = importlib.import_module("Models.MAE_bpt_shallow")
    net = module.PromptVisionTransformer(num_prompts=TOKENS, channels=25, whitening=False, **like_timm()).eval()
    words = ["prompt=bpt", f"prompt.tokens={TOKENS}", "prompt.rank=25"]
    return compared(
        net.forward_features, net, words, "mean_then_own_norm", timm_names,
        lambda theirs, own: [([theirs.random_vectors], own.left), ([theirs.conv1x1.weight], own.right)],
    )  # fmt: skip


def frame(root: Path) -> dict[str, Any]:
    """The frame of Bahng et al., on images that are normalised already."""
    sys.path.insert(0, str(root))
    torch.Tensor.cuda = lambda self, *_, **__: self
    prompters = importlib.import_module("models.prompters")
    theirs = prompters.padding(types.SimpleNamespace(prompt_size=30, image_size=SIZE))
    words = ["prompt=pixel", "prompt.size=30", "prompt.space=normalised", "prompt.init=normal"]
    prompt = PixelPrompts(load_config(overrides=words).prompt, SIZE)
    sides = [theirs.pad_up, theirs.pad_down, theirs.pad_left, theirs.pad_right]

    def ours(values: list[Any]) -> Tensor:
        """Row by row, as ours are."""
        up, down, left, right = (value.detach()[0] for value in values)
        middle = torch.cat([left, left.new_zeros(3, left.shape[1], SIZE - 2 * left.shape[2]), right], dim=2)
        return torch.cat([up, middle, down], dim=1)[:, prompt.frame]

    start = starts_apart([(prompt.pixels, joined([side.data for side in sides]))])
    with torch.no_grad():
        prompt.pixels.copy_(ours(sides))
    images = torch.randn(2, 3, SIZE, SIZE)
    direction = torch.randn_like(images)
    mine, expected = prompt(images, torch.zeros(3, 1, 1), torch.ones(3, 1, 1)), theirs(images)
    for result in (mine, expected):
        (result * direction).sum().backward()
    assert prompt.pixels.grad is not None
    counts = {"theirs": sum(side.numel() for side in sides), "ours": prompt.pixels.numel()}
    gradients = apart(prompt.pixels.grad, ours([side.grad for side in sides]))
    return {"outputs": apart(mine, expected), "gradients": gradients, "parameters": counts, "start": start}


COMPARED: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "VPT-shallow": vpt(deep=False),
    "VPT-deep": vpt(deep=True),
    "VPT-deep, bottleneck": vpt(deep=True, project=8),
    "VPT-deep on MAE": vpt_on_mae,
    "VFPT": vfpt,
    "E2VPT": e2vpt(pruned=0),
    "E2VPT, tokens pruned": e2vpt(pruned=30),
    "VAPT": vapt,
    "CVPT": cvpt,
    "gated": gated,
    "SPT": spt,
    "BPT": bpt,
    "frame of pixels": frame,
}

if __name__ == "__main__":
    main()
