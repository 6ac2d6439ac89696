"""Transforms: evaluation as the libraries do it, augmentation as a function of the seed alone."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision.transforms import v2

from tests.helpers.image_files import photo
from vpt.data.normalization import Preprocess
from vpt.data.transforms.classification import EvalTransform, TrainTransform, eval_transform, train_transform
from vpt.utils.errors import UserError

SIZES = [(40, 60), (60, 40), (33, 33), (300, 401), (7, 5)]
STRANGE = [(1, 1), (1, 3000), (3000, 1), (2, 500)]
PRE = Preprocess(size=32, crop_pct=0.9)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 0.9])
def test_crop_equals_torchvision_on_pillow_images(shape: tuple[int, int], interpolation: str, crop_pct: float) -> None:
    image = photo(*shape)
    mine = eval_transform(Preprocess(32, interpolation=interpolation, crop_pct=crop_pct))(image)
    theirs = v2.Compose(
        [v2.Resize(int(32 / crop_pct), v2.InterpolationMode(interpolation)), v2.CenterCrop(32), v2.PILToTensor()]
    )(Image.fromarray(image))
    assert torch.equal(mine, theirs)


def test_crop_equals_timms_evaluation() -> None:
    create_transform = pytest.importorskip("timm.data").create_transform
    image = photo(90, 131)
    theirs = create_transform(32, interpolation="bicubic", crop_pct=0.9, mean=(0, 0, 0), std=(1, 1, 1))
    tensor = theirs(Image.fromarray(image))
    mine = eval_transform(PRE)(image)
    assert torch.equal(mine, (tensor * 255).round().to(torch.uint8))


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    for transform in (eval_transform(PRE), train_transform(PRE, "light"), train_transform(PRE, "standard")):
        result = transform(stripes, 1).float()
        # cv2's cubic filter would leave stripes with a deviation of 89.
        assert result.std() < 15


def test_squash_shows_everything_and_pad_keeps_the_shape() -> None:
    image = np.full((10, 40, 3), 200, np.uint8)
    pre = Preprocess(size=32, mean=(0.0, 0.5, 1.0), crop_pct=0.5)
    assert (eval_transform(pre, "squash")(image) == 200).all()
    padded = eval_transform(pre, "pad")(image)
    assert (padded[:, 12:20] == 200).all()
    assert padded[:, 0, 0].tolist() == padded[:, 31, 31].tolist() == [0, 128, 255]
    assert padded[:, 11, 5].tolist() == [0, 128, 255]


@pytest.mark.parametrize("shape", SIZES + STRANGE)
@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("augment", ["none", "light", "standard", "strong"])
def test_any_shape_becomes_a_square(shape: tuple[int, int], resize: str, augment: str) -> None:
    image = photo(*shape)
    image.flags.writeable = False
    transform = train_transform(PRE, augment, resize)  # type: ignore[arg-type]
    for seed in range(3):
        result = transform(image, seed)
        assert result.shape == (3, 32, 32)
        assert result.dtype == torch.uint8
        assert result.is_contiguous()
        result.zero_()  # the result shares no memory with the image
    np.testing.assert_array_equal(image, photo(*shape))


@pytest.mark.parametrize("augment", ["light", "standard", "strong"])
def test_result_depends_on_the_seed_alone(augment: str) -> None:
    image = photo(60, 80)
    transform = train_transform(PRE, augment)
    first = [transform(image, seed) for seed in range(20)]
    # Neither the state of any global generator nor what was done before counts.
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    other = pickle.loads(pickle.dumps(transform))
    again = [other(image, seed) for seed in reversed(range(20))]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again)))
    assert len({tensor.numpy().tobytes() for tensor in first}) == 20


def test_global_generators_are_left_alone() -> None:
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # noqa: NPY002
    transform = train_transform(PRE, "strong")
    for seed in range(20):
        transform(photo(), seed)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_steps_draw_independent_numbers() -> None:
    # With Compose.set_random_seed all steps see the same first number: a flip would mean a change of brightness.
    pipeline = A.Compose([A.HorizontalFlip(p=0.5), A.InvertImg(p=0.5)])
    transform = TrainTransform(pipeline, EvalTransform(2), "test")
    image = np.zeros((2, 2, 3), np.uint8)
    image[:, 1] = 200
    results = [transform(image, seed)[0, 0].tolist() for seed in range(200)]
    kinds = {(0, 200): 0, (200, 0): 0, (255, 55): 0, (55, 255): 0}
    for result in results:
        kinds[tuple(result)] += 1
    assert min(kinds.values()) > 25


def test_presets_do_what_they_say() -> None:
    left = np.zeros((40, 40, 3), np.uint8)
    left[:, :20] = 255
    flips = sum(int(train_transform(PRE, "light")(left, seed)[0, 16, 0] == 0) for seed in range(100))
    assert 25 < flips < 75
    grey = np.full((40, 40, 3), 128, np.uint8)
    light = train_transform(PRE, "light")
    assert all((light(grey, seed) == 128).all() for seed in range(10))
    changed = sum(int((train_transform(PRE, "standard")(grey, seed) != 128).any()) for seed in range(50))
    assert changed > 25


def write_yaml(path: Path, steps: list[dict[str, object]]) -> str:
    path.write_text(yaml.safe_dump({"transform": {"__class_fullname__": "Compose", "transforms": steps}}))
    return str(path)


def test_own_pipeline_from_yaml(tmp_path: Path) -> None:
    saved = tmp_path / "saved.yaml"
    A.save(A.Compose([A.RandomCrop(20, 20), A.VerticalFlip(p=0.5)]), saved, data_format="yaml")
    transform = train_transform(PRE, str(saved))
    image = photo(60, 80)
    assert transform(image, 1).shape == (3, 32, 32)
    assert torch.equal(transform(image, 1), pickle.loads(pickle.dumps(transform))(image, 1))
    single = tmp_path / "single.yml"
    A.save(A.Rotate(limit=40, p=1.0), single, data_format="yaml")
    assert train_transform(PRE, str(single), "pad")(image, 1).shape == (3, 32, 32)
    assert train_transform(PRE, write_yaml(tmp_path / "empty.yaml", []))(image, 0).shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"__class_fullname__": "HorizontlFlip"}], "did you mean 'HorizontalFlip'"),
        ([{"__class_fullname__": "HorizontalFlip", "p": 1, "q": 1}], "'q'"),
        ([{"__class_fullname__": "RandomCrop", "height": -1, "width": 4, "p": 1}], "does not describe a pipeline"),
        ([{"__class_fullname__": "Normalize", "p": 1}], "remove Normalize"),
        ([{"__class_fullname__": "ToTensorV2", "p": 1}], "ToTensorV2"),
        ([{"__class_fullname__": "OneOf", "transforms": [{"__class_fullname__": "Spin"}], "p": 1}], "'Spin'"),
        ([{"__class_fullname__": "RandomCrop", "height": 1000, "width": 1000, "p": 1}], "fails on an image"),
        ([{"__class_fullname__": "HorizontalFlip"}], "give it 'p: 1.0'"),
        (["HorizontalFlip"], "does not describe a pipeline"),
    ],
)
def test_wrong_pipelines(tmp_path: Path, steps: list[dict[str, object]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_transform(PRE, write_yaml(tmp_path / "a.yaml", steps))


def test_wrong_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'standard'"):
        train_transform(PRE, "standart")
    with pytest.raises(UserError, match="cannot read"):
        train_transform(PRE, str(tmp_path / "missing.yaml"))
    (tmp_path / "a.yaml").write_text("steps: 1\n")
    with pytest.raises(UserError, match="must contain"):
        train_transform(PRE, str(tmp_path / "a.yaml"))
    with pytest.raises(UserError, match="did you mean 'bicubic'"):
        eval_transform(Preprocess(8, interpolation="bicubi"))
