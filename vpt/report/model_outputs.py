"""Outputs of a run's model: features before and after training, logits, attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vpt.config import FrozenTuning
from vpt.data.dataset import Record
from vpt.data.decode import BadImage, read
from vpt.data.transforms.classification import Transform
from vpt.inference.load_model import load_model
from vpt.models.attention_maps import Attention, attention_of
from vpt.models.classifier import PromptedModel, backbone_for
from vpt.models.trusted_settings import NOTHING, Named, settings_for
from vpt.prompts.channels import ChannelMix
from vpt.report.run_data import Source
from vpt.training.context import evaluation_transform
from vpt.utils.console import Console
from vpt.utils.device import autocast, inference_precision, pick_device
from vpt.utils.errors import UserError

BATCH = 32


@dataclass(frozen=True)
class Observed:
    """Outputs of a model for some images.

    Args:
        records: the images; unreadable ones are left out.
        before: features (N, C) of the original backbone without prompt; None if only the head is trained.
        after: features (N, C), the input of the head.
        logits: (N, K).
    """

    records: Sequence[Record]
    before: np.ndarray | None
    after: np.ndarray
    logits: np.ndarray


class Observer:
    """The trained model of a run, loaded for analysis.

    Args:
        source: the run.
        device: auto, cpu, cuda, ...
        named: backbone and weight file given by the user.

    Raises:
        UserError: no artifact, an unavailable backbone, or a model without one feature vector for an image.
    """

    def __init__(self, source: Source, device: str = "auto", named: Named = NOTHING) -> None:
        if source.artifact is None:
            raise UserError(f"{source.folder} has no readable artifact, so there is no model")
        where = pick_device(device)
        precision = inference_precision(source.artifact.config.train.precision, where)
        model, self.artifact = load_model(source.folder, device, named, precision=precision)
        if not isinstance(model, PromptedModel):
            raise UserError("features and attention are shown for classifiers only")
        if model.test_time is not None:
            raise UserError("this prompt is tuned for every image, so there is no single model to analyse")
        self.model = model
        self.device = next(model.parameters()).device
        config = self.artifact.config
        self.max_pixels = config.data.max_pixels
        self.transform = evaluation_transform(model, config.data)
        self._autocast = autocast(precision, self.device)
        self.plain, self._plain_transform = self._as_it_was(named)

    def _as_it_was(self, named: Named) -> tuple[PromptedModel | None, Transform]:
        """The original backbone, as a model whose logits are its features."""
        model, config = self.model, self.artifact.config
        frozen = isinstance(config.tuning, FrozenTuning)
        mix = model.channels
        if model.prompt is None and frozen and not (mix is not None and mix.learned):
            return None, self.transform
        backbone = model.backbone
        if not frozen:
            backbone = backbone_for(settings_for(self.artifact, named))
        pool = "native" if model.pool in ("prompts", "all", "native_prompts") else model.pool
        plain = PromptedModel(backbone, None, nn.Identity(), pool)
        plain.channels = None if mix is None else ChannelMix(mix.count, learned=False)
        plain = plain.to(self.device).eval()
        return plain, evaluation_transform(plain, config.data)

    @torch.inference_mode()
    def look(self, records: Sequence[Record], console: Console) -> Observed:
        """Run images through the trained model and through the original backbone."""
        kept: list[Record] = []
        before, after, logits = [], [], []
        constants = self.model.constants()
        head = self.model.ready_head()
        with console.progress(len(records), "features") as bar:
            for chunk, images, plain_images in self._batches(records):
                with self._autocast():
                    found = self.model.features(images, constants)
                    logits.append(head(found).float().cpu())
                    if self.plain is not None:
                        before.append(self.plain(plain_images).float().cpu())
                after.append(found.float().cpu())
                kept += chunk
                bar.advance(len(chunk), images=len(chunk))
        if not kept:
            raise UserError("none of the images can be read")
        return Observed(
            kept,
            torch.cat(before).numpy() if before else None,
            torch.cat(after).flatten(1).numpy(),
            torch.cat(logits).numpy(),
        )

    def attention(self, records: Sequence[Record]) -> list[tuple[Record, np.ndarray, Attention]]:
        """For each readable image: the square (S, S, 3) uint8 that is the model's input, and its attention maps."""
        found = []
        for chunk, images, _ in self._batches(records, 8):
            squares = images.cpu().permute(0, 2, 3, 1).numpy()
            found += list(zip(chunk, squares, attention_of(self.model, images), strict=True))
        return found

    def _batches(self, records: Sequence[Record], size: int = BATCH) -> Iterator[tuple[list[Record], Tensor, Tensor]]:
        same = self._plain_transform == self.transform
        for start in range(0, len(records), size):
            chunk, squares, plain = [], [], []
            for record in records[start : start + size]:
                try:
                    pixels = read(record, self.max_pixels).pixels
                except BadImage:
                    continue
                chunk.append(record)
                squares.append(self.transform(pixels, 0))
                plain.append(squares[-1] if same else self._plain_transform(pixels, 0))
            if chunk:
                yield chunk, torch.stack(squares).to(self.device), torch.stack(plain).to(self.device)


def sample(records: Sequence[Record], most: int, seed: int = 0) -> list[Record]:
    """At most `most` records, drawn uniformly, in their original order.

    >>> sample(range(5), 10)
    [0, 1, 2, 3, 4]
    """
    if len(records) <= most:
        return list(records)
    chosen = np.random.default_rng(seed).choice(len(records), most, replace=False)
    return [records[at] for at in sorted(chosen.tolist())]
