"""VQT's second stage (Tu et al. 2023): after training, the head is fitted anew to the features that it needs most."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from vpt.config import LinearHead, RunConfig, VqtPrompt
from vpt.heads.linear import build_linear
from vpt.models.classifier import PromptedModel
from vpt.training.context import RunContext
from vpt.training.losses import Loss
from vpt.training.lr_schedule import rate
from vpt.training.optimizer import optimizer_of
from vpt.training.predict_loop import collect_features, some_of

MOST_IMAGES = 20_000  # training images whose features are kept in memory


def select_features(model: PromptedModel, context: RunContext, loss_of: Loss) -> None:
    """Fit a head with a group penalty to the features of the training images, then another one to those of them whose
    columns of weights are largest in the first; the weights of all others are zero."""
    prompt, config = context.config.prompt, context.config
    if not isinstance(prompt, VqtPrompt) or prompt.keep_features == 1 or not isinstance(model.head, nn.Sequential):
        return
    last = model.head[-1]
    assert isinstance(last, nn.Linear)
    model.eval()
    layers = model.constants()
    records = some_of(context.data.train, MOST_IMAGES, config.train.seed)
    features, labels = collect_features(model, context, lambda each: model.features(each, layers), records, "train")
    features, labels = features.clone().to(context.device).float(), labels.clone().to(context.device)
    ranked = fit(features, labels, last.out_features, config, context.batch_size, loss_of, prompt.feature_penalty)
    kept = ranked.weight.detach().norm(dim=0).topk(max(1, int(prompt.keep_features * features.shape[1]))).indices
    fitted = fit(features[:, kept], labels, last.out_features, config, context.batch_size, loss_of)
    with torch.no_grad():
        last.weight.zero_()
        last.weight[:, kept] = fitted.weight.to(last.weight)
        last.bias.copy_(fitted.bias)
    context.console.say(f"head: fitted anew to {len(kept)} of {features.shape[1]} features")


def fit(
    features: Tensor, labels: Tensor, classes: int, config: RunConfig, size: int, loss_of: Loss, penalty: float = 0.0
) -> nn.Linear:
    """The linear layer of a new head, trained on features (N, D) in batches of `size`, as long and with the optimiser
    of the run. `penalty` weighs the sum of the norms of the columns of its weights."""
    assert isinstance(config.head, LinearHead)
    train, device = config.train, features.device
    assert train.epochs is not None
    how, batches = train.optimizer, -(-len(features) // size)
    order = torch.Generator().manual_seed(train.seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(train.seed)
        head = build_linear(config.head, features.shape[1], classes).to(device).train()
        last, step = cast(nn.Linear, head[-1]), 0
        optimizer = optimizer_of([{"params": [*head.parameters()], "weight_decay": how.weight_decay.head}], how)
        for _ in range(train.epochs):
            for chosen in torch.randperm(len(features), generator=order).to(device).split(size):
                optimizer.param_groups[0]["lr"] = rate(how.lr.head, step, batches, train)
                loss = loss_of(head(features[chosen]), labels[chosen]) + penalty * last.weight.norm(dim=0).sum()
                optimizer.zero_grad()
                loss.backward()
                if train.clip_norm is not None:
                    nn.utils.clip_grad_norm_(head.parameters(), train.clip_norm)
                optimizer.step()
                step += 1
    return last
