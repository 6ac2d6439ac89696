"""Compares released CLIP prompt trainers with ours, on one small CLIP with the same weights. See released.py.

Each trainer takes steps and saves a checkpoint as it does; ours is what `vpt convert` makes of that file.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.machinery
import json
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.accuracy.released_towers import apart, starts_apart
from vpt.config import load_config
from vpt.inference.predictor import load
from vpt.interop.convert.convert import convert, recognise
from vpt.models.artifact import read_artifact
from vpt.models.classifier import backbone_for, build_model

MODULES = {
    "CoOp": "coop", "CoCoOp": "cocoop", "KgCoOp": "kgcoop", "MaPLe": "maple", "IVLP": "independentVL",
    "VPT in CLIP": "vpt", "PromptSRC": "promptsrc",
}  # fmt: skip
TEXT_ONLY = ("CoOp", "CoCoOp", "KgCoOp")
STEPS, PATCH, SIZE, LAYERS = 3, 8, 32, 3
NAMES = ["hot_dog", "737-200", "dump truck", "skyscraper", "2012 audi s5"]
EMPTY = {"vision_depth": 0, "language_depth": 0, "vision_ctx": 0, "language_ctx": 0}
DETAILS = {
    "MaPLe": {"trainer": "MaPLe", **EMPTY, "maple_length": 2},
    "IVLP": {"trainer": "IVLP", "vision_depth": 2, "language_depth": 3, "vision_ctx": 3, "language_ctx": 4},
    "VPT in CLIP": {"trainer": "VPT", "vision_depth": 3, "language_depth": 0, "vision_ctx": 3, "language_ctx": 0},
    "PromptSRC": {"trainer": "IVLP", "vision_depth": 3, "language_depth": 3, "vision_ctx": 4, "language_ctx": 4},
}
HALF = torch.Tensor.half


def main() -> None:
    """python released_clip.py METHOD CHECKOUT DASSL: one line of JSON."""
    sys.stdout, out = sys.stderr, sys.stdout
    method, checkout, dassl = sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve()
    if method == "KgCoOp":
        checkout /= "KgCoOp"
    run = tip_adapter if method == "Tip-Adapter" else beside
    with tempfile.TemporaryDirectory() as folder:
        found = run(method, checkout, dassl, Path(folder))
    print(json.dumps(found), file=out)


def beside(method: str, checkout: Path, dassl: Path, folder: Path) -> dict[str, Any]:
    """Run the trainer, convert its file, compare."""
    os.chdir(checkout)
    sys.path[:0] = [str(checkout), str(dassl)]
    trainer, saving = stand_ins(method)
    weights = small_clip(method).state_dict()
    for name, value in weights.items():
        if value.ndim > 1 and "token_embedding" not in name:
            value.add_(0.05 * torch.randn_like(value))
    trainer.load_clip_to_cpu = functools.partial(loaded, method, weights)
    model = trainer.CustomCLIP(configured(), NAMES, trainer.load_clip_to_cpu(configured()))
    learning = [name for name, _ in model.named_parameters() if learns(method, name)]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learning)
    registered = model if method not in TEXT_ONLY else model.prompt_learner
    start = copy.deepcopy(registered.state_dict())

    images = torch.randint(0, 256, (6, 3, SIZE, SIZE), dtype=torch.uint8)
    mean, std = (
        torch.tensor(value).view(3, 1, 1) for value in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    pixels, labels = (images / 255 - mean) / std, torch.tensor([0, 1, 2, 3, 4, 0])
    stepped(method, model, registered, pixels, labels, trainer, saving, folder)

    words = [f"backbone=open_clip:{registered_with_open_clip(method, weights, folder)}"]
    words += [f"backbone.weights={folder / 'clip.safetensors'}"]
    file = next(folder.glob("model.pth.tar-*"))
    converted = convert([file], words, folder / "ours.safetensors", NAMES if method == "VPT in CLIP" else None)
    ours: Any = load(converted.path, device="cpu").model

    def placed(values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The counterparts of these released tensors in our model."""
        source = recognise({**registered.state_dict(), **values})
        source.settings()
        return source.owned(ours)

    began = placed(start)
    owned = {name: parameter.requires_grad_() for name, parameter in ours.named_parameters() if name in began}
    ours.train()  # in evaluation it computes the texts once, without gradients
    model.zero_grad()
    theirs, mine = logits(model, pixels), ours(images)
    for result in (theirs, mine):
        torch.nn.functional.cross_entropy(result, labels).backward()
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in registered.named_parameters()
        if parameter.requires_grad
    }
    expected = placed(gradients)
    fresh = dict(build_model(read_artifact(converted.path).config, ours.backbone, converted.classes).named_parameters())
    return {
        "outputs": apart(mine, theirs),
        "gradients": max(apart(value.grad, expected[name]) for name, value in owned.items()),
        "parameters": {
            "theirs": sum(value.numel() for value in gradients.values()),
            "ours": sum(value.numel() for value in owned.values()),
        },
        "start": starts_apart((fresh[name], began[name]) for name in owned),
    }


def tip_adapter(_: str, checkout: Path, __: Path, folder: Path) -> dict[str, Any]:
    """The weights chosen by the released search and by ours, and their accuracies."""
    sys.path.insert(0, str(checkout))
    sys.modules["clip"] = types.ModuleType("clip")
    utils = importlib.import_module("utils")
    utils.cls_acc = lambda scores, wanted: 100 * float((scores.argmax(1) == wanted).float().mean())  # for today's numpy
    model = register(folder)
    head: Any = model.head
    count, width = 40, head.fixed.shape[1]
    labels = torch.arange(count) % len(NAMES)
    centres = torch.randn(len(NAMES), width)
    keys, features = (centres[labels] + 1.5 * torch.randn(count, width) for _ in range(2))
    head.remember(keys, labels)
    features = torch.nn.functional.normalize(features, dim=-1)
    cfg = {"search_hp": True, "search_scale": [12, 5], "search_step": [200, 20]}
    one_hot = torch.nn.functional.one_hot(labels).float()
    beta, alpha = utils.search_hp(cfg, head.keys.T, one_hot, features, labels, head.text().T)
    mine = head.search(features, labels, alphas=5, betas=12)
    return {
        "outputs": max(abs(mine[0] - alpha), abs(mine[1] - beta)),
        "gradients": None,
        "parameters": None,
        "start": None,
    }


def register(folder: Path) -> Any:
    """A small CLIP of ours with the head of Tip-Adapter, its scores a hundred times the cosines."""
    arch = registered_with_open_clip("Tip-Adapter", {"logit_scale": torch.tensor(100.0).log()}, folder)
    words = [f"backbone=open_clip:{arch}", f"backbone.weights={folder / 'clip.safetensors'}", "prompt=none", "head=tip"]
    config = load_config(overrides=[*words, "data=unknown"])
    return build_model(config, backbone_for(config), NAMES).eval()


def stand_ins(method: str) -> tuple[Any, Any]:
    """The trainer's module and Dassl's functions, on a CPU: no GPU, no registry, no half precision."""
    for name in ("gdown", "wilds", "tabulate"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = module
    sys.modules["tabulate"].tabulate = lambda *_, **__: ""
    torch.Tensor.half = lambda self: self
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.nn.Module.cuda = lambda self, *_, **__: self
    engine, metrics = types.ModuleType("dassl.engine"), types.ModuleType("dassl.metrics")
    engine.TRAINER_REGISTRY = types.SimpleNamespace(register=lambda: lambda one: one)
    engine.TrainerX = object
    metrics.compute_accuracy = None
    sys.modules |= {"dassl.engine": engine, "dassl.metrics": metrics}
    importlib.import_module("dassl.optim")
    importlib.import_module("dassl.utils")
    usual = torch.optim.lr_scheduler.LRScheduler.__init__

    def without_verbose(self: Any, optimizer: Any, last_epoch: int = -1, *_: Any) -> None:
        usual(self, optimizer, last_epoch)

    torch.optim.lr_scheduler.LRScheduler.__init__ = without_verbose
    return importlib.import_module(f"trainers.{MODULES[method]}"), sys.modules["dassl.utils"]


def configured() -> Any:
    """Dassl's configuration, as far as the trainers read it."""
    node = importlib.import_module("yacs.config").CfgNode
    words = {"CTX_INIT": "a photo of a", "PREC": "fp32"}
    tokens, text = {"N_CTX_VISION": 3, "PROMPT_DEPTH_VISION": 3}, {"N_CTX_TEXT": 4, "PROMPT_DEPTH_TEXT": 3}
    cfg = node({"INPUT": {"SIZE": [SIZE, SIZE]}, "MODEL": {"BACKBONE": {"NAME": "small"}}})
    cfg.DATASET = node({"NAME": "OxfordPets"})
    cfg.TRAINER = node(
        {
            "COOP": {**words, "N_CTX": 4, "CTX_INIT": "", "CSC": False, "CLASS_TOKEN_POSITION": "end", "W": 8.0},
            "COCOOP": {**words, "N_CTX": 4},
            "MAPLE": {**words, "N_CTX": 2, "PROMPT_DEPTH": 3},
            "IVLP": {**words, **tokens, **text, "PROMPT_DEPTH_VISION": 2},
            "VPT": {**words, **tokens},
            "PROMPTSRC": {**words, **tokens, **text, "N_CTX_VISION": 4, "PREC": "fp16", "GPA_MEAN": 2, "GPA_STD": 1},
        }
    )
    cfg.TRAINER.PROMPTSRC.TEXT_LOSS_WEIGHT, cfg.TRAINER.PROMPTSRC.IMAGE_LOSS_WEIGHT = 25, 10
    optim = {"NAME": "sgd", "LR": 0.002, "WEIGHT_DECAY": 5e-4, "MOMENTUM": 0.9, "SGD_DAMPNING": 0.0}
    optim |= {"SGD_NESTEROV": False, "RMSPROP_ALPHA": 0.99, "ADAM_BETA1": 0.9, "ADAM_BETA2": 0.999}
    optim |= {"STAGED_LR": False, "NEW_LAYERS": [], "BASE_LR_MULT": 0.1, "LR_SCHEDULER": "cosine", "STEPSIZE": [-1]}
    optim |= {"GAMMA": 0.1, "MAX_EPOCH": STEPS, "WARMUP_EPOCH": 1, "WARMUP_TYPE": "constant", "WARMUP_RECOUNT": True}
    cfg.OPTIM = node({**optim, "WARMUP_CONS_LR": 1e-5, "WARMUP_MIN_LR": 1e-5})
    return cfg


def widths(method: str) -> tuple[int, int, int]:
    """Of features, of the text tower and of the image tower: some trainers only know those of ViT-B/16."""
    wide = method in ("KgCoOp", "MaPLe")
    return (512 if wide else 32), (512 if method in ("KgCoOp", "MaPLe") else 32), (768 if method == "MaPLe" else 64)


def small_clip(method: str, details: dict[str, Any] | None = None) -> Any:
    """Their CLIP with three small layers in either tower."""
    features, text, image = widths(method)
    arguments = (features, SIZE, LAYERS, image, PATCH, 77, 49408, text, 2, LAYERS)
    clip = importlib.import_module("clip.model").CLIP
    if method in TEXT_ONLY:
        return clip(*arguments)
    return clip(*arguments, details or {"trainer": "CoOp", **EMPTY})


def loaded(method: str, weights: dict[str, Tensor], cfg: Any, zero_shot_model: bool = False) -> Any:
    """What `load_clip_to_cpu` gives."""
    model = small_clip(method, None if zero_shot_model else DETAILS.get(method))
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert all("VPT" in name for name in missing), missing
    return model.float().eval()


def learns(method: str, name: str) -> bool:
    """Whether a trainer trains a parameter."""
    if method == "KgCoOp":
        return "ctx" in name
    return ("prompt_learner" in name or "VPT" in name) and "ZS_image" not in name


def logits(model: Any, pixels: Tensor) -> Tensor:
    """Those of the released model in evaluation."""
    model.eval()
    found = model(pixels)
    return found[0] if isinstance(found, tuple) else found


def stepped(
    method: str, model: Any, registered: Any, pixels: Tensor, labels: Tensor, trainer: Any, saving: Any, folder: Path
) -> None:
    """Steps of the released loss, optimizer and schedule, and the checkpoint that Dassl writes."""
    optimizing, cfg = sys.modules["dassl.optim"], configured()
    optimizer = optimizing.build_optimizer(registered, cfg.OPTIM)
    schedule = optimizing.build_lr_scheduler(optimizer, cfg.OPTIM)
    averaged = None
    weights = gaussian(trainer, cfg) if method == "PromptSRC" else None
    for step in range(STEPS):
        model.train()
        result = model(pixels) if method in ("CoOp", "KgCoOp", "VPT in CLIP") else model(pixels, labels)
        if method == "PromptSRC":
            loss = result[0]
        elif method == "KgCoOp":
            loss = torch.nn.functional.cross_entropy(result[0], labels) + 8 * result[1]
        else:
            loss = result if result.ndim == 0 else torch.nn.functional.cross_entropy(result, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if weights is not None:  # as it does after every epoch, on CLIP's half precision
            halves = {name: HALF(value) for name, value in model.state_dict().items() if name != "logit_scale"}
            halves["logit_scale"] = model.state_dict()["logit_scale"]
            weighted = trainer.PromptSRC.state_dict_weighting(None, copy.deepcopy(halves), weights[step])
            averaged = weighted if averaged is None else trainer.PromptSRC.state_dict_add(None, weighted, averaged)
    if averaged is not None:
        learned = {
            name: value.float() for name, value in averaged.items() if learns(method, name) and "token_" not in name
        }
        model.load_state_dict({**model.state_dict(), **learned})
    state = {
        "state_dict": averaged or registered.state_dict(), "epoch": STEPS, "optimizer": optimizer.state_dict(),
        "scheduler": schedule.state_dict(), "val_result": None,
    }  # fmt: skip
    saving.save_checkpoint(state, str(folder), is_best=False)


def gaussian(trainer: Any, cfg: Any) -> Any:
    """PromptSRC's weights of the epochs."""
    density = trainer.PromptSRC.get_gauss(None, cfg.TRAINER.PROMPTSRC.GPA_MEAN, cfg.TRAINER.PROMPTSRC.GPA_STD)
    found = np.array([density(epoch) for epoch in range(1, STEPS + 1)])
    return found / found.sum()


def registered_with_open_clip(method: str, weights: dict[str, Tensor], folder: Path) -> str:
    """The same CLIP for our side: its architecture, and its weights in clip.safetensors."""
    features, text, image = widths(method)
    vision = {"image_size": SIZE, "patch_size": PATCH, "width": image, "layers": LAYERS, "head_width": 64}
    texts = {"context_length": 77, "vocab_size": 49408, "width": text, "heads": 2, "layers": LAYERS}
    config = {"embed_dim": features, "quick_gelu": True, "vision_cfg": vision, "text_cfg": texts}
    (folder / "released-small.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "released-small.json")
    net = open_clip.create_model("released-small")
    net.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, folder / "clip.safetensors")
    return "released-small"


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
