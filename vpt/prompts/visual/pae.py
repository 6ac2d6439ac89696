"""PAE: training-only losses that tie the prompts of consecutive layers together (Wang et al. 2026)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.config.prompts_base import PaeSection
from vpt.prompts.base import Regularizer, Shape, TokenPrompts, TrainingImages
from vpt.utils.errors import UserError


class Evolution(Regularizer):
    """A linear operator that maps the prompts of a layer to those of the next one, in a learned space of K channels.

    With z_i = P_i U, the consistency loss is the squared difference of z_i K and z_{i+1}; the stability loss penalises
    an increase of z Q z^T, Q = L^T L, from z_i to z_i K. The released form takes means where the paper has sums, scales
    Q and z, replaces max(0, x) by softplus, and leaves out the prompt of the first layer.

    Parameters, in training only: CK + 2KK.

    >>> shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    >>> sum(parameter.numel() for parameter in Evolution(PaeSection(), shape).parameters())
    327680
    """

    def __init__(self, config: PaeSection, shape: Shape) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Linear(shape.width, config.width, bias=False)
        self.step = nn.Parameter(torch.eye(config.width))
        self.energy = nn.Parameter(torch.eye(config.width))

    def check(self, prompt: TokenPrompts) -> None:
        """UserError if the losses compare fewer than two sets of tokens."""
        left_out = self._left_out(prompt)
        if len(prompt.first_layers()) - left_out < 2:
            more = " besides the first one, which prompt.pae=paper counts too" if left_out else ""
            raise UserError(f"prompt.pae needs prompts in at least two layers, each with its own tokens{more}")

    def _left_out(self, prompt: TokenPrompts) -> int:
        """How many of the first sets of tokens the losses leave out."""
        return int(self.config.form == "released" and prompt.first_layers()[0] == 0)

    @property
    def needs_images(self) -> bool:
        """Whether the prompts are initialised from images."""
        return self.config.from_images

    @torch.no_grad()
    def initialize(self, prompt: TokenPrompts, data: TrainingImages) -> None:
        """Initialise the tokens of the prompt: see init/spectral.py."""
        from vpt.prompts.init.spectral import spectral_tokens

        tokens = prompt.get_parameter("tokens")
        tokens.copy_(spectral_tokens(data, prompt.first_layers(), tokens.shape[1]))

    def losses(self, prompt: TokenPrompts) -> Mapping[str, Tensor]:
        """Both losses, with their weights."""
        config, sets = self.config, prompt.plain_sets()[self._left_out(prompt) :]
        with torch.autocast(sets[0].device.type, enabled=False):
            states = [self.project(tokens.float()) for tokens in sets]
            terms = paper_terms if config.form == "paper" else released_terms
            consistency, stability = terms(states, self.step, self.energy)
        return {"consistency": config.consistency * consistency, "stability": config.stability * stability}


def paper_terms(states: Sequence[Tensor], step: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    """Consistency and stability losses of states (P, K) of consecutive layers, as in the paper.

    >>> eye, states = torch.eye(2), [torch.ones(1, 2), 2 * torch.ones(1, 2)]
    >>> [float(term) for term in paper_terms(states, eye, eye)]
    [2.0, 0.0]
    """
    consistency = stability = step.new_zeros(())
    for state, following in pairwise(states):
        predicted = state @ step
        consistency = consistency + (following - predicted).square().sum()
        before, after = ((each @ energy.T).square().sum() for each in (state, predicted))
        stability = stability + F.relu(after - before)
    return consistency, stability


def released_terms(states: Sequence[Tensor], step: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    """The same losses as in the released code.

    >>> eye, states = torch.eye(2), [torch.ones(1, 2), 2 * torch.ones(1, 2)]
    >>> [round(float(term), 4) for term in released_terms(states, eye, eye)]
    [1.0, 0.692]
    """
    form = energy.T @ energy
    form = form / (torch.linalg.matrix_norm(form, ord=2) + 1e-8)
    consistency = stability = step.new_zeros(())
    for state, following in pairwise(states):
        predicted = state @ step
        consistency = consistency + (following - predicted).square().mean()
        scaled = (each / each.norm(dim=-1, keepdim=True).clamp(min=1.0) for each in (state, predicted))
        before, after = ((each @ form * each).sum(-1) for each in scaled)
        stability = stability + 10 * torch.tanh(F.softplus(after - before).mean() / 10)
    return consistency, stability
