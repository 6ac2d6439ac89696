"""A bank of tasks on one backbone: equal to each task's own model, whatever is mixed, added, removed or evicted."""

from __future__ import annotations

import gc
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensor

import vpt
from tests.helpers.bank_tasks import KINDS, clip_words, make
from vpt.data.decode import BadImage, decode
from vpt.inference.bank.bank import Bank
from vpt.inference.classification import Classification
from vpt.inference.results import Detections
from vpt.inference.segmentation import Segmentation
from vpt.utils.errors import UserError


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    return {name: make(folder, name, seed) for seed, name in enumerate(KINDS)}


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    chance = np.random.default_rng(0)
    return [chance.integers(0, 256, (50 + 7 * number, 64, 3), dtype=np.uint8) for number in range(6)]


@pytest.fixture(scope="module")
def bank(artifacts: dict[str, Path]) -> Bank:
    made = Bank(device="cpu")
    for name, path in artifacts.items():
        made.add(name, path)
    return made


def same(mine: object, theirs: object) -> None:
    if isinstance(theirs, Detections):
        assert isinstance(mine, Detections)
        assert mine.labels[:5] == theirs.labels[:5]
        np.testing.assert_allclose(mine.scores, theirs.scores, atol=1e-5)
        return
    if isinstance(theirs, Segmentation):
        assert isinstance(mine, Segmentation)
        assert mine.mask.shape == theirs.mask.shape
        assert (mine.mask == theirs.mask).mean() > 0.999
        return
    assert isinstance(mine, Classification)
    assert isinstance(theirs, Classification)
    assert dict(zip(mine.labels, mine.scores, strict=True)) == pytest.approx(
        dict(zip(theirs.labels, theirs.scores, strict=True)), abs=1e-5
    )


def test_a_mixed_batch_equals_each_tasks_own_model(bank: Bank, artifacts: dict[str, Path], photos: list[np.ndarray]):
    order = np.random.default_rng(1)
    tasks = [str(name) for name in order.permutation(list(KINDS) * 2)]
    images = [photos[int(order.integers(len(photos)))] for _ in tasks]
    found = bank.predict(images, tasks)
    own = {name: vpt.load(path, device="cpu") for name, path in artifacts.items()}
    for image, name, mine in zip(images, tasks, found, strict=True):
        (theirs,) = own[name].predict(image)
        same(mine, theirs)
        assert mine.plot().size == theirs.plot().size  # a result knows its image


def test_in_half_precision_every_kind_stays_near_its_full_precision(
    artifacts: dict[str, Path], photos: list[np.ndarray], bank: Bank
):
    names = list(artifacts)
    half = Bank(device="cpu", precision="bf16")
    for name, path in artifacts.items():
        half.add(name, path)
    images = [photos[number % len(photos)] for number in range(len(names))]
    changed = 0
    for name, image, mixed, full in zip(
        names, images, half.predict(images, names, top=9), bank.predict(images, names, top=9), strict=True
    ):
        own = vpt.load(artifacts[name], device="cpu", precision="bf16").predict(image, top=9)[0]
        if isinstance(full, Detections):
            assert isinstance(own, Detections)
            assert isinstance(mixed, Detections)
            assert own.scores[0] == pytest.approx(full.scores[0], abs=0.05)
            assert mixed.scores[0] == pytest.approx(own.scores[0], abs=0.05)
            continue
        if isinstance(full, Segmentation):
            assert (own.mask == full.mask).mean() > 0.9
            assert (mixed.mask == own.mask).mean() > 0.95
            continue
        mine, theirs, exact = (dict(zip(one.labels, one.scores, strict=True)) for one in (own, mixed, full))
        assert mine == pytest.approx(exact, abs=0.03), name
        assert theirs == pytest.approx(mine, abs=0.02), name
        changed += mine != exact
    assert changed == len(names) - 4  # all but the boxes and the masks
    with pytest.raises(UserError, match="precision fp16 needs a CUDA device, not cpu"):
        Bank(device="cpu", precision="fp16")
    with pytest.raises(UserError, match="precision 'half' is unknown"):
        vpt.load(artifacts["deep"], device="cpu", precision="half")  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [1, 2, 40])
def test_prompts_of_different_lengths_and_the_same_task_many_times(bank: Bank, photos: list[np.ndarray], length: int):
    tasks = (["deep", "deep-longer"] * length)[: 2 * length]
    images = [photos[number % len(photos)] for number in range(len(tasks))]
    together = bank.predict(images, tasks)
    for image, name, mine in zip(images, tasks, together, strict=True):
        same(mine, bank.predict([image], [name])[0])


@pytest.mark.parametrize("first", ["deep", "plain-pixels"])
def test_each_image_is_normalised_as_its_own_task_wants(
    bank: Bank, artifacts: dict[str, Path], photos: list[np.ndarray], first: str
):
    """Two tasks that share a pass and differ in nothing but the normalisation of their pixels."""
    tasks = [first, *({"deep", "plain-pixels"} - {first}), first]
    found = bank.predict([photos[0]] * 3, tasks)
    for name, mine in zip(tasks, found, strict=True):
        same(mine, vpt.load(artifacts[name], device="cpu").predict(photos[0])[0])


def test_tasks_of_one_shape_share_a_pass(bank: Bank, photos: list[np.ndarray], monkeypatch: pytest.MonkeyPatch):
    from vpt.backbones.backbone import Backbone

    passes = []
    usual = Backbone.features
    monkeypatch.setattr(Backbone, "features", lambda self, *a, **k: (passes.append(len(a[0])), usual(self, *a, **k))[1])
    tasks = ["deep", "deep-longer", "deep-mlp", "vfpt", "e2vpt", "plain-pixels", "deep"]
    bank.predict([photos[0]] * len(tasks), tasks)
    assert passes == [7]
    passes.clear()
    bank.predict([photos[0]] * 3, ["deep", "shallow", "probe"])
    assert sorted(passes) == [1, 1, 1]


LAST: dict[str, list[str]] = {
    "last": ["prompt.layers=last:1", "prompt.tokens=3"],
    "last-longer": ["prompt.layers=last:1", "prompt.tokens=6", "head.pool=avg"],
    "last-two": ["prompt.layers=last:2", "prompt.tokens=2"],
    "last-cvpt": ["prompt=cvpt", "prompt.tokens=3", "prompt.layers=last:2"],
    "last-vqt": ["prompt=vqt", "prompt.tokens=2", "prompt.layers=last:1"],
    "last-plain-pixels": ["prompt.layers=last:1", "prompt.tokens=2", "backbone.normalise=none"],
    "last-small": ["prompt.layers=last:1", "prompt.tokens=2", "backbone.image_size=32"],
    "other-probe": ["prompt=none", "head=mlp", "head.hidden=[8]"],
}


def test_layers_below_the_prompts_are_computed_once_for_an_image(
    artifacts: dict[str, Path], photos: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from vpt.inference.bank import forward_groups

    paths = {name: make(tmp_path, name, seed, *words) for seed, (name, words) in enumerate(LAST.items())}
    paths |= {name: artifacts[name] for name in ("deep", "probe", "pixels", "boxes")}
    bank = Bank(device="cpu")
    for name, path in paths.items():
        bank.add(name, path)
    depth = len(bank._use(["probe"])["probe"].predictor.model.steps)
    passes: list[tuple[int, int | None, int]] = []
    usual = forward_groups.execute

    def count(*args: Any, start: int, stop: int) -> Any:
        passes.append((start, stop, len(args[2])))
        return usual(*args, start=start, stop=stop)

    monkeypatch.setattr(forward_groups, "execute", count)
    own = {name: vpt.load(path, device="cpu") for name, path in paths.items()}
    tasks = [*paths, "last", "last-two", "probe"]
    images = [photos[number >= len(paths)] for number in range(len(tasks))]
    for image, name, mine in zip(images, tasks, bank.predict(images, tasks), strict=True):
        same(mine, own[name].predict(image)[0])
    # Two photos in the usual size, and one of them once more, normalised otherwise, and once more with a border.
    assert sum((stop - start) * rows for start, stop, rows in passes) <= 2 * (depth - 1) + 2 * (depth - 1)
    assert max(rows for _, _, rows in passes) <= 4
    passes.clear()
    bank.predict([photos[0], photos[1]], ["last", "last-longer"])  # nothing in common
    bank.predict([photos[0]] * 2, ["deep", "last"])
    assert passes == []


def test_an_image_is_decoded_once_for_several_tasks(
    artifacts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """But again for a task that reads it otherwise."""
    from vpt.inference.bank import bank as bank_module

    paths = {name: artifacts[name] for name in ("deep", "probe")}
    paths["grey"] = make(tmp_path, "grey", 1, "data.channels=1")
    paths["small"] = make(tmp_path, "small", 1, "data.max_pixels=100")
    paths["window"] = make(tmp_path, "window", 1, "data.window=[0,100]")
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for seed, file in enumerate(files):
        grey = np.random.default_rng(seed).integers(0, 60_000, (40, 48)).astype(np.uint16)
        Image.fromarray(grey).save(file)
    bank = Bank(device="cpu")
    for name, path in paths.items():
        bank.add(name, path)
    decoded: list[Any] = []
    usual = bank_module._decoded

    def counted(image: Any, *given: Any) -> np.ndarray:
        decoded.append(image)
        return usual(image, *given)

    monkeypatch.setattr(bank_module, "_decoded", counted)
    one, other = files
    given = [(one, "deep"), (one, "probe"), (one, "grey"), (one, "window"), (one, "small"), (one, "probe")]
    given += [(other, "probe"), (other, "deep")]
    found = bank.predict(*map(list, zip(*given, strict=True)))  # type: ignore[arg-type]
    assert decoded == [one] * 5 + [other]
    assert [isinstance(each, BadImage) for each in found] == [name == "small" for _, name in given]
    for (image, name), mine in zip(given, found, strict=True):
        if name != "small":
            same(mine, vpt.load(paths[name], device="cpu").predict(image)[0])


@pytest.mark.parametrize("order", ["01", "10"])
def test_zero_shot_tasks_and_probes_on_one_clip(tmp_path: Path, photos: list[np.ndarray], order: str):
    """The text tower comes with the first task that reads names, whether or not that is the first of all."""
    base = clip_words(tmp_path, "transformer")[:2]
    words = (["head=zeroshot", "prompt=coop", "prompt.tokens=2"], ["prompt=deep", "prompt.tokens=2"])
    paths = {f"clip{at}": make(tmp_path, f"clip{at}", at, *base, *each) for at, each in enumerate(words)}
    bank = Bank(device="cpu")
    for at in order:
        bank.add(f"clip{at}", paths[f"clip{at}"])
    found = bank.predict([photos[0]] * 2, list(paths))
    for path, mine in zip(paths.values(), found, strict=True):
        same(mine, vpt.load(path, device="cpu").predict(photos[0])[0])


def test_a_task_that_is_tuned_on_every_image_is_refused(tmp_path: Path):
    base = clip_words(tmp_path, "transformer")[:2]
    path = make(tmp_path, "tuned", 1, *base, "head=zeroshot", "prompt=tpt", "prompt.views=2")
    with pytest.raises(UserError, match=r"tuned on every image \(prompt=tpt\)"):
        Bank(device="cpu").add("tuned", path)


def test_a_task_that_reads_names_on_another_backbone_is_refused(bank: Bank, tmp_path: Path):
    base = clip_words(tmp_path, "transformer")[:2]
    path = make(tmp_path, "words", 1, *base, "head=zeroshot", "prompt=none")
    with pytest.raises(UserError, match=r"was trained on backbone open_clip:sizes-transformer .*not on vpt_nano"):
        bank.add("words", path)


@pytest.mark.parametrize("kind", ["transformer", "timm", "timm-convolutional"])
@pytest.mark.parametrize("first", ["resized", "native"])
def test_clip_tasks_of_several_image_sizes(tmp_path: Path, photos: list[np.ndarray], kind: str, first: str):
    """Whichever comes first and brings the backbone."""
    base = clip_words(tmp_path, kind)
    prompt = ["prompt=none"] if kind == "timm-convolutional" else ["prompt=deep", "prompt.tokens=2"]
    paths = {
        name: make(tmp_path, name, seed, *base, *prompt, *size)
        for seed, (name, size) in enumerate({"resized": ["backbone.image_size=64"], "native": []}.items())
    }
    bank = Bank(device="cpu")
    for name in sorted(paths, key=lambda name: name != first):
        bank.add(name, paths[name])
    for name, mine in zip(paths, bank.predict([photos[0]] * 2, list(paths)), strict=True):
        same(mine, vpt.load(paths[name], device="cpu").predict(photos[0])[0])


def test_another_size_than_a_backbone_of_one_size_takes_is_refused(tmp_path: Path, photos: list[np.ndarray]):
    base = [*clip_words(tmp_path, "resnet"), "prompt=none"]
    bank = Bank(device="cpu")
    bank.add("resized", make(tmp_path, "resized", 0, *base, "backbone.image_size=96"))
    with pytest.raises(UserError, match=r"task native needs images of 64 pixels, but .* only one size, 96 pixels"):
        bank.add("native", make(tmp_path, "native", 1, *base))
    assert bank.predict([photos[0]], ["resized"])


def test_a_network_without_a_token_sequence(tmp_path: Path, photos: list[np.ndarray]):
    base = ["backbone=test_resnet", "backbone.pretrained=false", "backbone.image_size=64", "head=linear"]
    bank = Bank(device="cpu")
    paths = {
        name: make(tmp_path, name, seed, *base, *words)
        for seed, (name, words) in enumerate(
            {"framed": ["prompt=pixel", "prompt.size=4"], "bare": ["prompt=none", "backbone.image_size=96"]}.items()
        )
    }
    for name, path in paths.items():
        bank.add(name, path)
    for name, mine in zip(paths, bank.predict([photos[0]] * 2, list(paths)), strict=True):
        same(mine, vpt.load(paths[name], device="cpu").predict(photos[0])[0])
    with pytest.raises(UserError, match="only for classifiers on a vision transformer"):
        bank.attention(photos[0], "bare")


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_served(bank: Bank, photos: list, tmp_path: Path):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    found = bank.predict([photos[0], str(tmp_path / "bad.png"), photos[1]], ["deep", "deep", "shallow"])
    assert isinstance(found[1], BadImage)
    assert "bad.png" in str(found[1])
    assert isinstance(found[0], Classification)
    assert isinstance(found[2], Classification)


def test_tasks_come_and_go(artifacts: dict[str, Path], photos: list[np.ndarray]):
    bank = Bank(device="cpu")
    info = bank.add("one", artifacts["deep"])
    assert info.classes == ("deep 0", "deep 1")
    assert info.loaded
    bank.add("two", artifacts["deep-longer"])
    assert bank.names() == ["one", "two"]
    bank.remove("one")
    assert "one" not in bank
    with pytest.raises(UserError, match="there is no task 'one'"):
        bank.predict([photos[0]], ["one"])
    with pytest.raises(UserError, match="top=0 must be at least 1"):
        bank.predict([photos[0]], ["two"], top=0)
    with pytest.raises(UserError, match="did you mean 'two'"):
        bank.predict([photos[0]], ["twoo"])
    bank.add("two", artifacts["shallow"])  # another artifact under the same name
    same(bank.predict([photos[0]], ["two"])[0], vpt.load(artifacts["shallow"], device="cpu").predict(photos[0])[0])


def test_short_memory_evicts_what_was_used_longest_ago(artifacts: dict[str, Path], photos: list[np.ndarray]):
    free = Bank(device="cpu")
    names = ["deep", "deep-longer", "deep-mlp", "vfpt"]
    sizes = [free.add(name, artifacts[name]).bytes for name in names]
    bank = Bank(device="cpu", memory=sum(sizes) - 1)
    for name in names:
        bank.add(name, artifacts[name])
    assert bank.bytes() <= sum(sizes) - 1
    assert [bank.info(name).loaded for name in names] == [False, True, True, True]
    found = bank.predict([photos[0]] * 4, names)  # more than there is room for: all at once, then back under the limit
    for name, mine in zip(names, found, strict=True):
        same(mine, free.predict([photos[0]], [name])[0])
    bank.predict([photos[0]], ["deep"])
    assert bank.info("deep").loaded
    assert bank.bytes() <= sum(sizes) - 1


def alive() -> int:
    """Bytes of all tensors that there are; those of a compiler's traces, from other tests, have none."""
    gc.collect()
    found = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor) and type(each) is not FakeTensor]
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in found}.values())


def test_what_leaves_memory_leaves_whole_and_comes_back_from_its_file(
    artifacts: dict[str, Path], photos: list[np.ndarray], tmp_path: Path
):
    bank = Bank(device="cpu", memory=1)
    bank.add("other", artifacts["deep-longer"])
    bank.predict([photos[0]], ["other"])
    empty = alive()  # but for the backbone
    path = shutil.copy(artifacts["deep"], tmp_path / "deep.safetensors")
    bank.add("deep", path)
    assert alive() > empty  # the last task that came is never the first to leave
    before = bank.predict([photos[0]], ["deep"])[0]
    assert not bank.info("deep").loaded
    assert alive() == empty
    same(bank.predict([photos[0]], ["deep"])[0], before)
    shutil.copy(artifacts["shallow"], path)  # as the file is by then
    same(bank.predict([photos[0]], ["deep"])[0], vpt.load(path, device="cpu").predict(photos[0])[0])
    assert bank.info("deep").prompt == "shallow"
    Path(path).unlink()
    with pytest.raises(UserError, match=r"task deep was evicted from memory and cannot be loaded again: .*no such"):
        bank.predict([photos[0]], ["deep"])


def test_bytes_are_what_a_loaded_task_holds(artifacts: dict[str, Path], photos: list[np.ndarray]):
    """Of all tensors that are alive beside those of an empty bank's backbone, after passes with another task."""
    bank = Bank(device="cpu")
    bank.add("first", artifacts["deep"])
    bank.predict([photos[0]], ["first"])
    before = alive()
    told = bank.add("second", artifacts["deep-longer"]).bytes + bank.info("first").bytes
    bank.predict([photos[0]] * 2, ["first", "second"])
    assert alive() - before <= told


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["prompt=none", "tuning=full"], "changes all weights of the backbone"),
        (
            ["backbone=vit_tiny_patch16_224", "backbone.pretrained=false", "backbone.image_size=32"],
            "was trained on backbone vit_tiny",
        ),
    ],
)
def test_what_cannot_share_is_refused_by_name(bank: Bank, tmp_path: Path, words: list[str], sentence: str):
    path = make(tmp_path, "other", 1, *words)
    with pytest.raises(UserError, match=sentence):
        bank.add("other", path)
    assert "other" not in bank


def test_adding_and_removing_under_load(artifacts: dict[str, Path], photos: list[np.ndarray]):
    """Threads predict while tasks come and go; every answer is its own task's."""
    bank = Bank(device="cpu")
    steady = ["deep", "deep-longer", "vfpt"]
    for name in steady:
        bank.add(name, artifacts[name])
    expected = {name: bank.predict([photos[0]], [name])[0] for name in steady}
    errors: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        try:
            while not done.is_set():
                for name, found in zip(steady, bank.predict([photos[0]] * 3, steady), strict=True):
                    same(found, expected[name])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(6):
        bank.add(f"guest{number % 2}", artifacts["deep-mlp"])
        bank.add("bpt", artifacts["bpt"])
        bank.remove(f"guest{number % 2}")
    done.set()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors, errors[0]


def test_a_batch_under_way_leaves_nothing_of_a_task_that_was_replaced(
    artifacts: dict[str, Path], photos: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bank = Bank(device="cpu")
    bank.add("task", artifacts["deep"])
    other = make(tmp_path, "deep", 3)
    before, after = (vpt.load(path, device="cpu").predict(photos[0])[0] for path in (artifacts["deep"], other))
    waiting = [other]

    def replaced_meanwhile(*words, **named):
        if waiting:
            bank.add("task", waiting.pop())
        return decode(*words, **named)

    monkeypatch.setattr("vpt.inference.bank.bank.decode", replaced_meanwhile)
    same(bank.predict([photos[0]], ["task"])[0], before)
    same(bank.predict([photos[0]], ["task"])[0], after)


def test_images_from_files(bank: Bank, photos: list[np.ndarray], tmp_path: Path):
    Image.fromarray(photos[0]).save(tmp_path / "a.png")
    one, other = bank.predict([tmp_path / "a.png", photos[0]], ["deep", "deep"])
    assert isinstance(one, Classification)
    assert one.image == str(tmp_path / "a.png")
    same(one, other)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_tasks_bytes_are_at_least_what_it_owns(bank: Bank, artifacts: dict[str, Path], name: str):
    owned = sum(value.numel() * value.element_size() for value in load_file(artifacts[name]).values())
    assert bank.info(name).bytes >= owned > 0
