"""PAE's initialisation of deep prompts from frequency bands of training images and their labels (Wang et al. 2026)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vpt.backbones.vit_spec import Tower
from vpt.prompts.base import TrainingImages
from vpt.utils.errors import UserError

WINDOW, STRIDE = 16, 8  # frequencies


def bands(height: int, width: int) -> list[tuple[slice, slice]]:
    """Square windows of the centred spectrum, row by row.

    >>> len(bands(224, 224))
    729
    """
    size = min(WINDOW, height, width)
    tops, lefts = (range(0, side - size + 1, STRIDE) for side in (height, width))
    return [(slice(top, top + size), slice(left, left + size)) for top in tops for left in lefts]


def filtered(images: Tensor, band: tuple[slice, slice]) -> Tensor:
    """Images (B, 3, H, W) with the frequencies of one band only; the imaginary part is dropped.

    >>> filtered(torch.ones(1, 3, 16, 16), bands(16, 16)[0]).allclose(torch.ones(1, 3, 16, 16))
    True
    """
    spectrum = torch.fft.fftshift(torch.fft.fft2(images.float()), dim=(-2, -1))
    kept = torch.zeros_like(spectrum)
    kept[..., band[0], band[1]] = spectrum[..., band[0], band[1]]
    return torch.fft.ifft2(torch.fft.ifftshift(kept, dim=(-2, -1))).real.to(images.dtype)


def best_bands(images: Tensor, labels: Tensor, score: Callable[[Tensor], Tensor], count: int) -> list[int]:
    """The `count` bands whose images are classified with the smallest loss, best first; repeated if there are fewer.

    Args:
        images: (B, 3, H, W) normalised.
        labels: (B,).
        score: logits (B, classes) of images.
    """
    losses = [
        torch.nn.functional.cross_entropy(score(filtered(images, band)).float(), labels)
        for band in bands(*images.shape[-2:])
    ]
    order = torch.stack(losses).argsort(stable=True).tolist()
    return (order * (count // len(order) + 1))[:count]


def band_token(patches: Tensor) -> Tensor:
    """The mean (C,) of patch embeddings (B, N, C), weighted by their squared norms.

    >>> band_token(torch.tensor([[[1.0, 0.0], [0.0, 3.0]]]))
    tensor([0.1000, 2.7000])
    """
    patches = patches.float()
    energy = patches.square().sum(-1, keepdim=True)
    return (energy / energy.sum() * patches).sum((0, 1))


def propagated(tower: Tower, tokens: Tensor) -> Iterator[Tensor]:
    """Tokens (P, C) at the input of every layer, passed through the layers on their own."""
    rows = tokens[None]
    for block in tower.blocks:
        yield rows[0].float()
        rows = block.forward(rows, None, None, None, rows.shape[1])


def spectral_tokens(data: TrainingImages, layers: list[int], count: int) -> Tensor:
    """Tokens (layers, P, C) for `layers`, from the first batch of training images.

    Bands are ranked by logistic regression on frozen features of the batch. The released code ranks them by a head with
    random weights.

    Raises:
        UserError: images without one label each.
    """
    labels = data.labels[0] if data.labels else None
    if not isinstance(labels, Tensor) or labels.ndim != 1:
        raise UserError("prompt.pae.from_images needs one label for every image; set prompt.pae.from_images=false")
    tower, images = data.backbone.require_tower("token prompts"), data.images[0]
    names, known = labels.unique(return_inverse=True)
    score = _scorer(data, images, known) if len(names) > 1 else lambda some: some.new_zeros(len(some), 1)
    all_bands = bands(*images.shape[-2:])
    chosen = best_bands(images, known, score, count)
    embedded = [tower.embed(filtered(images, all_bands[index]))[0][:, tower.prefix :] for index in chosen]
    first = torch.stack([band_token(patches) for patches in embedded]).to(embedded[0].dtype)
    found = list(propagated(tower, first))
    return torch.stack([found[layer] for layer in layers])


def _scorer(data: TrainingImages, images: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(max_iter=1000).fit(data.features(images).float().cpu().numpy(), labels.cpu().numpy())
    weight, bias = (
        torch.from_numpy(part).to(images.device, torch.float32) for part in (fitted.coef_, fitted.intercept_)
    )
    if len(weight) == 1:  # two classes
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return lambda some: data.features(some).float() @ weight.T + bias
