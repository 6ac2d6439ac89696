"""Images of N channels: timm's `in_chans` is the twin, and a trained task works wherever a task does."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models._manipulate import adapt_input_conv
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F

import vpt
from tests.helpers.bank_tasks import make
from tests.helpers.medical_files import npy
from tests.helpers.runs import NET, QUIET, interrupted
from tests.helpers.tensors import close
from vpt.cli.main import main
from vpt.config import RunConfig, load_config
from vpt.data.decode import BadImage, decode, examine, read_header
from vpt.data.normalization import Preprocess
from vpt.data.transforms.classification import eval_transform, train_transform
from vpt.inference.bank.bank import Bank
from vpt.inference.evaluate import evaluate
from vpt.interop.export.export import export
from vpt.interop.export.preprocess import Square
from vpt.models.classifier import PromptedModel, backbone_for, build_model
from vpt.prompts.channels import ChannelMix
from vpt.report.build import write_report
from vpt.training.run import resume, train
from vpt.utils.errors import UserError

CHANNELS = 5


@pytest.fixture(scope="module")
def stains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of five channels, 12 bits deep; the classes differ in the last two alone."""
    root, chance = tmp_path_factory.mktemp("stains"), np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4), ("test", 4)):
        for name, channel in (("green", 3), ("red", 4)):
            for number in range(count):
                pixels = chance.integers(0, 900, (32, 32, CHANNELS)).astype(np.uint16)
                pixels[8:24, 8:24, channel] += 3000
                npy(root / split / name / f"{number}.npy", pixels)
    return root


def settings(stains: Path, out: Path, *words: str) -> RunConfig:
    common = [
        f"data={stains}",
        f"out={out}",
        "name=run",
        *NET,
        "train.epochs=3",
        "train.batch_size=8",
        "data.workers=0",
    ]
    return load_config(overrides=[*common, f"data.channels={CHANNELS}", "prompt.tokens=2", "head.init=small", *words])


@pytest.fixture(scope="module")
def trained(stains: Path, small_net: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["backbone.channels=learned", "train.optimizer.lr.prompt=0.05", "train.optimizer.lr.head=0.01"]
    return train(settings(stains, tmp_path_factory.mktemp("runs"), *words, "train.epochs=12"), QUIET).folder


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7])
@pytest.mark.usefixtures("small_net")
def test_summed_is_what_timm_makes_of_in_chans(count: int) -> None:
    words = [*NET, "backbone.normalise=imagenet", f"data.channels={count}", "prompt=none", "head.init=small"]
    backbone = backbone_for(load_config(overrides=words))
    theirs = VisionTransformer(32, 8, count, num_classes=0, embed_dim=32, depth=2, num_heads=2).eval()
    state = dict(backbone.net.state_dict())
    state["patch_embed.proj.weight"] = adapt_input_conv(count, state["patch_embed.proj.weight"])
    theirs.load_state_dict(state)
    images = torch.randint(0, 256, (2, count, 32, 32), dtype=torch.uint8)
    pre, colour = backbone.preprocess, torch.arange(count) % 3
    mean, std = (torch.tensor(values)[colour].view(-1, 1, 1) for values in (pre.mean, pre.std))
    if count == 1:  # the filters are summed over the colours, which have a mean each
        theirs.patch_embed.proj = backbone.net.patch_embed.proj
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (pre.mean, pre.std))
    model = build_model(load_config(overrides=words), backbone, ["a", "b"]).eval()
    with torch.no_grad():
        close(model.features(images), theirs((images / 255 - mean) / std))
    assert (model.channels is None) == (count == 3)


def test_one_channel_is_timms_sum() -> None:
    """With one mean and std for all colours, as timm's in_chans=1 takes them."""
    images, filters = torch.rand(2, 1, 8, 8) * 255, torch.randn(4, 3, 4, 4)
    mean = torch.full((3, 1, 1), 100.0)
    mine = F.conv2d(ChannelMix(1, False)(images, mean) - mean, filters)
    close(mine, F.conv2d(images - 100, adapt_input_conv(1, filters)))


@pytest.mark.usefixtures("small_net")
def test_learned_starts_as_summed_and_gets_gradients(stains: Path, tmp_path: Path) -> None:
    models: dict[str, PromptedModel] = {}
    for rule in ("summed", "learned"):
        config = settings(stains, tmp_path, f"backbone.channels={rule}", "prompt.layers=last:1")
        models[rule] = build_model(config, backbone_for(config), ["a", "b"]).eval()
    images = torch.randint(0, 256, (3, CHANNELS, 32, 32), dtype=torch.uint8)
    assert torch.equal(models["summed"](images), models["learned"](images))
    roles = {name: role for name, role, _ in models["learned"].trainable()}
    assert roles.pop("channels.weight") == "prompt"
    assert roles == {name: role for name, role, _ in models["summed"].trainable()}
    assert "channels.weight" not in models["summed"].owned_state()
    model = models["learned"]
    assert isinstance(model.channels, ChannelMix)
    model(images).square().sum().backward()
    assert model.channels.weight.grad is not None
    assert (model.channels.weight.grad != 0).all()
    with pytest.raises(ValueError, match=rf"\(B, {CHANNELS}, S, S\), found torch.uint8 \(3, 3"):
        model(images[:, :3])


def test_a_run_learns_what_only_the_last_channels_show(trained: Path, stains: Path) -> None:
    tensors = load_file(trained / "artifact.safetensors")
    assert tensors["channels.weight"].shape == (3, CHANNELS)
    assert not torch.equal(tensors["channels.weight"], ChannelMix(CHANNELS, False).weight)
    found = json.loads((trained / "metrics.json").read_text())
    assert found["test"]["accuracy"] == 1.0
    assert evaluate(trained, "test", console=QUIET)["accuracy"] == 1.0
    with pytest.raises(UserError, match="channels that it was trained with"):
        evaluate(trained, "test", ["data.channels=4"], console=QUIET)
    files = sorted((stains / "test").rglob("*.npy"))
    results = vpt.load(trained, device="cpu").predict(files)
    assert [one.labels[0] for one in results] == [file.parent.name for file in files]
    assert results[0].plot().width >= 32
    drawn = trained / "drawn"
    assert main(["predict", str(trained), str(files[0]), "--draw", str(drawn), "--prompted", str(drawn / "seen")]) == 0
    assert len(list(drawn.rglob("*.png"))) == 2
    page = write_report([trained], output=trained / "report.html")
    text = page.read_text()
    assert all(f'<section id="{name}">' in text for name in ("mistakes", "attention", "features"))
    assert re.findall("Not shown: ([^<]*)", text) == ["8 images are too few for a map"]


@pytest.mark.usefixtures("small_net")
@pytest.mark.parametrize(
    "words",
    [["data.cache=true", "prompt=pixel", "prompt.size=3"], ["data.augment=none"], ["prompt=none", "data.augment=none"]],
)
def test_an_interrupted_run_ends_bit_for_bit_as_another(stains: Path, tmp_path: Path, words: list[str]) -> None:
    def config(out: str) -> RunConfig:
        return settings(stains, tmp_path / out, "backbone.channels=learned", *words)

    whole = load_file(train(config("whole"), QUIET).artifact)
    with interrupted(4, save=True):
        train(config("part"), QUIET)
    resumed = load_file(resume(tmp_path / "part" / "run", console=QUIET).artifact)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not torch.equal(whole["channels.weight"], ChannelMix(CHANNELS, False).weight)


@pytest.mark.usefixtures("small_net")
def test_a_bank_gives_each_task_its_own_channels(trained: Path, stains: Path, tmp_path: Path) -> None:
    """One backbone for tasks of five channels by both rules, of three, and of three by a learned rule."""
    runs = {"learned": trained}
    for name, words in (
        ("summed", [f"data.channels={CHANNELS}"]),
        ("colours", []),
        ("learned colours", ["backbone.channels=learned"]),
        ("grey", ["data.channels=1"]),
    ):
        config = load_config(overrides=[*NET, "prompt.tokens=2", "head.init=small", *words])
        model = build_model(config, backbone_for(config), ["a", "b"])
        torch.manual_seed(len(runs))
        with torch.no_grad():
            for _, _, parameter in model.trainable():
                parameter.add_(0.3 * torch.randn_like(parameter))
        from vpt.models.artifact import save_artifact

        runs[name] = save_artifact(tmp_path / f"{name}.safetensors", model, config, ["a", "b"])
    chance = np.random.default_rng(0)
    counts = {"learned": CHANNELS, "summed": CHANNELS, "colours": 3, "learned colours": 3, "grey": 1}
    images = {name: chance.integers(0, 256, (40, 36, count), dtype=np.uint8) for name, count in counts.items()}
    bank = Bank(device="cpu")
    for name, path in runs.items():
        bank.add(name, path)
    tasks = [*runs, *reversed(runs)]
    for name, mine in zip(tasks, bank.predict([images[name] for name in tasks], tasks), strict=True):
        (theirs,) = vpt.load(runs[name], device="cpu").predict(images[name])
        assert mine.labels == theirs.labels
        np.testing.assert_allclose(mine.scores, theirs.scores, atol=1e-5)
    (wrong,) = bank.predict([images["colours"]], ["summed"])
    assert isinstance(wrong, BadImage)
    assert bank.attention(images["learned"], "learned")["square"].shape == (32, 32, 3)


@pytest.mark.usefixtures("small_net")
def test_a_server_takes_what_predict_reads(trained: Path, stains: Path, tmp_path: Path) -> None:
    """Such tasks were refused, because a photo cannot hold their images: arrays and pages can."""
    testclient = pytest.importorskip("fastapi.testclient")
    from tests.helpers.serving import ask, png, ready
    from vpt.inference.server.app import create_app
    from vpt.inference.server.settings import TAKEN, ServeSettings

    shutil.copy(trained / "artifact.safetensors", tmp_path / "stains.safetensors")
    shutil.copy(make(tmp_path / "made", "deep", 0, *NET), tmp_path / "photos.safetensors")
    file = next((stains / "test" / "red").iterdir())
    values = np.load(file)
    pages = [Image.fromarray(values[..., channel]) for channel in range(CHANNELS)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    wanted = vpt.load(trained, device="cpu").predict([file, tmp_path / "pages.tif"])
    contents = [file.read_bytes(), (tmp_path / "pages.tif").read_bytes()]
    settings = ServeSettings(folder=tmp_path, device="cpu", reload_s=0, formats=(*TAKEN, "TIFF"))
    with testclient.TestClient(create_app(settings)) as client:
        assert ready(client)
        rows = ask(client, contents, ["stains"]).json()["results"]
        for row, one in zip(rows, wanted, strict=True):
            assert row["scores"] == pytest.approx(dict(zip(one.labels, one.scores, strict=True)), abs=1e-5)
        rows = ask(client, [png(), contents[0]], ["stains", "photos"]).json()["results"]
        assert ["error" in row for row in rows] == [True, False, False, True]
        assert "it has 3 channels, not data.channels=5" in rows[0]["error"]
        assert "it has 5 channels" in rows[3]["error"]
        for damaged in (contents[0][:-8], contents[0][:40], b"\x93NUMPY" + bytes(100)):
            assert ask(client, [damaged], ["stains"]).status_code == 422
        huge = contents[0].replace(b"(32, 32, 5)", b"(32000, 32000, 5)")
        assert "more than data.max_pixels" in ask(client, [huge], ["stains"]).json()["detail"]
    settings = ServeSettings(folder=tmp_path, device="cpu", reload_s=0, formats=("PNG",))
    with testclient.TestClient(create_app(settings)) as client:
        assert ready(client)
        assert "it is not an image file of these formats: PNG" in ask(client, contents[:1], ["stains"]).text


def test_many_channels_of_an_upload_count_as_pixels() -> None:
    from vpt.data.decode import ARRAY, Header
    from vpt.inference.bank.entry import ReadOptions
    from vpt.inference.server.decode_uploads import _cost

    array = io.BytesIO()
    np.save(array, np.zeros((200, 100, 64), np.int8))
    header = read_header(array.getvalue(), formats=(ARRAY,))
    assert header[:3] == (ARRAY, 100, 200)
    assert _cost(header, {ReadOptions("full", 64): str})[0] > 10 * 100 * 200  # type: ignore[dict-item]
    tiff, options = Header("TIFF", 10, 10, 1000), {ReadOptions("full"): str, ReadOptions("full", 8): str}
    assert _cost(tiff, options)[0] == 800  # type: ignore[arg-type]


def test_an_exported_file_takes_the_channels(trained: Path, stains: Path, tmp_path: Path) -> None:
    files = sorted((stains / "test").rglob("*.npy"))
    done = export(trained, tmp_path / "file.pt2", "torch", size=(32, 32), check=[str(file) for file in files[:2]])
    assert done.difference < 1e-4
    predictor = vpt.load(trained, device="cpu")
    window = predictor.artifact.config.data.window
    assert window == (0.0, 4095.0)
    pixels = [decode(file, window=window, channels=CHANNELS) for file in files]
    squares = torch.stack([predictor.transform(each) for each in pixels]).permute(0, 2, 3, 1)
    theirs = torch.export.load(str(done.path)).module()(squares).numpy()
    mine = [[dict(zip(one.labels, one.scores))[name] for name in predictor.classes] for one in predictor.predict(files)]
    np.testing.assert_allclose(theirs, mine, atol=1e-4)


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_channels_are_transformed_like_grey_images(resize: str) -> None:
    pre = Preprocess(16, mean=(0.2, 0.5, 0.8))
    image = np.random.default_rng(0).integers(0, 256, (40, 25, CHANNELS), dtype=np.uint8)
    transform = eval_transform(pre, resize, channels=CHANNELS)  # type: ignore[arg-type]
    square = transform(image)
    assert square.shape == transform.shape == (CHANNELS, 16, 16)
    exported = Square(transform)(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])[0]
    for channel in range(CHANNELS):
        grey = np.repeat(image[..., channel : channel + 1], 3, 2)
        alone = eval_transform(pre, resize)  # type: ignore[arg-type]
        assert torch.equal(square[channel], alone(grey)[channel % 3])
        squared = Square(alone)(torch.from_numpy(grey.transpose(2, 0, 1).copy())[None])[0]
        assert torch.equal(exported[channel], squared[channel % 3])
    light = train_transform(pre, "light", resize, channels=CHANNELS)(image, 3)  # type: ignore[arg-type]
    assert light.shape == (CHANNELS, 16, 16)
    with pytest.raises(UserError, match=r"augment=strong changes colours, which images of 5 channels do not have"):
        train_transform(pre, "strong", channels=CHANNELS)


def tiff(path: Path, values: np.ndarray) -> Path:
    """The channels as pages, as ImageJ and others save them."""
    pages = [Image.fromarray(np.ascontiguousarray(values[..., channel])) for channel in range(values.shape[2])]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return path


def test_pages_and_arrays_are_read_alike(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, CHANNELS), dtype=np.uint8)
    for number, values in enumerate((pixels, pixels.astype(np.uint16) * 16, pixels.astype(np.float32) * 16)):
        window = (0.0, 255.0) if number == 0 else (0.0, 4080.0)
        for path in (npy(tmp_path / f"{number}.npy", values), tiff(tmp_path / f"{number}.tif", values)):
            found = examine(path, window=window, measure=True, channels=CHANNELS)
            np.testing.assert_array_equal(found.pixels, pixels)
            assert found.deep == (number > 0)
            assert found.depth is None or (found.depth.low, found.depth.high) == (values.min(), values.max())


def test_other_numbers_of_channels_are_refused(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, CHANNELS), dtype=np.uint8)
    array, pages = npy(tmp_path / "a.npy", pixels), tiff(tmp_path / "a.tif", pixels)
    mixed = [Image.fromarray(pixels[..., 0]), Image.fromarray(pixels[:3, :, 1].copy()), Image.new("RGB", (9, 6))]
    mixed[0].save(tmp_path / "sizes.tif", save_all=True, append_images=mixed[1:2])
    mixed[0].save(tmp_path / "colours.tif", save_all=True, append_images=mixed[2:])
    Image.fromarray(pixels[..., :3].copy()).save(tmp_path / "a.png")
    for path, channels, why in (
        (array, None, "it has 5 channels; set data.channels=5"),
        (array, 4, "it has 5 channels, not data.channels=4"),
        (pages, 4, "more than 4 pages"),
        (pages, 6, "it has 5 of 6 pages"),
        (tmp_path / "sizes.tif", 2, "differ in size"),
        (tmp_path / "colours.tif", 2, "not all grey"),
        (tmp_path / "a.png", 1, "it has 3 channels, not data.channels=1"),
        (tmp_path / "a.png", 4, r"it has 3 channels, not data.channels=4; save all of them as an array \(H, W, 4\)"),
    ):
        with pytest.raises(BadImage, match=why):
            decode(path, channels=channels)
    assert decode(tmp_path / "a.png", channels=3).shape == (6, 9, 3)
    with pytest.raises(UserError, match="are for task=classification"):
        load_config(overrides=["task=segmentation", "data.channels=4"])
    with pytest.raises(UserError, match="tunes on views of photos"):
        load_config(overrides=["backbone=open_clip:ViT-B-32", "prompt=tpt", "head=zeroshot", "data.channels=4"])


@pytest.mark.usefixtures("small_net")
def test_the_check_and_its_preview(stains: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "check", f"data={stains}"]
    assert main([*words, f"data.channels={CHANNELS}", "--preview", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").is_file()
    assert main(words) != 0
    assert "set data.channels=5" in "".join(capsys.readouterr())  # not remembered from the check before
