"""PRO-VPT: deep prompts that move between layers during training (Shang et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vpt.config import ProvptPrompt
from vpt.prompts.base import Shape, dropped, set_per_layer
from vpt.prompts.visual.provpt_policy import ProximalPolicy, ThompsonSampling
from vpt.prompts.visual.vpt import VisualPrompts
from vpt.utils.distributed import all_summed, ranks

SHRUNK = 1e-3  # factor of a token that is moved


class RelocatedPrompts(VisualPrompts):
    """VPT-Deep whose layers hold different numbers of tokens. Before an epoch, the token whose removal would lower the
    loss most, by its first-order change, moves to a layer that a policy chooses; its reward is known an epoch later.

    Idleness and loss are means over the steps of the epoch before; the released code computes them in a second pass
    over the training images. A layer keeps at least one token. In fp16 idleness is scaled as gradients are.

    Args:
        config: settings.
        shape: shape of the backbone.

    Parameters: LPC.

    >>> shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    >>> sum(parameter.numel() for parameter in RelocatedPrompts(ProvptPrompt(tokens=10), shape).parameters())
    92160
    """

    training_only = ("idleness", "figures", "relocated", "seed", "policy")
    place: Tensor  # (LP,) index of the set that each token belongs to
    idleness: Tensor  # (LP,) sum over the steps of this epoch
    figures: Tensor  # steps, losses and their number in this epoch; loss of the one before; whether a reward is awaited
    relocated: Tensor  # the epoch that tokens were moved for
    seed: Tensor

    def __init__(self, config: ProvptPrompt, shape: Shape) -> None:
        super().__init__(shape, set_per_layer(config.layers, shape), config.tokens, config.dropout)
        self.config, self.count = config, len(self.inserted)
        self.register_buffer("place", torch.arange(self.count).repeat_interleave(config.tokens).float())
        self.register_buffer("idleness", torch.zeros(self.count * config.tokens))
        self.register_buffer("figures", torch.zeros(5))
        self.register_buffer("relocated", torch.zeros(()))
        self.register_buffer("seed", torch.randint(2**20, ()).float())
        self.policy = ProximalPolicy(self.count) if config.policy == "ppo" else ThompsonSampling(self.count)

    def sets(self, batch: int) -> Sequence[Tensor]:
        """Token sets by index, of different lengths: (P, C) each, or (batch, P, C) with a mask for every image."""
        flat = self.tokens.flatten(0, 1)
        if self.training and flat.requires_grad:
            flat.register_hook(lambda gradient: self._score(flat.detach(), gradient))
        tokens = dropped(flat[None], self.dropout, batch, self.training)[0]
        places = self.place.tolist()
        members = [[at for at, place in enumerate(places) if place == index] for index in range(self.count)]
        return [tokens[..., chosen, :] for chosen in members]

    def extra_losses(self, images: Any, labels: Any) -> Mapping[str, Tensor]:
        """None; but gradients and losses of a step are read."""
        return {}

    def saw_loss(self, loss: Tensor) -> None:
        """Add the loss of a step."""
        self.figures[1] += loss.float()
        self.figures[2] += 1

    def after_step(self) -> None:
        """Count the steps of the epoch."""
        super().after_step()
        self.figures[0] += 1

    @torch.no_grad()
    def before_epoch(self, epoch: int, epochs: int) -> None:
        """Move a token, once an epoch, from the second one on."""
        if epoch <= int(self.relocated) or not int(self.figures[0]):
            return
        figures = all_summed(self.figures[:3]) / ranks().count
        scores = (all_summed(self.idleness) / ranks().count / figures[0]).cpu()
        loss, before, awaited = float(figures[1] / figures[2]), float(self.figures[3]), bool(self.figures[4])
        places = self.place.long().cpu()
        if awaited:
            self.policy.learn(before - loss - float(scores.max()))
        counts = torch.bincount(places.clamp(0, self.count - 1), minlength=self.count)
        token = int(scores.masked_fill(counts[places] < 2, -torch.inf).argmax())
        moves = float(scores[token]) > 0 and int(counts.max()) > 1
        if moves:
            state = policy_state(scores, places, self.count, token).to(self.tokens.device)
            self.place[token] = self.policy.choose(state, int(self.seed) + epoch)
            self.tokens.view(-1, self.tokens.shape[-1])[token] *= SHRUNK
        self.figures.copy_(torch.tensor([0, 0, 0, loss, moves]))
        self.idleness.zero_()
        self.relocated.fill_(epoch)

    @torch.no_grad()
    def _score(self, tokens: Tensor, gradient: Tensor) -> None:
        """Add the gradient of the loss by a factor of every token, at 1."""
        self.idleness += (gradient.float() * tokens.float()).sum(-1)


def policy_state(scores: Tensor, places: Tensor, count: int, token: int) -> Tensor:
    """What the policy sees (3L,): the sum of the scores of every layer, standardised; the fractions of the other tokens
    in every layer; and the layer of the token that moves.

    >>> policy_state(torch.tensor([1.0, 0.0, 3.0]), torch.tensor([0, 0, 1]), 2, token=2).tolist()
    [-1.0, 1.0, 1.0, 0.0, 0.0, 1.0]
    """
    sums = torch.zeros(count).index_add_(0, places, scores)
    own = torch.nn.functional.one_hot(places[token], count).float()
    others = torch.bincount(places, minlength=count) - own
    return torch.cat([(sums - sums.mean()) / (sums.std(unbiased=False) + 1e-8), others / others.sum(), own])
