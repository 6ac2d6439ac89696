"""The shipped recipes have the constants of the released code that they name, and every one of them trains."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from tests.helpers.paths import ROOT
from vpt.config import RunConfig, load_config
from vpt.experiments.benchmarks.run import settings_of
from vpt.experiments.benchmarks.suites import SUITES
from vpt.experiments.sweep.search_space import read_space_file
from vpt.models.classifier import backbone_for, build_model
from vpt.training.optimizer import build_optimizer

CONFIGS = ROOT / "configs"


def value(config: RunConfig, name: str) -> Any:
    found: Any = config
    for part in name.split("."):
        found = getattr(found, part)
    return found


def recipe(name: str, *words: str) -> RunConfig:
    return load_config(CONFIGS / f"{name}.yaml", words)


def check(config: RunConfig, wanted: dict[str, Any]) -> None:
    assert {name: value(config, name) for name in wanted} == wanted


# What tune_vtab.py and the head of the original VPT set, which VFPT, E2VPT, VAPT and VIPAMIN build on.
VPT = {
    "backbone.name": "vit_base_patch16_224.orig_in21k",
    "head.init": "fan_out",
    "head.bias": -4.59512,
    "train.epochs": 100,
    "train.warmup": 0.1,
    "train.batch_size": 64,
    "train.optimizer.kind": "sgd",
    "train.optimizer.momentum": 0.9,
    "train.clip_norm": None,
    "train.keep": "last",
    "train.drop_path": 0.0,  # its blocks are in evaluation mode
    "prompt.dropout": 0.1,
}
ON_MAE = {"backbone.name": "vit_base_patch16_224.mae"}
OWN_NORM = {**ON_MAE, "head.pool": "mean_then_own_norm"}
WANG = {
    **OWN_NORM,
    "train.optimizer.kind": "adamw",
    "train.optimizer.lr.prompt": 0.05,
    "train.optimizer.lr.head": 0.05,
    "train.optimizer.weight_decay.head": 0.5,
    "train.batch_size": 32,
    "train.epochs": 100,
    "train.warmup": 0.1,
    "train.drop_path": 0.0,
    "data.augment": "crop",
    "head.init": "small",
}
BENCH: dict[str, dict[str, Any]] = {
    "vtab-vpt-deep": {**VPT, "prompt.kind": "deep"},
    "vtab-vpt-shallow": {**VPT, "prompt.kind": "shallow", "prompt.dropout": 0.0},
    "vtab-linear": {key: wanted for key, wanted in VPT.items() if key != "prompt.dropout"} | {"prompt.kind": "none"},
    "vtab-vpt-deep-mae": {**VPT, **ON_MAE, "head.pool": "mean_then_norm"},
    "fgvc-vpt-deep": {**VPT, "train.keep": "best"},
    "vtab-vfpt": {**VPT, "prompt.kind": "vfpt", "prompt.tokens": 10, "prompt.fourier": 1.0},
    "vtab-e2vpt": {**VPT, "prompt.tokens": 10, "prompt.kv_tokens": 5, "prompt.share_kv": True},
    "vtab-vapt": {**VPT, "prompt.tokens": 10, "prompt.kernel": 2, "prompt.bottleneck": 8},
    "vtab-cvpt": {
        "prompt.dropout": 0.1,
        "train.drop_path": 0.1,
        "train.drop_last": True,
        "train.optimizer.kind": "adamw",
        "train.optimizer.lr.prompt": 0.001,
        "train.optimizer.lr.head": 0.001,
        "train.optimizer.weight_decay.prompt": 0.05,
        "train.epochs": 100,
        "train.warmup": 0.1,
        "train.batch_size": 32,
    },
    "fgvc-gated-mae": {
        **VPT,
        **OWN_NORM,
        "prompt.tokens": 100,
        "prompt.gate": 5.0,
        "prompt.temperature": True,
        "train.optimizer.lr.prompt": 0.1,
        "train.optimizer.weight_decay.prompt": 0.0,
        "train.keep": "best",
    },
    "fgvc-bpt-mae": {
        **WANG,
        "prompt.kind": "bpt",
        "prompt.tokens": 100,
        "prompt.rank": 75,
        "prompt.init": "uniform",
        "prompt.layers": "first:1",
        "train.optimizer.weight_decay.prompt": 0.005,
    },
    "fgvc-pae": {
        **VPT,
        "prompt.kind": "deep",
        "prompt.tokens": 20,
        "prompt.pae.form": "released",
        "prompt.pae.consistency": 0.5,
        "prompt.pae.stability": 0.2,
        "prompt.pae.width": 256,
        "prompt.pae.from_images": True,
        "train.batch_size": 128,
        "train.optimizer.lr.prompt": 0.25,
        "train.optimizer.lr.head": 0.25,
        "train.optimizer.weight_decay.prompt": 0.001,
        "train.keep": "best",
    },
    "fgvc-da-vpt": {
        "backbone.name": "vit_base_patch16_224.augreg_in21k",
        "prompt.tokens": 20,
        "prompt.guided": "last:1",
        "prompt.guided_tokens": 10,
        "prompt.patch_weight": 0.01,
        "prompt.class_weight": 0.01,
        "prompt.scale": 32,
        "prompt.margin": 0.1,
        "prompt.dropout": 0.0,
        "train.optimizer.kind": "adamw",
        "train.optimizer.lr.prompt": 0.001,
        "train.epochs": 100,
        "train.warmup": 0.1,
        "train.batch_size": 32,
    },
    "fgvc-tcpa": {
        "backbone.name": "vit_base_patch16_224.augreg_in21k",
        "prompt.kind": "tcpa",
        "prompt.tokens": 18,
        "prompt.class_tokens": 18,
        "prompt.chosen": 10,
        "prompt.weight": 0.01,
        "prompt.random_epochs": 10,
        "prompt.fourier": True,
        "prompt.dropout": 0.1,
        "train.optimizer.kind": "adamw",
        "train.optimizer.lr.prompt": 0.0015,
        "train.optimizer.weight_decay.prompt": 0.5,
        "train.epochs": 100,
        "train.warmup": 0.2,
        "train.batch_size": 128,
        "train.label_smoothing": 0.1,
    },
    "vtab-viapt": {
        "prompt.kind": "viapt",
        "prompt.tokens": 4,
        "prompt.instance_tokens": 4,
        "prompt.width": 256,
        "prompt.kept": 0.5,
        "train.optimizer.kind": "adamw",
        "train.optimizer.lr.prompt": 0.0005,
        "train.optimizer.weight_decay.prompt": 0.05,
        "train.epochs": 50,
        "train.batch_size": 32,
    },
    "vtab-ship": {
        "backbone.name": "vit_base_patch16_224.orig_in21k",
        "backbone.normalise": "own",
        "prompt.kind": "ship",
        "prompt.tokens": 50,
        "prompt.shared_tokens": 10,
        "prompt.attribute_tokens": 10,
        "prompt.threshold": 0.95,
        "prompt.centres": 200,
        "prompt.scale": 0.1,
        "prompt.weight": 0.5,
        "prompt.dropout": 0.0,
        "train.optimizer.kind": "adamw",
        "train.optimizer.lr.prompt": 0.001,
        "train.optimizer.weight_decay.prompt": 0.001,
        "train.epochs": 100,
        "train.warmup": 0.1,
        "train.batch_size": 64,
    },
    "vtab-sa2vp": {
        "backbone.name": "vit_base_patch16_224.orig_in21k",
        "backbone.normalise": "own",
        "prompt.kind": "sa2vp",
        "prompt.rank": 8,
        "prompt.scale": 0.1,
        "prompt.every": 4,
        "prompt.weight": 0.2,
        "prompt.dropout": 0.1,
        "train.optimizer.kind": "adamw",
        "train.optimizer.lr.prompt": 0.001,
        "train.optimizer.lr.head": 0.001,
        "train.optimizer.weight_decay.prompt": 0.0001,
        "train.epochs": 100,
        "train.warmup": 0.1,
        "train.batch_size": 64,
    },
    "vtab-pro-vpt": {
        **VPT,
        "prompt.kind": "provpt",
        "prompt.tokens": 20,
        "prompt.policy": "ppo",
        "train.schedule": "constant",
        "train.warmup": 0.0,
        "train.clip_norm": 0.25,
        "train.optimizer.lr.prompt": 2.5,
        "train.optimizer.weight_decay.prompt": 0.0001,
    },
    "vtab-adaptformer": {
        "prompt.kind": "adapter",
        "prompt.rank": 8,
        "prompt.place": "beside",
        "prompt.scale": 0.1,
        "prompt.dropout": 0.1,
        "train.optimizer.lr.prompt": 0.001,
    },
    "vtab-vqt": {
        "prompt.kind": "vqt",
        "prompt.tokens": 1,
        "prompt.keep_features": 0.7,
        "prompt.feature_penalty": 1e-4,
        "prompt.dropout": 0.1,
        "train.epochs": 100,
        "train.warmup": 0.1,
        "train.batch_size": 128,
        "train.keep": "last",
    },
    "vtab-vpt-deep-swin": {
        **VPT,
        "backbone.name": "swin_base_patch4_window7_224.ms_in22k",
        "prompt.kind": "deep",
        "head.pool": "all",
    },
    "fgvc-spt-mae": {
        **WANG,
        "prompt.kind": "deep",
        "prompt.tokens": 20,
        "prompt.init": "sample",
        "train.optimizer.weight_decay.prompt": 0.01,
    },
    "vtab-vipamin-mae": {
        **VPT,
        **ON_MAE,
        "head.pool": "mean_then_norm",
        "prompt.kind": "shallow",
        "prompt.tokens": 100,
        "prompt.init": "vipamin",
        "prompt.dropout": 0.0,
        "train.batch_size": 32,
        "train.optimizer.kind": "adamw",
        "train.optimizer.eps": 1e-6,
        "train.optimizer.weight_decay.prompt": 0.01,
    },
}
del BENCH["vtab-vipamin-mae"]["train.optimizer.momentum"]


def test_every_recipe_of_a_benchmark_is_checked():
    assert sorted(BENCH) == sorted(file.stem for file in (CONFIGS / "bench").glob("*.yaml"))


@pytest.mark.parametrize("name", BENCH)
def test_a_recipe_of_a_benchmark_has_the_released_constants(name: str):
    suite = SUITES[name.partition("-")[0]]
    config = settings_of(suite, str(CONFIGS / "bench" / f"{name}.yaml"))
    check(config, {"backbone.normalise": "imagenet", **BENCH[name]})


@pytest.mark.parametrize("name", BENCH)
def test_a_recipe_of_a_benchmark_makes_a_model_that_learns(name: str):
    """On random weights, a step of two images."""
    words = ["backbone=vit_tiny_patch16_224", "backbone.pretrained=false", "backbone.image_size=64", "data=digits"]
    config = recipe(f"bench/{name}", *words)
    model = build_model(config, backbone_for(config), ["a", "b", "c"])
    optimizer = build_optimizer(model, config.train.optimizer)
    model.train()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1])).backward()
    optimizer.step()
    assert {role for _, role, _ in model.trainable()} == ({"head"} if "linear" in name else {"prompt", "head"})


def test_e2vpts_tokens_by_task():
    for task, tokens, pairs in (("caltech101", 32, 5), ("cifar", 5, 5), ("oxford_flowers102", 1, 1), ("dtd", 10, 5)):
        config = recipe("bench/vtab-e2vpt", f"data=vtab:{task}")
        assert (config.prompt.tokens, config.prompt.kv_tokens) == (tokens, pairs)


GRIDS: dict[str, tuple[int, list[float]]] = {
    # Rates for a batch of 256, brought to the recipe's batch.
    "vtab": (40, [64 / 256 * rate for rate in (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50)]),
    "cvpt": (84, [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01]),
    "vipamin": (84, [32 / 256 * rate for rate in (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)]),
}


@pytest.mark.parametrize("name", GRIDS)
def test_grids_are_the_released_ones_and_score_the_last_epoch(name: str):
    space = read_space_file(CONFIGS / "sweep" / f"{name}.yaml")
    points, rates = GRIDS[name]
    count = 1
    for axis in space.axes.values():
        count *= len(axis.values)
    assert (space.grid, count) == (True, points)
    assert sorted(space.axes["train.optimizer.lr"].values) == pytest.approx(rates)
    assert "train.keep=last" in space.words
    if name == "vtab":  # of equal points the first one is kept, which is the one with the smallest rate
        assert list(space.axes["train.optimizer.lr"].values) == sorted(space.axes["train.optimizer.lr"].values)


DASSL = {
    "train.drop_last": True,
    "train.schedule": "epochs",
    "train.optimizer.kind": "sgd",
    "train.optimizer.momentum": 0.9,
    "train.optimizer.weight_decay.prompt": 5e-4,
    "train.clip_norm": None,
    "train.keep": "last",
    "data.augment": "crop",
    "data.crop_scale": None,
}
CLIP = {
    "coop": (0.002, 32, 200),
    "cocoop": (0.002, 1, 10),
    "kgcoop": (0.002, 128, 100),
    "prograd": (0.002, 32, 200),
    "maple": (0.0035, 4, 5),
    "ivlp": (0.0025, 4, 20),
    "promptsrc": (0.0025, 4, 20),
    "vpt": (0.0025, 4, 5),
}


@pytest.mark.parametrize("name", CLIP)
def test_recipes_of_dassl(name: str):
    rate, batch, epochs = CLIP[name]
    config = recipe(f"clip/{name}", "data=dassl:oxford_pets", "data.half=base", "data.shots=16")
    check(config, {**DASSL, "train.optimizer.lr.prompt": rate, "train.batch_size": batch, "train.epochs": epochs})


@pytest.mark.parametrize(
    ("words", "epochs", "tokens", "context"),
    [
        (["data.shots=1"], 50, 16, None),
        (["data.shots=2"], 100, 16, None),
        (["data.shots=4"], 100, 16, None),
        (["data.shots=8"], 200, 16, None),
        (["data.shots=16"], 200, 16, None),
        (["data.shots=16", "data=dassl:imagenet"], 50, 16, None),
        (["data.shots=16", "data.half=base"], 200, 4, "a photo of a"),
        (["data.shots=16", "data.half=base", "data=dassl:imagenet"], 50, 4, "a photo of a"),
    ],
)
def test_coops_epochs_and_tokens(words: list[str], epochs: int, tokens: int, context: str | None):
    config = recipe("clip/coop", *words)
    check(config, {"train.epochs": epochs, "prompt.tokens": tokens, "prompt.words": context})


def test_templates():
    from vpt.models.class_templates import templates_of

    def of(name: str, data: str) -> tuple[str, ...]:
        return templates_of(recipe(f"clip/{name}", f"data=dassl:{data}"))

    assert of("vpt", "eurosat") == ("a photo of a {}.",)
    assert of("kgcoop", "dtd") == ("a photo of a {}, a type of texture.",)
    assert of("kgcoop", "eurosat") == ("a centered satellite photo of {}.",)
    assert of("coop", "dtd") == ("{} texture.",)
    assert len(of("tip", "imagenet")) == 7
    assert of("tip", "dtd") == ("{} texture.",)


def test_maples_transfer_and_promptsrcs_few_shots():
    check(
        recipe("clip/maple", "data=dassl:imagenet", "data.shots=16"),
        {"prompt.depth": 3, "train.epochs": 2, "train.optimizer.lr.prompt": 0.0026},
    )
    check(recipe("clip/maple", "data=dassl:imagenet", "data.half=base"), {"prompt.depth": 9, "train.epochs": 5})
    for data, mean, std in (("caltech101", 30, 30), ("dtd", 45, 5)):
        config = recipe("clip/promptsrc", f"data=dassl:{data}", "data.shots=4")
        check(config, {"train.epochs": 50, "train.average.mean": mean, "train.average.std": std})
    check(recipe("clip/promptsrc", "data=dassl:dtd", "data.half=base", "data.shots=16"), {"train.average.mean": 15})


ADAMW = {"train.optimizer.kind": "adamw", "train.keep": "last", "train.clip_norm": None, "data.augment": "crop"}


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        (
            "taskres",
            ["data.shots=4"],
            {"train.epochs": 100, "train.optimizer.lr.prompt": 2e-3, "train.batch_size": 256},
        ),
        ("taskres", ["data=dassl:oxford_flowers", "data.shots=8"], {"train.epochs": 200, "prompt.scale": 1.0}),
        ("taskres", ["data=dassl:imagenet"], {"train.optimizer.lr.prompt": 2e-4, "head.templates": "simple"}),
        ("tcp", [], {"train.optimizer.eps": 1e-3, "train.optimizer.lr.prompt": 2e-3, "prompt.weight": 8.0}),
        ("tcp", [], {"train.epochs": 50, "train.batch_size": 32, "prompt.layer": 8, "prompt.width": 128}),
        ("mmrl", [], {"train.epochs": 10, "train.batch_size": 4, "prompt.layer": 5, "prompt.alpha": 0.7}),
        ("mmrl", ["data=dassl:imagenet", "data.shots=16"], {"train.epochs": 5, "prompt.weight": 0.5}),
        ("mmrl", ["data=dassl:eurosat", "data.shots=16"], {"prompt.width": 2048, "train.epochs": 50}),
        ("mmrlpp", ["data=dassl:dtd", "data.half=base", "data.shots=16"], {"prompt.weight": 7.0, "train.epochs": 10}),
        ("mmrlpp", ["data=dassl:food101"], {"prompt.beta": 0.1, "train.optimizer.weight_decay.prompt": 5e-4}),
        ("clip-lora", [], {"prompt.rank": 2, "prompt.alpha": 1.0, "prompt.dropout": 0.25, "data.crop_scale": 0.08}),
        ("clip-lora", [], {"train.optimizer.lr.prompt": 2e-4, "train.optimizer.weight_decay.prompt": 1e-2}),
    ],
)
def test_later_recipes_with_adam(name: str, words: list[str], expected: dict[str, object]):
    check(recipe(f"clip/{name}", *words), {**ADAMW, **expected})


@pytest.mark.parametrize("data", ["imagenet", "sun397", "stanford_cars", "dtd", "oxford_pets", "eurosat", "food101"])
def test_clip_loras_epochs_are_500_steps_for_each_shot(data: str):
    from vpt.data.datasets.dassl import SETS

    steps = recipe("clip/clip-lora", f"data=dassl:{data}").train.epochs * SETS[data].classes * 16 / 32
    assert steps == pytest.approx(500 * 16, rel=0.02)


def test_prograds_templates_and_strength():
    words = ["data=dassl:dtd", "data.shots=16"]
    expected = {"prompt.words": "a texture of", "head.templates": "a texture of {}.", "prompt.strength": 0.8}
    check(recipe("clip/prograd", *words), {**expected, "train.epochs": 200})
    check(recipe("clip/prograd", "data=dassl:dtd", "data.shots=1"), {"prompt.strength": 1.0, "train.epochs": 50})


# VTAB's tasks that differ from the others of their group: rank, scale, rate in the README of SA2VP's code.
SA2VP = {"oxford_iiit_pet": (8, 0.1, 5e-4), "svhn": (16, 0.5, 1e-3), "resisc45": (16, 0.5, 1e-3)}
SA2VP |= {"clevr_count": (32, 1.5, 5e-4), "dsprites_ori": (16, 0.1, 1e-3), "smallnorb_ele": (32, 0.5, 1e-3)}


def test_sa2vps_settings_of_each_task():
    groups = {"natural": (8, 0.1, 1e-3), "specialized": (16, 1.5, 1e-3), "structured": (32, 1.5, 1e-3)}
    for task, found in SUITES["vtab"].tasks.items():
        rank, scale, rate = SA2VP.get(task, groups[found.group])
        batch = 64 if found.group == "natural" else 40
        expected = {"prompt.rank": rank, "prompt.scale": scale, "train.batch_size": batch}
        rates = {"train.optimizer.lr.prompt": rate, "train.optimizer.lr.head": rate}
        check(recipe("bench/vtab-sa2vp", f"data=vtab:{task}"), {**expected, **rates})


# dassl's name -> weight and sharpness of the certain images: TDA's configs/*.yaml.
TDA = {"imagenet": (2, 5), "imagenet_a": (2, 5), "imagenet_r": (1, 8), "imagenet_sketch": (2.363, 7.45)}
TDA |= {"caltech101": (5, 5), "dtd": (2, 3), "eurosat": (4, 8), "fgvc_aircraft": (2, 2), "food101": (1, 1)}
TDA |= {"oxford_flowers": (1, 5), "oxford_pets": (2, 7), "stanford_cars": (1, 7), "sun397": (2, 3), "ucf101": (3, 8)}


def test_tda():
    usual = {"head.shots": 3, "head.minus_shots": 2, "head.minus": 0.117, "head.minus_beta": 1.0, "head.rare": 0.03}
    for data, (alpha, beta) in TDA.items():
        check(recipe("clip/tda", f"data=dassl:{data}"), {**usual, "head.alpha": alpha, "head.beta": beta})


# dassl's name -> alpha while keys learn, largest beta and alpha that are tried: Tip-Adapter's configs/*.yaml.
TIP = {
    "caltech101": (3, 12, 5),
    "dtd": (2, 13, 13),
    "eurosat": (2, 12, 10),
    "fgvc_aircraft": (5, 30, 30),
    "food101": (1.17, 10, 10),
    "imagenet": (1.17, 7, 3),
    "oxford_flowers": (10, 50, 50),
    "oxford_pets": (1.17, 7, 3),
    "stanford_cars": (3, 20, 10),
    "sun397": (1.17, 12, 10),
    "ucf101": (3, 7, 3),
}


@pytest.mark.parametrize("data", TIP)
def test_tip_adapter(data: str):
    alpha, most_beta, most_alpha = TIP[data]
    check(
        recipe("clip/tip", f"data=dassl:{data}"),
        {
            "head.first_alpha": alpha,
            "head.first_beta": 1.0,
            "head.beta": most_beta,
            "head.alpha": most_alpha,
            "train.epochs": 100 if data == "eurosat" else 20,
            "train.optimizer.eps": 1e-4,
            "train.optimizer.lr.head": 0.001,
            "data.crop_scale": 0.5,
            "train.batch_size": 256,
        },
    )


def test_what_ran_beside_released_code_agreed():
    """benchmarks/accuracy/released.py wrote these figures; another run of it must not make them worse."""
    found = json.loads((CONFIGS.parent / "benchmarks" / "results" / "released.json").read_text())
    assert len(found) > 20
    for method, figures in found.items():
        assert figures["outputs"] < 1e-5, method
        assert (figures["gradients"] or 0) < 1e-5, method
        counts = figures["parameters"] or {"ours": 0, "theirs": 0}
        assert counts["ours"] == counts["theirs"], method
        assert (figures["start"] or 0) < 0.04, method  # of some thousand random numbers
        assert len(figures["commit"]) == 40, method


def test_the_table_of_released_code_names_recipes_that_are_there():
    text = (CONFIGS.parent / "docs" / "methods.md").read_text()
    table = text[text.index("<!-- table:released -->") :].partition("<!-- end -->")[0]
    named = set(re.findall(r"`((?:bench|clip|pixel)/[\w-]+)`", table))
    assert len(named) > 15
    assert all((CONFIGS / f"{name}.yaml").is_file() for name in named)
    every = {f"bench/{file.stem}" for file in (CONFIGS / "bench").glob("*.yaml")}
    not_run = {
        "bench/fgvc-pae",
        "bench/fgvc-da-vpt",
        "bench/fgvc-tcpa",
        "bench/vtab-viapt",
        "bench/vtab-ship",
        "bench/vtab-sa2vp",
        "bench/vtab-vqt",
        "bench/vtab-vpt-deep-swin",
        "bench/vtab-adaptformer",
        "bench/vtab-pro-vpt",
    }  # described where the methods are
    assert every - named == {"bench/vtab-linear"} | not_run
    assert all(f"`{name}`" in text for name in not_run)
