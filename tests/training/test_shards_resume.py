"""Training on shards and on a stored Hugging Face data set is resumed exactly, read by other processes too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.image_files import encoded, photo
from tests.helpers.runs import QUIET, interrupted
from tests.helpers.shards import samples, shard
from vpt.config import RunConfig, load_config
from vpt.training.run import resume, train


def in_shards(root: Path) -> str:
    for at in range(3):
        shard(root / f"train-{at}.tar", samples([0, 1, 0, 1], 4 * at))
    return f"wds:{root}/train-{{0..2}}.tar"


def in_table(root: Path) -> str:
    datasets = pytest.importorskip("datasets")
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["hen", "owl"])})
    images = [{"bytes": encoded("PNG", photo(8, 8, seed=at)), "path": None} for at in range(12)]
    datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 6}, kinds).save_to_disk(str(root))
    return f"hf:{root}"


@pytest.mark.parametrize("write", [in_shards, in_table])
@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_resumed_bit_identically(tmp_path: Path, write, workers: int) -> None:
    data = write(tmp_path / "data")

    def config(out: str, *words: str) -> RunConfig:
        few = ["prompt.tokens=1", "train.epochs=3", "train.batch_size=4", "data.augment=standard"]
        place = [f"data={data}", f"data.workers={workers}", "name=run", f"out={tmp_path / out}"]
        return load_config(overrides=[*few, *place, "data.val_fraction=0.3", *words])

    whole = train(config("whole"), QUIET)
    with interrupted(4):
        train(config("cut", "train.checkpoint_minutes=0"), QUIET)
    again = resume(tmp_path / "cut" / "run", console=QUIET)
    assert again.artifact.read_bytes() == whole.artifact.read_bytes()
