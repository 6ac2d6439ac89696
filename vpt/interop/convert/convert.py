"""Converts checkpoints of other projects to artifacts with the same scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vpt.config import full_words, load_config
from vpt.config.storable import refuse_unstorable
from vpt.interop.convert.base import Source
from vpt.interop.convert.checkpoint_files import read_foreign
from vpt.interop.convert.coop import Coop
from vpt.interop.convert.ivlp import Ivlp
from vpt.interop.convert.maple import Maple
from vpt.interop.convert.visual_prompting import Pixels
from vpt.interop.convert.vpt import OriginalVpt
from vpt.models.artifact import save_artifact
from vpt.models.classifier import backbone_for, build_model
from vpt.utils.errors import UserError

SOURCES: tuple[type[Source], ...] = (Maple, Ivlp, Coop, OriginalVpt, Pixels)
CLIP = "open_clip:"


@dataclass(frozen=True)
class Converted:
    """Result of a conversion."""

    path: Path
    title: str
    prompt: str  # kind of the prompt in vpt
    classes: tuple[str, ...]


def convert(
    files: Sequence[str | Path],
    overrides: Sequence[str],
    output: str | Path,
    classes: Sequence[str] | None = None,
) -> Converted:
    """Convert the checkpoint of another project to an artifact; no code in the files is executed.

    Args:
        files: one file, or several whose tensors belong together.
        overrides: settings as `key=value`: the backbone, and settings that the file does not contain.
        output: the artifact to write.
        classes: class names in the order of training; default: those in the file.

    Raises:
        UserError: files that cannot be read, have an unknown format, or do not fit backbone, classes or settings.

    >>> convert(["model.pth.tar-50"], ["backbone=open_clip:ViT-B-16-quickgelu"], "artifact.safetensors")
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: model.pth.tar-50: there is no such file
    """
    source = recognise(_joined(files))
    words = full_words(overrides, source.settings())
    named = load_config(overrides=[word for word in words if word.startswith("backbone")]).backbone.name
    on_clip = named.startswith(CLIP)
    if source.clip and not on_clip:
        raise UserError(f"{source.title} needs a CLIP, as in backbone=open_clip:ViT-B-16-quickgelu")
    if isinstance(source, Pixels):
        source.on_clip = on_clip
    config = load_config(overrides=words, base={"data": {"path": "unknown"}, **source.settings()})
    backbone = backbone_for(config)
    if classes is not None and len(set(classes)) != len(classes):
        raise UserError("--classes contains a class twice; give every name once, in the order of training")
    config, names = source.resolve(config, backbone, classes)
    refuse_unstorable(config, names)
    model = build_model(config, backbone, names).eval()
    model.set_preprocess(source.preprocess(backbone.preprocess))
    owned = source.owned(model)
    unknown = sorted(set(source.state) - source.taken)
    if unknown:
        raise UserError(
            f"{source.title} contains unknown tensors: {', '.join(unknown[:3])}"
            f"{f' and {len(unknown) - 3} more' if len(unknown) > 3 else ''}; methods with further parameters cannot be "
            "converted exactly"
        )
    model.load_owned({name: value.contiguous() for name, value in owned.items()})
    path = save_artifact(output, model, config, names)
    return Converted(path, source.title, config.prompt.kind, names)


def recognise(state: dict[str, Tensor]) -> Source:
    """The source format of named tensors, identified by their names.

    Raises:
        UserError: an unknown format.

    >>> import torch
    >>> type(recognise({"ctx": torch.zeros(4, 8)})).__name__
    'Coop'
    """
    for kind in SOURCES:
        if kind.knows(state):
            return kind(state)
    some = ", ".join(sorted(state)[:4])
    raise UserError(
        f"unknown checkpoint format with the tensors {some}; supported: VPT (KMnP), CoOp, CoCoOp, KgCoOp, MaPLe, "
        "IVLP, PromptSRC, visual_prompting (Bahng)"
    )


def _joined(files: Sequence[str | Path]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in files:
        read = read_foreign(Path(file))
        twice = sorted(set(read) & set(found))
        if twice:
            raise UserError(f"{file} contains '{twice[0]}' again; give each file once, and only files of one model")
        found |= read
    return found
