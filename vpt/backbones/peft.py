"""Baselines that change backbone weights: bias tuning, LoRA and full fine-tuning."""

from __future__ import annotations

from torch import nn

from vpt.backbones.backbone import Backbone
from vpt.backbones.quantization.linear import PLAIN
from vpt.config import BiasTuning, FrozenTuning, FullTuning, LoraTuning, Tuning
from vpt.utils.errors import UserError
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
        biases = [parameter for name, parameter in net.named_parameters() if _is_bias(name)]
        if not biases:
            raise UserError(f"backbone {backbone.name} has no biases; choose tuning=lora or tuning=full")
        for parameter in biases:
            parameter.requires_grad_(True)
        return backbone
    _inject_lora(tuning, net, backbone.name)
    return Backbone(net, backbone.library, backbone.name, backbone.preprocess, backbone.fingerprint, backbone.text)


def _is_bias(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in ("bias", "q_bias", "v_bias", "in_proj_bias")


def _inject_lora(tuning: LoraTuning, net: nn.Module, name: str) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError(f"tuning=lora needs peft: {install('lora')}") from None
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
    config = LoraConfig(
        r=tuning.rank, lora_alpha=tuning.alpha, lora_dropout=tuning.dropout, target_modules=found, bias="none"
    )
    inject_adapter_in_model(config, net)
    for key, parameter in net.named_parameters():
        if ".lora_" in key:
            parameter.data = parameter.data.float()  # peft uses the dtype of the frozen weight
