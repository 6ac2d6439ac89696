"""Every newer method through all commands: train, resume, eval, predict, report, bank, serve, export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

import vpt
from tests.helpers.clip_models import register_tiny
from tests.helpers.reports import report
from tests.helpers.runs import QUIET, settings
from tests.helpers.serving import ask, ready
from vpt.inference.evaluate import evaluate
from vpt.inference.server.app import create_app
from vpt.inference.server.settings import ServeSettings
from vpt.interop.export.export import export
from vpt.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("small_net")
METHODS: dict[str, list[str]] = {
    "lor-vp": ["prompt=pixel", "prompt.shape=lowrank", "prompt.rank=2"],
    "pae": ["prompt.pae=paper", "prompt.pae.width=8"],
    "da-vpt": ["prompt=davpt", "prompt.guided=last:1", "prompt.patch_weight=0.5"],
    "da-vpt+": ["prompt=davpt", "prompt.value_bias=true"],
    "vqt": ["prompt=vqt", "prompt.keep_features=0.7"],
    "pro-vpt": ["prompt=provpt"],
    "pro-vpt, thompson": ["prompt=provpt", "prompt.policy=thompson"],
    "tcpa": ["prompt=tcpa", "prompt.class_tokens=3", "prompt.chosen=2", "prompt.random_epochs=1"],
    "viapt": ["prompt=viapt", "prompt.instance_tokens=2", "prompt.width=8"],
    "ship": ["prompt=ship", "prompt.shared_tokens=2", "prompt.attribute_tokens=3", "prompt.threshold=1.0"],
    "sa2vp": ["prompt=sa2vp", "prompt.rank=3", "prompt.every=2", "prompt.scale=1"],
    "adapter": ["prompt=adapter", "prompt.rank=3"],
    "lora": ["prompt=none", "tuning=lora", "tuning.rank=2"],
    "bias": ["prompt=none", "tuning=bias"],
    "swin, deep": ["prompt=deep", "backbone=test_swin_32", "head.pool=all"],
    "swin, bias": ["prompt=none", "tuning=bias", "backbone=test_swin_32"],
    "adapter-after": ["prompt=adapter", "prompt.rank=3", "prompt.place=after"],
}
DEEP = ["prompt.tokens=4", "prompt.dropout=0.1"]
LEARNERS: dict[str, list[str]] = {
    "taskres": ["prompt=taskres"],
    "clip-lora": ["prompt=clip_lora"],
    "prograd": ["prompt=prograd"],
    "tcp": ["prompt=tcp", "prompt.layer=1", "prompt.width=8"],
    "mmrl": ["prompt=mmrl", "prompt.layer=1", "prompt.width=8"],
    "mmrl++": ["prompt=mmrlpp", "prompt.layer=0", "prompt.width=8", "prompt.projection_rank=4"],
}


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The smallest CLIP with two layers in each tower, with random weights."""
    return register_tiny(tmp_path_factory.mktemp("tiny"), "tiny-every", 2)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_goes_through_all_commands(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str):
    plain = METHODS[method][0] in ("prompt=pixel", "prompt=adapter", "prompt=none", "prompt=sa2vp")
    through_all_commands(shapes, tmp_path, monkeypatch, ["head.init=small", *METHODS[method], *([] if plain else DEEP)])


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_learner_of_clip_goes_through_all_commands(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_clip: str, learner: str
):
    words = [f"backbone={tiny_clip}", "backbone.pretrained=false", "head=zeroshot", *LEARNERS[learner]]
    through_all_commands(shapes, tmp_path, monkeypatch, [*words, "train.optimizer.lr.prompt=0.01"])


def through_all_commands(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    """A run that is interrupted and resumed, and all that can be done with its artifact."""

    def config(out: Path) -> vpt.config.RunConfig:
        usual = ["train.epochs=2", "train.checkpoint_minutes=0", "data.crop_pct=1.0"]
        base = settings(shapes, out).model_dump(mode="json", exclude={"prompt", "head"})
        return vpt.load_config(base=base, overrides=[*usual, *words])

    whole = vpt.train(config(tmp_path / "whole"), QUIET)
    usual = Trainer.train_step

    def fatal(trainer: Trainer, *args: object) -> None:
        if trainer.progress.step == 7:
            raise KeyboardInterrupt
        usual(trainer, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "train_step", fatal)
        vpt.train(config(tmp_path / "cut"), QUIET)
    again = vpt.resume(tmp_path / "cut" / "run", console=QUIET)
    assert again.artifact.read_bytes() == whole.artifact.read_bytes()

    measured = evaluate(whole.artifact, "test", console=QUIET)
    assert measured["accuracy"] == whole.metrics["test"]["accuracy"]
    photo = next(shapes.glob("test/*/*.png"))
    predictor = vpt.load(whole.artifact, device="cpu")
    [own] = predictor.predict(photo, top=3)
    assert "test" in report(whole.folder, tmp_path / "page.html").text

    bank = vpt.Bank(device="cpu")
    bank.add("one", whole.artifact)
    bank.add("two", again.artifact)
    scores = dict(zip(own.labels, own.scores, strict=True))
    for found in bank.predict([photo, photo], ["one", "two"], top=3):
        assert dict(zip(found.labels, found.scores, strict=True)) == pytest.approx(scores, abs=1e-5)

    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "one.safetensors").write_bytes(whole.artifact.read_bytes())
    with TestClient(create_app(ServeSettings(folder=folder, device="cpu"))) as client:
        ready(client)
        [row] = ask(client, [photo.read_bytes()], ["one"], top="3").json()["results"]
    assert row["scores"] == pytest.approx(scores, abs=1e-4)

    side = predictor.model.image_size
    picture = np.asarray(Image.open(photo).convert("RGB").resize((side, side)))
    done = export(whole.artifact, tmp_path / "out.pt2", format="torch")
    mine = torch.export.load(str(done.path)).module()(torch.from_numpy(picture[None].copy()))[0]
    [theirs] = predictor.predict([picture], top=3)
    assert dict(zip(predictor.classes, mine.tolist(), strict=True)) == pytest.approx(
        dict(zip(theirs.labels, theirs.scores, strict=True)), abs=1e-4
    )
