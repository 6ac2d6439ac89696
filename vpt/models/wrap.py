"""Prompts in the user's own network and training loop, with any loss, trainer or head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from vpt.backbones.adapters.open_clip import is_open_clip_vit
from vpt.backbones.adapters.timm import is_timm_vit
from vpt.backbones.backbone import Backbone
from vpt.backbones.fingerprint import fingerprint
from vpt.config import ClipPrompt, NoPrompt, PixelPrompt, load_config, use_plugin
from vpt.data.normalization import Preprocess
from vpt.models.base import owned_parts
from vpt.models.header import PromptHeader, parse_header
from vpt.models.wrapped import Wrapped, stated_size
from vpt.prompts.base import Shape, TokenPrompts
from vpt.prompts.init.initialize import start
from vpt.prompts.pixel.prompt import PixelPrompts
from vpt.prompts.registry import build_tokens
from vpt.utils.errors import FileError, UserError
from vpt.utils.tensor_io import open_tensors
from vpt.utils.tensor_state import misfits, shown

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # what torchvision's networks expect
Method = str | Callable[[Shape], TokenPrompts]


def wrap(
    net: nn.Module,
    prompt: Method = "deep",
    *,
    head: bool = True,
    images: Tensor | None = None,
    labels: Any = None,
    image_size: int | None = None,
    **settings: Any,
) -> Wrapped:
    """Freeze a network and add a prompt to it.

    Args:
        net: a timm vision transformer or an open_clip image tower (`clip.visual`), not copied; any image network for
            prompt="pixel". It is frozen in place and stays in evaluation mode. In a network of lower precision
            (bfloat16) the prompt stays in float32, and is cast where it is inserted.
        prompt: the kind, as in `prompt=` of a run, including a class `module:Class`; or a function that maps a
            `Shape` to `TokenPrompts`.
        head: whether to train the network's own classifier too, if it has one.
        images: normalised images (B, 3, S, S) for data-driven initialisation such as `init="sample"`.
        labels: labels of these images, for methods whose initialisation uses labels.
        image_size: side of the images, for pixel prompts on a network without a default image size.
        settings: settings of the prompt, as in `prompt.tokens=`: tokens=50, layers="last:6", dropout=0.1.

    Raises:
        UserError: the network does not support the prompt, or a setting is invalid.

    >>> net = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    >>> model = wrap(net, "deep", tokens=5)
    >>> sum(parameter.numel() for parameter in model.learning())  # 12 layers of 5 tokens, and the classifier
    12099
    >>> model(torch.zeros(2, 3, 224, 224)).shape
    torch.Size([2, 3])
    """
    with _unchanged_on_error(net):
        model, config = _wrapped(net, prompt, head, image_size, settings)
        made = model.prompt
        if isinstance(made, TokenPrompts) and config is not None and config.needs_images:
            if images is None:
                how = f"init={config.init}" if hasattr(config, "init") else f"prompt={config.kind}"
                other = ", or init='uniform'" if hasattr(config, "init") else ""
                if getattr(config, "pae", None):
                    how, other = "pae", ", or pae={'from_images': False}"
                raise UserError(f"{how} is initialised from images: use wrap(..., images=BATCH){other}")
            label_batches = [] if labels is None else [_as_labels(labels)]
            start(made, config, model.backbone, [images], torch.initial_seed() % 2**31, label_batches)
    return model


@contextmanager
def _unchanged_on_error(net: nn.Module) -> Iterator[None]:
    """Give a network back as it was, if it cannot be wrapped."""
    learning = [(parameter, parameter.requires_grad) for parameter in net.parameters()]
    training = [(module, module.training) for module in net.modules()]
    try:
        yield
    except BaseException:
        for parameter, before in learning:
            parameter.requires_grad_(before)
        for module, mode in training:
            module.training = mode
        raise


def _as_labels(labels: Any) -> Tensor:
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        raise UserError("labels must be class indices, as in torch.tensor([0, 2, 1])") from None


def _wrapped(
    net: nn.Module, prompt: Method, head: bool, image_size: int | None, settings: dict[str, Any]
) -> tuple[Wrapped, Any]:
    """The model without an initialisation from images, and the settings of its prompt."""
    if isinstance(prompt, str) and ":" in prompt:
        use_plugin(prompt)
    config = None if callable(prompt) else _settings(prompt, settings)
    if callable(prompt) and settings:
        raise UserError(f"{', '.join(settings)}: a custom prompt gets its settings where it is created")
    side = image_size or _side(net)
    found = _read(net, side)
    net.requires_grad_(False)
    learned = _classifier(net) if head else {}
    backbone = Backbone(net.eval(), found.library, found.name, found.preprocess, fingerprint(net, without=learned))
    made = _built(prompt, config, backbone, side)
    for parameter in learned.values():
        parameter.requires_grad_(True)
    described = {"prompt": None if config is None else config.model_dump(mode="json"), "head": head, "image_size": side}
    return Wrapped(backbone, made, described, learned).to(next(net.parameters()).device), config


def load_prompt(net: nn.Module, path: str | Path, prompt: Method | None = None) -> Wrapped:
    """Load a saved prompt into a new network. The result is in evaluation mode; call `.train()` to go on training.

    Args:
        net: a network created like the wrapped one, with the same pretrained weights, and not wrapped already.
        path: file written by `Wrapped.save`.
        prompt: the function that created a custom prompt.

    Raises:
        UserError: the file is damaged, of another kind, or belongs to another network.
    """
    with open_tensors(path) as file:
        header, tensors = parse_header(PromptHeader, file), file.tensors()
    settings = {} if header.prompt is None else header.prompt.model_dump()
    kind: Method | None = prompt if header.prompt is None else settings.pop("kind")
    if kind is None:
        raise UserError(f"{path} contains a custom prompt: use load_prompt(..., prompt=FUNCTION)")
    if isinstance(kind, str):
        _check_size(Path(path), net, _settings(kind, settings), header.image_size, tensors)
    with _unchanged_on_error(net):
        # Up to 0.2.0 some classifiers were not recognised, and so neither trained nor saved.
        head = header.head and any(name.startswith("backbone.") for name in tensors)
        model, _ = _wrapped(net, kind, head, header.image_size, settings)
        if model.backbone.fingerprint != header.backbone.fingerprint:
            raise UserError(
                f"{path} was trained in {header.backbone.name} with other weights, or another precision, activation, "
                f"pooling or image size (fingerprint {header.backbone.fingerprint[:12]}, here "
                f"{model.backbone.fingerprint[:12]}); create the network it was trained in, and change its precision "
                "afterwards"
            )
        model.settings = header.model_dump(mode="json", include=set(model.settings))
        for name in set(tensors) - set(model.owned_state()):  # parameters unfrozen by the user
            if name in dict(model.named_parameters()):
                model.get_parameter(name).requires_grad_(True)
        model.load_owned(tensors)
    return model.eval()


def _check_size(path: Path, net: nn.Module, config: Any, side: int, tensors: Mapping[str, Tensor]) -> None:
    """Check that a file contains the prompt its header describes, before a prompt of that size is created.

    Raises:
        FileError: tensors are missing, unknown or of another shape.
    """
    found = _read(net, side)
    backbone = Backbone(net, found.library, found.name, found.preprocess)
    with torch.device("meta"):
        wanted = owned_parts(_built(config.kind, config, backbone, side))
    mine = {name.removeprefix("prompt."): value for name, value in tensors.items() if name.startswith("prompt.")}
    if wrong := misfits(wanted, mine):
        raise FileError(path, f"does not fit the prompt that its own header describes: see {shown(wrong)}")


@dataclass(frozen=True)
class _Found:
    """Library, name and preprocessing of a network."""

    library: str
    name: str
    preprocess: Preprocess


def _settings(kind: str, settings: dict[str, Any]) -> Any:
    config = load_config(base={"prompt": {"kind": kind, **settings}}).prompt
    if isinstance(config, NoPrompt):
        raise UserError("there is nothing to wrap with prompt=none; train the network's classifier directly")
    if isinstance(config, ClipPrompt):
        raise UserError(
            f"prompt={kind} needs CLIP's text encoder; train it with: vpt train prompt={kind} head=zeroshot"
        )
    if getattr(config, "adds_features", False):
        raise UserError(f"prompt={kind} adds features for a head of its own; train it with: vpt train prompt={kind}")
    if config.objective:
        raise UserError(f"prompt={kind} has a training objective of its own; train it with: vpt train prompt={kind}")
    if getattr(config, "prune_tokens", 0) or getattr(config, "prune_segments", 0):
        raise UserError("pruning trains twice; use: vpt train prompt=e2vpt")
    if getattr(config, "shrink", False):
        raise UserError("shrink changes the size of the images; shrink them yourself, or use vpt train prompt=pixel")
    return config


def _side(net: Any) -> int:
    size = stated_size(net) or (getattr(net, "pretrained_cfg", None) or {}).get("input_size", (224,))[-1:]
    return int(size[0])


def _read(net: Any, side: int) -> _Found:
    if type(net).__name__ in ("CLIP", "CustomTextCLIP", "CoCa") and hasattr(net, "visual"):
        raise UserError("a complete CLIP has two towers; wrap its image tower: vpt.wrap(clip.visual)")
    cfg = getattr(net, "pretrained_cfg", None)
    name = (cfg or {}).get("architecture") or type(net).__name__
    if is_timm_vit(net) or cfg:
        of = timm.data.resolve_model_data_config(net)
        return _Found("timm", name, Preprocess(side, tuple(of["mean"]), tuple(of["std"])))
    of = getattr(net, "preprocess_cfg", None) or {}
    mean, std = tuple(of.get("mean") or IMAGENET[0]), tuple(of.get("std") or IMAGENET[1])
    clip = type(net).__module__.startswith("open_clip.") and is_open_clip_vit(net)
    return _Found("open_clip" if clip else "timm", name, Preprocess(side, mean, std))


def _classifier(net: Any) -> dict[str, nn.Parameter]:
    """Parameters of a network's own classifier, by name."""
    if hasattr(net, "get_classifier"):
        heads = net.get_classifier()
        heads = heads if isinstance(heads, tuple | list) else (heads,)
    else:
        if type(net).__module__.startswith("open_clip."):
            return {}  # the head of an image tower is CLIP's projection
        # Names in torchvision, and in transformers.
        heads = tuple(getattr(net, name, None) for name in ("fc", "classifier", "heads", "head"))
    wanted = {id(parameter) for head in heads if isinstance(head, nn.Module) for parameter in head.parameters()}
    return {name: parameter for name, parameter in net.named_parameters() if id(parameter) in wanted}


def _built(prompt: Method, config: Any, backbone: Backbone, side: int) -> TokenPrompts | PixelPrompts:
    if isinstance(config, PixelPrompt):
        return PixelPrompts(config, side)
    if backbone.tower is None:
        raise UserError(
            f"{backbone.name} does not support token prompts: {backbone.refusal}; wrap a ViT, or choose prompt='pixel'"
        )
    shape = Shape.of(backbone.tower, side)
    return prompt(shape) if callable(prompt) else build_tokens(config, shape)
