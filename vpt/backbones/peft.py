"""Baselines that change backbone weights: bias tuning, LoRA and full fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vpt.backbones.backbone import Backbone
from vpt.backbones.layer_changes import LayerChange, adds_bias
from vpt.backbones.quantization.linear import PLAIN
from vpt.config import BiasTuning, FrozenTuning, FullTuning, LoraTuning, Tuning
from vpt.utils.errors import UserError
from vpt.utils.tensor_state import misfits, shown
from vpt.utils.version import install


def apply_tuning(tuning: Tuning, backbone: Backbone) -> Backbone:
    """Make the parameters selected by `tuning` trainable; LoRA adds its layers. Returns the backbone to use afterwards.

    Raises:
        UserError: the backbone has no parameters of this kind, or peft is not installed.

    >>> from vpt.backbones.factory import load_backbone
    >>> from vpt.config import BackboneConfig
    >>> backbone = load_backbone(BackboneConfig(name="vit_tiny_patch16_224", pretrained=False))
    >>> backbone = apply_tuning(BiasTuning(), backbone)
    >>> sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    25728
    """
    net = backbone.net
    if isinstance(tuning, FrozenTuning):
        return backbone
    if isinstance(tuning, FullTuning):
        net.requires_grad_(True)
        return backbone
    if isinstance(tuning, BiasTuning):
        for parameter in _biases(backbone).values():
            parameter.requires_grad_(True)
        return backbone
    _inject_lora(tuning, net, backbone.name)
    return Backbone(net, backbone.library, backbone.name, backbone.preprocess, backbone.fingerprint, backbone.text)


def _biases(backbone: Backbone) -> dict[str, nn.Parameter]:
    names = ("bias", "q_bias", "v_bias", "in_proj_bias")
    biases = {name: each for name, each in backbone.net.named_parameters() if name.rsplit(".", 1)[-1] in names}
    if not biases:
        raise UserError(f"backbone {backbone.name} has no biases; choose tuning=lora or tuning=full")
    return biases


def layer_changes(tuning: Tuning, backbone: Backbone, tensors: Mapping[str, Tensor]) -> dict[str, LayerChange]:
    """What the tensors of an artifact, trained by `tuning`, change in each layer of a backbone, which stays as it is.

    Raises:
        UserError: tensors that do not fit, or a layer that cannot have changes of its own for every image.
    """
    if isinstance(tuning, FrozenTuning):
        return {}
    backbone.require_tower(f"changes of its layers for every image (tuning={tuning.kind})")
    start = "backbone.net."
    found = {name.removeprefix(start): value.float() for name, value in tensors.items() if name.startswith("backbone.")}
    if isinstance(tuning, LoraTuning):
        layers = _lora_layers(tuning, backbone.net, backbone.name)
        ends = [f"{name}.lora_{{}}.default.weight" for name in layers]
        wanted = {}
        for name, end in zip(layers, ends, strict=True):
            layer: nn.Linear = backbone.net.get_submodule(name)  # type: ignore[assignment]
            wanted[end.format("A")] = torch.empty(tuning.rank, layer.in_features, device="meta")
            wanted[end.format("B")] = torch.empty(layer.out_features, tuning.rank, device="meta")
        _check(wanted, found)
        scale = tuning.alpha / tuning.rank
        return {
            name: LayerChange(found[end.format("A")].T.contiguous(), scale * found[end.format("B")].T.contiguous())
            for name, end in zip(layers, ends, strict=True)
        }
    biases = _biases(backbone)
    _check(biases, found)
    changes = {}
    for name, bias in biases.items():
        owner, _, ending = name.rpartition(".")
        around = [backbone.net.get_submodule(one) for one in (owner, owner.rpartition(".")[0])]
        # A pooling layer that the library runs reads its weights without calling its parts.
        whole = "attn_pool" in owner and any(isinstance(one, nn.MultiheadAttention) for one in around)
        if whole or not adds_bias(around[0], ending):
            raise UserError(f"the bias {name} of {backbone.name} cannot differ between images; use vpt.load instead")
        changes[owner] = LayerChange(bias=found[name] - bias.detach().float().cpu())
    return changes


def _check(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    if wrong := misfits(wanted, found):
        raise UserError(f"the artifact does not fit the model its own header describes: see {shown(wrong)}")


def _lora_layers(tuning: LoraTuning, net: nn.Module, name: str) -> list[str]:
    linears = [
        key
        for key, layer in net.named_modules()
        # Only plain layers: torch's MultiheadAttention reads its output layer's weight directly, bypassing adapters.
        if type(layer) in PLAIN
    ]
    found = [key for key in linears if key.rsplit(".", 1)[-1] in tuning.targets]
    if not found:
        endings = sorted({key.rsplit(".", 1)[-1] for key in linears})
        raise UserError(
            f"tuning.targets={tuning.targets} matches no linear layer of {name}; it has {', '.join(endings) or 'none'}"
        )
    return found


def _inject_lora(tuning: LoraTuning, net: nn.Module, name: str) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError(f"tuning=lora needs peft: {install('lora')}") from None
    found = _lora_layers(tuning, net, name)
    config = LoraConfig(
        r=tuning.rank, lora_alpha=tuning.alpha, lora_dropout=tuning.dropout, target_modules=found, bias="none"
    )
    inject_adapter_in_model(config, net)
    for key, parameter in net.named_parameters():
        if ".lora_" in key:
            parameter.data = parameter.data.float()  # peft uses the dtype of the frozen weight
