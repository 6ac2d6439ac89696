"""Zero-shot head of CLIP: cosine similarity to text features of class names (Radford et al. 2021, section 3.1).

Text features come from fixed templates, computed once and cached on disk, or from a learned context
(prompts/clip/text_context.py), computed in every step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vpt.backbones.text_encoder import TextEncoder
from vpt.prompts.clip.templates import cleaned
from vpt.prompts.clip.text_context import Texts
from vpt.utils.cache_dir import cache_dir
from vpt.utils.errors import UserError
from vpt.utils.tensor_io import read_tensors, write_tensors

MAX_TEXTS = 100_000  # maximum for one head; a thousand classes in all of CLIP's templates are 80,000
Scorer = Callable[[Tensor], Tensor]


def class_features(
    encoder: TextEncoder,
    fingerprint: str,
    names: Sequence[str],
    templates: Sequence[str],
    each_normal: bool = True,
    normal: bool = True,
) -> Tensor:
    """Text features (K, D): the mean over templates for every name.

    They are computed once and cached in the user's cache folder, with a key of all inputs.

    Args:
        encoder: text encoder of a CLIP.
        fingerprint: fingerprint of the whole CLIP, including its tokenizer.
        names: class names.
        templates: texts with `{}`.
        each_normal: normalise the features of single texts before the mean, as CLIP does.
        normal: normalise the mean.

    Raises:
        UserError: too many texts, or a name that is too long.
    """
    if len(names) * len(templates) > MAX_TEXTS:
        raise UserError(
            f"{len(names)} class names in {len(templates)} templates are more than {MAX_TEXTS} texts; give fewer "
            "templates, as in head.templates=single"
        )
    inputs = [fingerprint, list(names), list(templates), each_normal, *([] if normal else ["not normal"])]
    key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    path = cache_dir() / "text" / f"{key[:32]}.safetensors"
    if path.is_file():
        try:
            kept = read_tensors(path)[0]["features"]
            if len(kept) == len(names):
                return kept.to(encoder.scale.device)
        except (UserError, KeyError, TypeError):
            path.unlink(missing_ok=True)  # damaged; computed again
    found = []
    words = cleaned(names)
    for start in range(0, len(words), 64):
        some = words[start : start + 64]
        # Not str.format: a name may contain braces.
        texts = [template.replace("{}", name) for name in some for template in templates]
        features = encoder.features(texts).unflatten(0, (len(some), len(templates)))
        found.append((F.normalize(features, dim=-1) if each_normal else features).mean(1))
    features = torch.cat(found)
    features = F.normalize(features, dim=-1) if normal else features
    with contextlib.suppress(UserError):  # failure to write the cache is not an error
        write_tensors(path, {"features": features}, {"kind": "vpt text features"})
    return features


class ZeroShot(nn.Module):
    """Scores (B, K) of image features (B, D): logit scale times cosine similarity to each class's text features.

    Args:
        encoder: text encoder of a CLIP; not a submodule of this module.
        fingerprint: fingerprint of the CLIP.
        names: class names.
        templates: texts with `{}`, whose mean text features are constant.
        each_normal: normalise the features of single texts before the mean, as CLIP does.
    """

    role = "prompt"  # trainable parameters of this head are prompts
    fixed: Tensor

    def __init__(
        self,
        encoder: TextEncoder,
        fingerprint: str,
        names: Sequence[str],
        templates: Sequence[str],
        each_normal: bool = True,
    ) -> None:
        super().__init__()
        self.__dict__["encoder"] = encoder  # not a submodule: it belongs to the backbone
        self.fingerprint = fingerprint
        self.templates = tuple(templates)
        self.each_normal = each_normal
        self.contexts: Texts | None = None  # learned text features instead of the fixed ones
        self.chunk = 4  # number of images whose texts are computed at once, if the context depends on the image
        self.register_buffer("fixed", torch.zeros(0), persistent=False)
        self.set_names(names)

    def set_names(self, names: Sequence[str], templates: Sequence[str] | None = None) -> None:
        """Use other class names, and other templates if given.

        Raises:
            UserError: names that are too long, or contexts that are specific to their classes.
        """
        self.templates, self.names = self.templates if templates is None else tuple(templates), tuple(names)
        encoder: TextEncoder = self.__dict__["encoder"]
        if self.contexts is not None:
            self.contexts.set_names(names)
        found = class_features(encoder, self.fingerprint, names, self.templates, self.each_normal)
        self.fixed = found.to(encoder.scale.device)
        if self.contexts is not None:
            self._show_templates(self.contexts)

    def learn(self, contexts: Texts) -> None:
        """Use learned text features instead of those of the templates."""
        self.contexts = contexts
        self._show_templates(contexts)

    def _show_templates(self, contexts: Texts) -> None:
        encoder: TextEncoder = self.__dict__["encoder"]

        def raw() -> Tensor:
            return class_features(encoder, self.fingerprint, self.names, self.templates, False, normal=False)

        contexts.read_templates(self.names, self.templates, self.fixed, raw)

    @property
    def conditional(self) -> bool:
        """Whether text features depend on the image."""
        return self.contexts is not None and self.contexts.meta is not None

    def text(self) -> Tensor:
        """Normalised text features (K, D), if the context does not depend on the image."""
        return self.fixed if self.contexts is None else F.normalize(self.contexts()[0], dim=-1)

    def scores(self, features: Tensor, text: Tensor) -> Tensor:
        """Scores (B, K) of image features (B, D) with normalised text features (K, D) or (B, K, D)."""
        normal = F.normalize(features, dim=-1) if self.contexts is None else self.contexts.directions(features)
        return self.similarities(normal, text)

    def similarities(self, normal: Tensor, text: Tensor) -> Tensor:
        """Scores (B, K) of normalised image features (B, D); see `scores`."""
        encoder: TextEncoder = self.__dict__["encoder"]
        text = text.to(normal.dtype)
        cosines = normal @ text.T if text.ndim == 2 else (text @ normal[..., None])[..., 0]
        return encoder.scale.to(normal.dtype) * cosines

    def forward(self, features: Tensor) -> Tensor:
        """Scores (B, K) of image features (B, D)."""
        if not self.conditional:
            return self.scores(features, self.text())
        if torch.compiler.is_compiling():  # an exported program supports any batch size, but a fixed number of chunks
            return self._conditional(features)
        parts = []
        for some in features.split(self.chunk):
            # Texts of all classes for every image need much memory: recompute activations in the backward pass.
            again = torch.is_grad_enabled()
            parts.append(checkpoint(self._conditional, some, use_reentrant=False) if again else self._conditional(some))
        return torch.cat(parts)

    def _conditional(self, features: Tensor) -> Tensor:
        assert self.contexts is not None
        text = F.normalize(self.contexts(F.normalize(features, dim=-1)), dim=-1)
        return self.scores(features, text)

    def ready(self) -> Scorer:
        """The head with all parts that do not depend on the image computed once."""
        if self.conditional:
            return self.forward
        text = self.text()
        return lambda features: self.scores(features, text)
