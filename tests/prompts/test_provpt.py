"""PRO-VPT: scores by gates, moves kept in lists, layers of different lengths, and the update of the policy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import vpt
from tests.helpers.concatenation_twin import twin_features
from tests.helpers.runs import QUIET, settings
from tests.helpers.tensors import close, images_for
from tests.helpers.vit_families import build_backbone
from vpt.backbones.backbone import Backbone
from vpt.backbones.liveness import plan
from vpt.config import ProvptPrompt, load_config
from vpt.models.artifact import read_artifact
from vpt.prompts.base import Shape
from vpt.prompts.registry import build_tokens
from vpt.prompts.visual.provpt import RelocatedPrompts
from vpt.prompts.visual.provpt_policy import ProximalPolicy, ThompsonSampling, clipped_loss, mlp

pytestmark = pytest.mark.usefixtures("small_net")


def built(backbone: Backbone, **words: object) -> RelocatedPrompts:
    torch.manual_seed(3)
    prompt = build_tokens(ProvptPrompt(**{"tokens": 3, **words}), Shape.of(backbone.require_tower("prompts")))
    assert isinstance(prompt, RelocatedPrompts)
    return prompt


def features(backbone: Backbone, prompt: RelocatedPrompts, images: Tensor) -> Tensor:
    tower = backbone.require_tower("prompts")
    steps = plan(len(tower.blocks), prompt.inserted, prompt.after, backbone.reads("native"))
    return backbone.features(images, steps, "native", prompt.layers(tower, steps, len(images)))


@pytest.mark.parametrize("family", ["vit", "dinov2-registers", "eva02", "clip"])
def test_layers_of_different_lengths_equal_tokens_in_the_sequence(family: str):
    backbone = build_backbone(family)
    prompt, images = built(backbone), images_for(backbone)
    prompt.place.copy_(torch.tensor([0, 3, 0, 1, 0, 1, 0, 2, 3, 3, 0, 3]))
    members = [[0, 2, 4, 6, 10], [3, 5], [7], [1, 8, 9, 11]]
    flat = prompt.tokens.flatten(0, 1)
    mine = features(backbone, prompt.eval(), images)
    theirs = twin_features(backbone, images, [flat[each] for each in members], prompt.inserted, "carry")
    close(mine, theirs)
    weight = torch.randn(mine.shape, generator=torch.Generator().manual_seed(2))
    close(*(torch.autograd.grad((each * weight).sum(), prompt.tokens)[0] for each in (mine, theirs)), "the gradient")


def test_idleness_is_the_derivative_by_a_gate_on_one_token():
    backbone = build_backbone("vit").double()  # products of gradients and tokens nearly cancel
    prompt, images = built(backbone).train(), images_for(backbone).double()
    for step in range(2):
        (features(backbone, prompt, images) * (step + 1)).square().mean().backward()
    gates = torch.ones(4, 3, 1, dtype=torch.float64, requires_grad=True)
    gated = (prompt.tokens.detach().double() * gates).unbind(0)
    out = twin_features(backbone, images, gated, prompt.inserted, "carry")
    for at in range(12):
        gate = torch.autograd.grad(out.square().mean(), gates, retain_graph=True)[0].flatten()[at]
        assert float(prompt.idleness[at]) == pytest.approx(5 * float(gate), rel=1e-4, abs=1e-9)
    assert prompt.idleness.abs().max() > 1e-6


@pytest.mark.parametrize("policy", ["ppo", "thompson"])
def test_moves_are_those_of_lists(policy: str, monkeypatch: pytest.MonkeyPatch):
    backbone = build_backbone("vit")
    prompt = built(backbone, policy=policy)
    targets, rewards = iter([3, 3, 1, 0, 2]), []
    monkeypatch.setattr(prompt.policy, "choose", lambda state, seed: next(targets))
    monkeypatch.setattr(prompt.policy, "learn", rewards.append)
    lists = [[3 * layer + at for at in range(3)] for layer in range(4)]
    values = prompt.tokens.detach().flatten(0, 1).clone()
    wanted, expected, moved, before = [3, 3, 1, 0], [], False, 0.0
    chance = torch.Generator().manual_seed(0)
    prompt.before_epoch(0, 9)
    for epoch in range(1, 6):
        scores, loss = torch.randn(12, generator=chance), 5.0 - epoch
        if epoch == 3:
            scores = -scores.abs()  # nothing is idle
        for _ in range(2):
            prompt.saw_loss(torch.tensor(loss))
            prompt.after_step()
        prompt.idleness += 2 * scores
        prompt.before_epoch(epoch, 9)
        prompt.before_epoch(epoch, 9)  # resumed inside the epoch
        if moved:
            expected.append(before - loss - float(scores.max()))
        best = max((each for layer in lists if len(layer) > 1 for each in layer), key=lambda each: float(scores[each]))
        moved, before = float(scores[best]) > 0, loss
        if moved:
            for layer in lists:
                if best in layer:
                    layer.remove(best)
            lists[wanted.pop(0)].append(best)
            values[best] *= 1e-3
        assert [sorted(layer) for layer in lists] == [
            (prompt.place == layer).nonzero()[:, 0].tolist() for layer in range(4)
        ]
    close(prompt.tokens.detach().flatten(0, 1), values)
    assert rewards == pytest.approx(expected, abs=1e-5)
    assert len(rewards) == 3


def test_the_policy_is_updated_as_written_out():
    torch.manual_seed(0)
    policy = ProximalPolicy(2).double()  # Adam divides by what may be rounding alone
    twin = {name: value.clone() for name, value in policy.named_buffers() if name.startswith(("actor", "critic"))}
    count = sum(policy.get_buffer(name).numel() for names in policy.names.values() for name in names)
    assert count == (6 * 64 + 64) + (64 * 64 + 64) + (64 * 2 + 2) + (6 * 64 + 64) + (64 * 64 + 64) + (64 + 1)
    moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in twin.items()}
    taken = 0
    for _ in range(2):  # the second update goes on from the first
        states, actions, before, values = torch.randn(2, 6, dtype=torch.float64), [], [], []
        for at in range(2):
            actions.append(policy.choose(states[at], seed=at))
            before.append(float(policy.get_buffer("figures")[at, 1]))
            values.append(float(policy.get_buffer("figures")[at, 2]))
            policy.learn((0.7, -0.3)[at])
        total = [0.7 - 0.3, -0.3]
        mean = sum(total) / 2
        spread = (sum((each - mean) ** 2 for each in total) / 1) ** 0.5
        returns = [(each - mean) / (spread + 1e-8) for each in total]
        for _ in range(60):
            taken += 1
            leaves = {name: value.detach().requires_grad_() for name, value in twin.items()}
            loss = torch.zeros((), dtype=torch.float64)
            for at in range(2):
                hidden = {}
                for part in ("actor", "critic"):
                    x = states[at]
                    for layer in range(3):
                        x = leaves[f"{part}_weight{layer}"] @ x + leaves[f"{part}_bias{layer}"]
                        x = torch.tanh(x) if layer < 2 else x
                    hidden[part] = x
                chances = hidden["actor"].exp() / hidden["actor"].exp().sum()
                ratio = torch.exp(chances[actions[at]].log() - before[at])
                advantage = returns[at] - values[at]
                gained = min(ratio * advantage, min(max(ratio, ratio * 0 + 0.8), ratio * 0 + 1.2) * advantage)
                loss = loss - gained / 2 + 0.5 * (hidden["critic"][0] - returns[at]) ** 2 / 2
                loss = loss + 0.01 * (chances * chances.log()).sum() / 2
            gradients = dict(
                zip(leaves, torch.autograd.grad(loss, list(leaves.values()), allow_unused=True), strict=True)
            )
            for name in twin:
                gradient = gradients[name]
                if gradient is None:
                    continue
                first, second = moments[name]
                first = 0.9 * first + 0.1 * gradient
                second = 0.999 * second + 0.001 * gradient**2
                moments[name] = first, second
                step = (first / (1 - 0.9**taken)) / ((second / (1 - 0.999**taken)).sqrt() + 1e-8)
                twin[name] = twin[name] - (3e-4 if name.startswith("actor") else 1e-3) * step
    for names in policy.names.values():
        for name in names:
            torch.testing.assert_close(policy.get_buffer(name), twin[name], atol=1e-7, rtol=1e-5)


def test_the_loss_of_an_update_is_its_definition():
    torch.manual_seed(0)
    policy = ProximalPolicy(2)
    actor, critic = (policy.weights(part) for part in ("actor", "critic"))
    states, figures = torch.randn(2, 6), torch.tensor([[1, -0.5, 0.2, 1.0], [0, -0.9, -0.1, 3.0]])
    total = torch.zeros(())
    for row, reward in zip(range(2), (0.5**0.5, -(0.5**0.5)), strict=True):  # standardised returns 4 and 3
        chances = mlp(actor, states[row]).softmax(-1)
        action, before, value = int(figures[row, 0]), figures[row, 1], figures[row, 2]
        ratio = torch.exp(chances[action].log() - before)
        gained = min(ratio * (reward - value), min(max(ratio, torch.tensor(0.8)), torch.tensor(1.2)) * (reward - value))
        total = total - gained + 0.01 * (chances * chances.log()).sum()
        total = total + 0.5 * (mlp(critic, states[row])[0] - reward) ** 2
    close(clipped_loss(actor, critic, states, figures), total / 2)


def test_thompson_sampling_counts_successes_and_failures():
    policy = ThompsonSampling(3)
    for reward in (0.5, 0.0, -1.0):
        chosen = policy.choose(torch.zeros(9), seed=1)
        policy.learn(reward)
    assert policy.successes.sum() + policy.failures.sum() == 9
    assert policy.failures[chosen] == 2
    policy.successes[2] = 1e6
    assert policy.choose(torch.zeros(9), seed=5) == 2


def test_parameters_are_counted_as_in_the_paper():
    """The agent of a network of 12 layers has 13,901 numbers, in training only."""
    shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    prompt = build_tokens(ProvptPrompt(tokens=10), shape)
    assert sum(parameter.numel() for parameter in prompt.parameters()) == 12 * 10 * 768
    names = [name for names in prompt.policy.names.values() for name in names]
    assert sum(prompt.policy.get_buffer(name).numel() for name in names) == 7308 + 6593


def test_a_run_stores_tokens_and_where_they_are(shapes: Path, tmp_path: Path):
    base = settings(shapes, tmp_path).model_dump(mode="json", exclude={"prompt"})
    run = vpt.train(load_config(base=base, overrides=["prompt=provpt", "prompt.tokens=4", "train.epochs=6"]), QUIET)
    tensors = read_artifact(run.artifact).tensors
    assert {name for name in tensors if name.startswith("prompt.")} == {"prompt.tokens", "prompt.place"}
    assert set(tensors["prompt.place"].tolist()) <= {0.0, 1.0}
