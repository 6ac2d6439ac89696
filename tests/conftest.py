"""Shared by all tests: the tests' own modules can be imported, and nothing of the user's caches is touched."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

from vpt.data.datasets import digit_distances
from vpt.data.datasets.digits import NAMES, read_digits
from vpt.data.detection import synthetic_scenes
from vpt.data.segmentation.scenes import read_mask_scenes
from vpt.utils import plotting

PLOTS = {"curves_png": plotting.curves_png, "confusion_png": plotting.confusion_png}

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# No test depends on a busy machine's pace.
settings.register_profile("any pace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any pace")
# The models here are tiny: a second thread would only wait for the first, and test processes run side by side.
torch.set_num_threads(1)
# At its first backward pass autograd looks which devices there are, and starts threads for all but the CPU; a process
# with such threads cannot be forked. Tests make up devices, and others fork, so it looks now.
torch.ones(1, requires_grad=True).sum().backward()

# A shell starts what runs in the background with interrupts ignored; tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        with patch.context() as fewer:
            for counts in (synthetic_scenes.COUNTS, digit_distances.COUNTS):
                for split, count in {"train": 120, "val": 16, "test": 24}.items():
                    fewer.setitem(counts, split, count)
            synthetic_scenes.read_scenes()
            read_mask_scenes()
            digit_distances.read_distances()
        for split in ("val", "test"):
            entries = read_digits().splits[split]
            for name in NAMES:
                for entry in [entry for entry in entries if entry.labels == (name,)][8:]:
                    entry.source.unlink()
        yield


@pytest.fixture
def whole_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedded data sets as they are; other tests find a quarter of their images, for measuring all takes time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True, scope="session")
def _same_precision() -> Iterator[None]:
    """`train.precision=auto` is fp32 here, whatever the CPU; tests/utils/test_precision.py tests the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vpt.utils.device.cpu_has_bf16", lambda: False)
        yield


@pytest.fixture(autouse=True, scope="session")
def _small_plots() -> Iterator[None]:
    """Curves and confusion matrices are one pixel: to draw them is half of a small run's time. See `drawn_plots`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plotting, "curves_png", lambda rows, path, metric, probe=None: _one_pixel(path))
        patch.setattr(plotting, "confusion_png", lambda matrix, classes, path: _one_pixel(path))
        yield


def _one_pixel(path: Path) -> Path:
    return plotting.picture_png(np.zeros((1, 1, 3), np.uint8), path)


@pytest.fixture(scope="module")
def drawn_plots() -> Iterator[None]:
    """Curves and confusion matrices as a user gets them, to the end of the module."""
    with pytest.MonkeyPatch.context() as patch:
        for name, drawn in PLOTS.items():
            patch.setattr(plotting, name, drawn)
        yield


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three easy classes, 12 images each for training and 4 each for val and test: a bar that stands, a
    bar that lies, a square."""
    root = tmp_path_factory.mktemp("shapes")
    chance = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4), ("test", 4)):
        for name, (height, width) in {"lying": (6, 24), "square": (14, 14), "standing": (24, 6)}.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = chance.integers(0, 60, (32, 32, 3), dtype=np.uint8)
                top, left = chance.integers(0, 32 - height + 1), chance.integers(0, 32 - width + 1)
                pixels[top : top + height, left : left + width] += 150
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def small_net() -> None:
    """Two-layer networks under names of their own in timm, so that whole runs take a second; one has seven classes."""
    from timm.models import register_model
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    def build(classes: int) -> VisionTransformer:
        net = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=classes)
        net.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
        net.default_cfg = net.pretrained_cfg
        return net

    def test_vit_patch8_32(pretrained: bool = False, num_classes: int = 0, **_: object) -> VisionTransformer:
        return build(num_classes)

    def test_classifier_32(pretrained: bool = False, num_classes: int = 7, **_: object) -> VisionTransformer:
        net = build(num_classes)
        if num_classes:
            torch.nn.init.normal_(net.head.weight)
        return net

    def test_swin_32(pretrained: bool = False, num_classes: int = 0, **_: object) -> SwinTransformer:
        net = SwinTransformer(32, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=num_classes)
        net.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
        net.pretrained_cfg |= {"fixed_input_size": True}
        net.default_cfg = net.pretrained_cfg
        return net

    for builder in (test_vit_patch8_32, test_classifier_32, test_swin_32):
        builder.__module__ = "timm.models.vision_transformer"
        register_model(builder)
