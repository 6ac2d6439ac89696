"""The ways of adapting a ViT that benchmarks/speed/steps.py times: a training step and an inference step of each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from tests.helpers.concatenation_twin import twin_features
from tests.helpers.method_twins import written_out
from vpt.backbones.backbone import Backbone
from vpt.backbones.factory import load_backbone
from vpt.backbones.forward import execute
from vpt.backbones.layer_prompt import NOTHING
from vpt.config import load_config
from vpt.models.classifier import PromptedModel, build_model
from vpt.training.cuda_graphs import Replayed
from vpt.training.parallelize import prepare_for_training
from vpt.utils.device import autocast

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """What is timed, and the same in the usual way, whose operations can be counted."""

    timed: Callable[[], Tensor]
    usual: Callable[[], Tensor]

    def __call__(self) -> Tensor:
        return self.timed()


# Settings of each; None: the backbone alone, as its library runs it.
SETTINGS: dict[str, list[str] | None] = {
    "plain backbone": None,
    "linear": ["prompt=none"],
    "shallow": ["prompt=shallow"],
    "concatenation": ["prompt=deep"],
    "vpt": ["prompt=deep"],
    "lora": ["prompt=none", "tuning=lora"],
    "full": ["prompt=none", "tuning=full"],
    # Only on request (--variants):
    "plain forward": None,  # of the plain backbone, in turns with the training steps, of which twice this is a bound
    "released form": ["prompt=deep"],  # as KMnP/vpt computes it: concatenation, attention written out, no graphs
    "recompute": ["prompt=deep", "train.recompute=true"],
    "sharded": ["prompt=deep", "train.shard=true"],  # needs a process group, which may be of one process
    "last quarter": ["prompt=deep"],  # prompts in the last quarter of the layers
    "last quarter, cached": ["prompt=deep"],  # and the tokens that enter it computed once
}
VARIANTS = tuple(SETTINGS)[:7]
OURS = ("linear", "shallow", "vpt", "lora", "full", "recompute", "sharded", "last quarter")
CLASSES = [str(digit) for digit in range(10)]


class Case:
    """Models of one size, prompt length and batch, on one device in one precision.

    Args:
        name: timm name; weights are random, for speed does not depend on them.
        tokens: prompt tokens.
        batch: images.
        precision: "fp32" or "bf16" (autocast; frozen weights are stored in bf16, in all variants).
        mode: "eager"; "graphs", in which passes are replayed from CUDA graphs; "compiled", in which torch.compile has
            fused them before.
    """

    def __init__(self, name: str, tokens: int, batch: int, precision: str, mode: str, device: torch.device) -> None:
        self.words = [f"backbone={name}", "backbone.pretrained=false"]
        self.tokens, self.device, self.precision, self.mode = tokens, device, precision, mode
        self.pristine = load_backbone(load_config(overrides=self.words).backbone)
        self.backbone = copy.deepcopy(self.pristine)
        size = self.backbone.preprocess.size
        self.images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
        self.labels = torch.randint(0, len(CLASSES), (batch,), device=device)
        self.context = autocast(precision, device)

    def training(self, variants: Iterable[str]) -> dict[str, Step]:
        """A complete training step of each trained variant: forward, backward, AdamW; and the plain forward pass."""
        steps = {name: self._learn(name) for name in variants if SETTINGS[name] is not None}
        return {**steps, **({"plain forward": self._infer("plain backbone")} if "plain forward" in variants else {})}

    def inference(self, variants: Iterable[str]) -> dict[str, Step]:
        """Scores of each; a probe and a fully tuned network cost what the plain backbone costs, and are left out, as is
        what differs in training alone."""
        only_trained = ("linear", "full", "recompute", "sharded", "last quarter, cached", "plain forward")
        return {name: self._infer(name) for name in variants if name not in only_trained}

    def _learn(self, name: str) -> Step:
        model = self._model(name).train()
        learning = [parameter for _, _, parameter in model.trainable()]
        usual = self._forward(name, model)
        optimizer = torch.optim.AdamW(learning, lr=1e-6, fused=self.device.type == "cuda")

        def step(forward: Forward) -> Tensor:
            with self.context():
                logits = forward(self.images)
            loss = nn.functional.cross_entropy(logits.float(), self.labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss

        return Step(partial(step, self._faster(name, usual, learning)), partial(step, usual))

    def _infer(self, name: str) -> Step:
        model = self._model(name).eval()
        with torch.inference_mode(), self.context():
            plain = model.ready() if name in OURS else self._forward(name, model)
            faster = self._faster(name if name == "released form" else "", plain, [])

        def step(forward: Forward) -> Tensor:
            with torch.inference_mode(), self.context():
                return forward(self.images)

        return Step(partial(step, faster), partial(step, plain))

    def _model(self, name: str) -> PromptedModel:
        words = [*self.words, *(SETTINGS[name] or ["prompt=none"])]
        words += [f"prompt.tokens={self.tokens}"] if "prompt=none" not in words else []
        if name.startswith("last quarter"):
            depth = len(self.pristine.require_tower("prompts").blocks)
            words += [f"prompt.layers={[*range(depth - max(1, depth // 4), depth)]}"]
        words += ["train.compile=default"] if self.mode == "compiled" and name in OURS else []
        config = load_config(overrides=words)
        model = build_model(config, self._own(name), CLASSES)
        prepare_for_training(model, config.train, self.device, self.precision)
        return model

    def _own(self, name: str) -> Backbone:
        """A view of the shared frozen backbone, or a copy for a variant that changes it."""
        return copy.deepcopy(self.pristine) if name in ("lora", "full", "sharded") else self.backbone.view()

    def _forward(self, name: str, model: PromptedModel) -> Forward:
        if name == "plain backbone":
            net = model.backbone.library_net
            return lambda images: model.head(
                net.forward_head(net.forward_features(model.normalise(images)), pre_logits=True)
            )
        if name == "last quarter, cached":
            return self._above_cached(model)
        if name not in ("concatenation", "released form"):
            return model
        prompt, run = model.prompt, written_out if name == "released form" else None

        def concatenated(images: Tensor) -> Tensor:
            sets = prompt.sets(len(images))
            rows = twin_features(model.backbone, model.normalise(images), sets, prompt.inserted, "carry", run=run)
            return model.head(rows)

        return concatenated

    def _above_cached(self, model: PromptedModel) -> Forward:
        """Only the layers from the first prompt on; the tokens that enter them are those of the case's images."""
        tower = model.backbone.require_tower("prompts")
        first, lead = min(model.prompt.inserted), tower.pool_rows or 1
        with torch.no_grad(), self.context():
            tokens, rotary = tower.embed(model.normalise(self.images))
            below = replace(tower, blocks=tower.blocks[:first])
            tokens, _ = execute(below, model.steps[:first], tokens, rotary, [NOTHING] * first, lead)
        above = replace(tower, blocks=tower.blocks[first:])

        def forward(images: Tensor) -> Tensor:
            layers = model.constants(len(images)) or []
            read, _ = execute(above, model.steps[first:], tokens, rotary, layers[first:], lead)
            return model.head(tower.pool(read))

        return forward

    def _faster(self, name: str, forward: Forward, learning: list[Tensor]) -> Forward:
        """The pass as the mode wants it; the layers of our own models are compiled already where they learn."""
        if name == "released form":
            return forward
        if self.mode == "compiled" and name not in OURS:
            forward = torch.compile(forward)
        if self.mode == "eager":
            return forward
        with self.context():
            return Replayed(forward, learning, self.images)
