"""Which layer gets a token of PRO-VPT: proximal policy optimisation or Thompson sampling (Shang et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

HIDDEN = 64
ACTOR_LR, CRITIC_LR = 3e-4, 1e-3
ROUNDS, CLIP, ENTROPY, VALUE = 60, 0.2, 0.01, 0.5
ROLLOUT = 2  # rewards of an update


class ThompsonSampling(nn.Module):
    """Successes and failures of every layer; the layer with the largest draw from its Beta distribution is chosen."""

    successes: Tensor
    failures: Tensor
    chosen: Tensor

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.register_buffer("successes", torch.ones(layers))
        self.register_buffer("failures", torch.ones(layers))
        self.register_buffer("chosen", torch.zeros(()))

    def choose(self, state: Tensor, seed: int) -> int:
        """The layer to move a token to; `state` is not used."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn = torch.distributions.Beta(self.successes.cpu(), self.failures.cpu()).sample()
        self.chosen.fill_(int(drawn.argmax()))
        return int(self.chosen)

    def learn(self, reward: float) -> None:
        """Record the reward of the last choice."""
        (self.successes if reward >= 0 else self.failures)[int(self.chosen)] += 1


class ProximalPolicy(nn.Module):
    """An actor and a critic with two hidden layers, trained after every two rewards. Weights and the state of their
    optimiser are buffers, because the run's optimiser does not train them.

    Args:
        layers: number of layers L; states have 3L numbers.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.sizes = {"actor": (3 * layers, HIDDEN, HIDDEN, layers), "critic": (3 * layers, HIDDEN, HIDDEN, 1)}
        for part, sizes in self.sizes.items():
            for at, (fan_in, fan_out) in enumerate(pairwise(sizes)):
                linear = nn.Linear(fan_in, fan_out)
                for name, value in (("weight", linear.weight), ("bias", linear.bias)):
                    for kind in ("", "_mean", "_square"):
                        first = value.detach() if not kind else torch.zeros_like(value)
                        self.register_buffer(f"{part}_{name}{at}{kind}", first.clone())
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("states", torch.zeros(ROLLOUT, 3 * layers))
        self.register_buffer("figures", torch.zeros(ROLLOUT, 4))  # action, its log probability, value, reward
        self.register_buffer("filled", torch.zeros(()))

    @property
    def names(self) -> dict[str, list[str]]:
        """Names of the weights of actor and critic."""
        return {part: [f"{part}_{name}{at}" for at in range(3) for name in ("weight", "bias")] for part in self.sizes}

    def weights(self, part: str) -> list[Tensor]:
        """Weights and biases of the actor or the critic."""
        return [self.get_buffer(name) for name in self.names[part]]

    @torch.no_grad()
    def choose(self, state: Tensor, seed: int) -> int:
        """Draw the layer to move a token to from the actor's distribution.

        Args:
            state: (3L,).
            seed: of the draw.
        """
        scores = mlp(self.weights("actor"), state).log_softmax(-1)
        drawn = torch.multinomial(scores.exp().cpu(), 1, generator=torch.Generator().manual_seed(seed))
        at = int(self.get_buffer("filled"))
        self.get_buffer("states")[at] = state
        value = mlp(self.weights("critic"), state)[0]
        self.get_buffer("figures")[at, :3] = torch.stack([drawn[0].to(value), scores[drawn[0]], value])
        return int(drawn)

    def learn(self, reward: float) -> None:
        """Record the reward of the last choice, and train after every second one."""
        filled = self.get_buffer("filled")
        self.get_buffer("figures")[int(filled), 3] = reward
        filled += 1
        if int(filled) == ROLLOUT:
            self._update()
            filled.zero_()

    def _update(self) -> None:
        parts = {part: [each.clone().requires_grad_() for each in self.weights(part)] for part in self.sizes}
        groups = [{"params": parts["actor"], "lr": ACTOR_LR}, {"params": parts["critic"], "lr": CRITIC_LR}]
        optimizer, steps = torch.optim.Adam(groups), self.get_buffer("steps")
        places = [pair for part, names in self.names.items() for pair in zip(names, parts[part], strict=True)]
        for name, each in places if int(steps) else ():
            mean, square = (self.get_buffer(f"{name}_{kind}") for kind in ("mean", "square"))
            optimizer.state[each] = {"step": steps.cpu().clone(), "exp_avg": mean, "exp_avg_sq": square}
        rollout = self.get_buffer("states"), self.get_buffer("figures")
        with torch.enable_grad():
            for _ in range(ROUNDS):
                optimizer.zero_grad()
                clipped_loss(parts["actor"], parts["critic"], *rollout).backward()
                optimizer.step()
        steps += ROUNDS
        for name, each in places:
            self.get_buffer(name).copy_(each.detach())
            for kind, key in (("mean", "exp_avg"), ("square", "exp_avg_sq")):
                self.get_buffer(f"{name}_{kind}").copy_(optimizer.state[each][key])


def mlp(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Three linear layers, with tanh between them.

    >>> mlp([torch.eye(2), torch.zeros(2)] * 3, torch.zeros(2))
    tensor([0., 0.])
    """
    for at in range(0, len(weights), 2):
        inputs = nn.functional.linear(torch.tanh(inputs) if at else inputs, weights[at], weights[at + 1])
    return inputs


def clipped_loss(actor: Sequence[Tensor], critic: Sequence[Tensor], states: Tensor, figures: Tensor) -> Tensor:
    """Loss of an update: the clipped ratio of probabilities times the advantage, the error of the values, the entropy.

    Args:
        actor: weights and biases.
        critic: weights and biases.
        states: (R, 3L).
        figures: (R, 4): action, its log probability and the value when it was chosen, and its reward.
    """
    actions, before, values, rewards = figures.unbind(1)
    returns = rewards.flip(0).cumsum(0).flip(0)
    returns = (returns - returns.mean()) / (returns.std() + 1e-8)
    scores = mlp(actor, states).log_softmax(-1)
    ratio = (scores.gather(1, actions.long()[:, None])[:, 0] - before).exp()
    advantage = returns - values
    gained = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
    error = nn.functional.mse_loss(mlp(critic, states)[:, 0], returns)
    entropy = -(scores.exp() * scores).sum(1)
    return (-gained + VALUE * error - ENTROPY * entropy).mean()
