"""Schedule, losses and optimiser state, against their formulas."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tests.helpers.vit_families import CLASSES, build_backbone
from vpt.config import RunConfig, load_config
from vpt.models.classifier import build_model
from vpt.training.losses import build_loss, class_weights
from vpt.training.lr_schedule import factor
from vpt.training.optimizer import build_optimizer, load_optimizer_tensors, optimizer_tensors, set_rates
from vpt.utils.errors import UserError


def test_the_first_step_moves_and_the_rate_falls_to_almost_nothing():
    rates = [factor(step, 100, 0.1) for step in range(100)]
    assert rates[0] == 0.1
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5 * (1 + math.cos(math.pi * 45 / 90)))
    assert 0 < rates[-1] < 0.001
    assert all(first >= second for first, second in itertools.pairwise(rates[10:]))
    assert [factor(step, 1, 0.1) for step in range(1)] == [1.0]


def test_accumulated_passes_give_the_gradient_of_the_whole_batch():
    torch.manual_seed(0)
    model = build_model(load_config(overrides=["prompt.tokens=2"]), build_backbone("vit"), CLASSES[:3])
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    loss_of = build_loss(False, 0.1, None)
    loss_of(model(images), labels).backward()
    whole = {name: parameter.grad.clone() for name, _, parameter in model.trainable()}
    model.zero_grad()
    for part in (slice(0, 4), slice(4, 6)):
        (loss_of(model(images[part]), labels[part]) * len(labels[part]) / 6).backward()
    for name, _, parameter in model.trainable():
        torch.testing.assert_close(parameter.grad, whole[name], atol=1e-6, rtol=1e-4)


def test_class_weights():
    assert class_weights("none", [1, 2]) is None
    assert class_weights("balanced", [10, 30]).tolist() == pytest.approx([2.0, 2 / 3])
    assert class_weights([1.0, 0.0], [5, 5]).tolist() == [1.0, 0.0]
    for wrong in ([], [1.0], [1.0, -1.0], [1.0, math.nan], [1.0, math.inf], [0.0, 0.0]):
        with pytest.raises(UserError, match="2 classes need 2"):
            class_weights(wrong, [5, 5])


def test_several_labels_loss_is_binary_cross_entropy():
    logits, labels = torch.randn(4, 3), torch.randint(0, 2, (4, 3)).float()
    expected = -(labels * logits.sigmoid().log() + (1 - labels) * (1 - logits.sigmoid()).log()).mean()
    torch.testing.assert_close(build_loss(True, 0.0, None)(logits, labels), expected)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_optimiser_state_round_trips(kind: str):
    config = load_config(overrides=[f"train.optimizer={kind}", "prompt.tokens=2"])

    def fresh():
        model = build_model(config, build_backbone("vit"), CLASSES[:3])
        return model, build_optimizer(model, config.train.optimizer)

    def step(model, optimizer):
        images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        optimizer.zero_grad()
        model(images).logsumexp(1).sum().backward()
        set_rates(optimizer, lambda base: base * 0.5)
        optimizer.step()

    model, optimizer = fresh()
    step(model, optimizer)
    saved, owned = optimizer_tensors(model, optimizer), {k: v.clone() for k, v in model.owned_state().items()}
    saved = {name: tensor.clone() for name, tensor in saved.items()}
    step(model, optimizer)
    other, again = fresh()
    other.load_owned(owned)
    load_optimizer_tensors(other, again, saved)
    step(other, again)
    for name, value in other.owned_state().items():
        assert torch.equal(value, model.owned_state()[name])


def test_groups_go_by_role_with_their_own_rates():
    config = RunConfig()
    model = build_model(config, build_backbone("vit"), CLASSES[:3])
    groups = build_optimizer(model, config.train.optimizer).param_groups
    rates = config.train.optimizer.lr
    assert {group["role"]: group["lr"] for group in groups} == {"prompt": rates.prompt, "head": rates.head}
    assert sum(len(group["params"]) for group in groups) == len(list(model.trainable()))
