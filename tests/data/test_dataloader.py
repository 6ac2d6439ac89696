"""Loading: what comes when is a function of the seed; workers, resuming, ranks and the cache change nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.image_files import photo, save
from vpt.data.dataloader import Batch, Loader, default_workers, loader_of, make_loader
from vpt.data.dataset import Item, Record
from vpt.data.decode import BadImage, decode
from vpt.data.image_cache import ImageCache, available_memory, check_memory
from vpt.data.normalization import Preprocess
from vpt.data.sampler import epoch_order, sample_seed, split_order
from vpt.data.transforms.classification import EvalTransform, train_transform
from vpt.utils.errors import UserError

PRE = Preprocess(size=16)
COUNT = 22


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = tmp_path_factory.mktemp("images")
    paths = [save(folder / f"{i}.png", photo(20 + i, 40 - i, i)) for i in range(COUNT)]
    return [Record(path.name, path, (i % 3,)) for i, path in enumerate(paths)]


def loader(records: list[Record], **changes: object) -> Loader:
    settings = {
        "transform": train_transform(PRE, "strong"),
        "batch_size": 4,
        "classes": 3,
        "seed": 7,
        "shuffle": True,
        **changes,
    }
    return make_loader(records, **settings)  # type: ignore[arg-type]


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(torch.equal(x, y) for a, b in zip(first, second) for x, y in zip(a, b))


def test_batches(records: list[Record]) -> None:
    batches = list(loader(records).epoch(0))
    assert [len(batch.index) for batch in batches] == [4, 4, 4, 4, 4, 2]
    for batch in batches:
        assert batch.images.shape == (len(batch.index), 3, 16, 16)
        assert (batch.images.dtype, batch.labels.dtype, batch.index.dtype) == (torch.uint8, torch.int64, torch.int64)
        assert batch.labels.tolist() == [index % 3 for index in batch.index.tolist()]
    seen = torch.cat([batch.index for batch in batches]).tolist()
    assert sorted(seen) == list(range(COUNT))
    assert seen == epoch_order(COUNT, 7, 0).tolist()


def test_in_order_without_shuffling(records: list[Record]) -> None:
    plain = loader(records, shuffle=False, transform=EvalTransform(16))
    index = torch.cat([batch.index for batch in plain])
    assert index.tolist() == list(range(COUNT))
    first = next(iter(plain))
    assert torch.equal(first.images[2], EvalTransform(16)(decode(records[2].source)))


def test_drop_last(records: list[Record]) -> None:
    short = loader(records, drop_last=True)
    assert len(short) == len(list(short.epoch(3))) == 5
    with pytest.raises(UserError, match="do not fill one batch"):
        loader(records, drop_last=True, batch_size=COUNT + 1)


def test_several_labels(records: list[Record]) -> None:
    several = [Record("a", records[0].source, (0, 2)), Record("b", records[1].source, (1,))]
    batch = next(iter(loader(several, multilabel=True, shuffle=False)))
    assert batch.labels.tolist() == [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    assert batch.labels.dtype == torch.float32


def test_workers_cache_epochs_and_resuming_change_nothing(records: list[Record]) -> None:
    plain = loader(records)
    state = torch.get_rng_state()
    expected = {epoch: list(plain.epoch(epoch)) for epoch in (0, 1)}
    assert not same(expected[0], expected[1])
    cache = ImageCache(records)
    for workers, memory in ((0, cache), (2, None), (2, cache)):
        other = loader(records, workers=workers, cache=memory)
        assert same(list(other.epoch(1)), expected[1])
        assert same(list(other.epoch(1, start_batch=4)), expected[1][4:])
        given_up = other.epoch(0)
        next(given_up)
        assert same(list(other.epoch(0)), expected[0])
        with pytest.raises(RuntimeError, match="invalidated"):
            next(given_up)
        other.close()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_prepared_ahead_are_the_same(records: list[Record], workers: int) -> None:
    alone = loader(records)
    ahead = loader(records, workers=workers, epochs=4)
    wanted = [list(alone.epoch(epoch)) for epoch in range(6)]
    for epoch in range(6):  # the last two are beyond what was announced
        assert same(list(ahead.epoch(epoch)), wanted[epoch])
    again = loader(records, workers=workers, epochs=4)
    assert same(list(again.epoch(1, 4)), wanted[1][4:])  # as a resumed run would
    some = again.epoch(2)
    assert same([next(some), next(some)], wanted[2][:2])
    assert same(list(again.epoch(2)), wanted[2])  # given up and begun anew
    assert same(list(again.epoch(0)), wanted[0])
    assert same(list(again.epoch(3)), wanted[3])


class Counting:
    """Counts the images of all processes."""

    def __init__(self) -> None:
        self.made = multiprocessing.get_context("fork").Value("i", 0)

    def one(self, record: Record, pixels: np.ndarray, seed: int) -> int:
        with self.made.get_lock():
            self.made.value += 1
        return 0

    def batch(self, items: list[int], records: list[Record], index: torch.Tensor) -> list[int]:
        return index.tolist()


def test_workers_go_on_to_the_next_epoch_and_stop_at_the_last(records: list[Record]) -> None:
    maker = Counting()
    ahead = loader_of(records, maker, batch_size=4, shuffle=True, workers=2, epochs=2)
    assert len(list(ahead.epoch(0))) == 6
    end = time.monotonic() + 60
    while maker.made.value < COUNT + 4 * 4 and time.monotonic() < end:  # two batches for each of two workers
        time.sleep(0.01)
    assert maker.made.value >= COUNT + 4 * 4
    assert sorted(index for batch in ahead.epoch(1) for index in batch) == list(range(COUNT))
    assert maker.made.value == 2 * COUNT


def test_spawned_workers(records: list[Record]) -> None:
    # macOS and Windows pickle the data set into their workers.
    data = [*records[:3], Record("item", Item([(photo(), 0)], 0), (0,))]
    plain, other = (loader(data, workers=workers, cache=ImageCache(data)) for workers in (0, 1))
    assert other._loader is not None
    other._loader.multiprocessing_context = "spawn"
    assert same(list(plain.epoch(0)), list(other.epoch(0)))
    other.close()


def test_ranks_share_each_batch(records: list[Record]) -> None:
    whole = list(loader(records).epoch(2))
    parts = [list(loader(records, rank=rank, ranks=3).epoch(2)) for rank in range(3)]
    for at, batch in enumerate(whole):
        for rank in range(3):
            expected = Batch(*(tensor[rank::3] for tensor in batch))
            assert same([parts[rank][at]], [expected])
    assert parts[2][5].images.shape == (0, 3, 16, 16)


def test_skipped_batches_are_not_decoded(records: list[Record]) -> None:
    order = epoch_order(COUNT, 7, 0)
    broken = [*records]
    for index in order[:8].tolist():
        broken[index] = Record("gone", Path("gone.png"), (0,))
    assert len(list(loader(broken).epoch(0, start_batch=2))) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_image_is_named(records: list[Record], tmp_path: Path, workers: int) -> None:
    path = save(tmp_path / "soon_bad.png", photo())
    broken = loader([*records, Record("soon_bad.png", path, (0,))], workers=workers)
    list(broken.epoch(0))
    path.write_bytes(b"rubbish")
    with pytest.raises(BadImage, match=r"soon_bad\.png") as caught:
        list(broken.epoch(1))
    assert caught.value.name == "soon_bad.png"
    broken.close()


class Killer:
    """A data set whose image ends the process that asks for it."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return photo(), 0


def test_death_of_a_worker_is_told(records: list[Record]) -> None:
    deadly = loader([*records, Record("deadly.png", Item(Killer(), 0), (0,))], workers=2)
    with pytest.raises(UserError, match=r"died while reading deadly\.png.*data\.workers"):
        list(deadly.epoch(0))
    deadly.close()


def test_death_between_batches_surfaces_at_the_next_one(records: list[Record]) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    served = loader(records, workers=2, batch_size=1)
    batches = served.epoch(0)
    next(batches)
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
    torch.ones(8).sum()  # a training step, which torch's own signal handler would interrupt
    with pytest.raises(UserError, match="a data loading worker died"):
        list(batches)
    assert signal.getsignal(signal.SIGCHLD) == before
    served.close()


def test_failing_augmentation_names_the_image(records: list[Record]) -> None:
    class Failing(EvalTransform):
        def __call__(self, image: np.ndarray, seed: int = 0) -> torch.Tensor:
            raise UserError("the augmentation fails")

    with pytest.raises(UserError, match=r"\d+\.png: the augmentation fails"):
        list(loader(records, transform=Failing(16)).epoch(0))


def test_wrong_arguments(records: list[Record]) -> None:
    with pytest.raises(UserError, match="no images"):
        loader([])
    with pytest.raises(ValueError, match="rank"):
        loader(records, rank=2, ranks=2)
    with pytest.raises(ValueError, match="cache"):
        loader(records, cache=ImageCache(records[:3]))


def test_closed_loader(records: list[Record]) -> None:
    closed = loader(records)
    closed.close()
    with pytest.raises(RuntimeError):
        next(closed.epoch(0))


def test_orders_are_pure_and_stay_as_they_are() -> None:
    # Written down: a resumed run must meet the same order under another version of numpy.
    assert epoch_order(8, 0, 0).tolist() == [2, 4, 7, 5, 0, 6, 3, 1]
    assert sample_seed(0, 0, 0) == 10128210881749538955
    orders = {tuple(epoch_order(30, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    seeds = {sample_seed(s, e, i) for s in range(8) for e in range(8) for i in range(8)}
    assert len(seeds) == 512
    assert tuple(split_order(30, 0)) not in orders
    assert len(epoch_order(0, 0, 0)) == 0


def test_cache_holds_the_decoded_images(records: list[Record]) -> None:
    steps: list[tuple[int, int]] = []
    cache = ImageCache(records, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(done, COUNT) for done in range(1, COUNT + 1)]
    assert len(cache) == COUNT
    assert cache.nbytes == sum(3 * (20 + i) * (40 - i) for i in range(COUNT))
    for index, record in enumerate(records):
        np.testing.assert_array_equal(cache[index], decode(record.source))


def test_cached_pixels_are_never_written(records: list[Record]) -> None:
    cache = ImageCache(records)
    with pytest.raises(ValueError, match="read-only"):
        cache[0][:] = 0
    before = cache._pixels.clone()
    for augment in ("none", "light", "standard", "strong"):
        for batch in loader(records, cache=cache, transform=train_transform(PRE, augment)).epoch(0):
            batch.images.zero_()
    assert torch.equal(cache._pixels, before)


def test_cache_that_does_not_fit(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpt.data.image_cache.available_memory", lambda: 1000)
    with pytest.raises(UserError, match="more than 80% of"):
        ImageCache(records)

    check_memory(80, 100)


def test_cache_names_bad_images(records: list[Record], tmp_path: Path) -> None:
    path = save(tmp_path / "cut.png", photo())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadImage, match=r"cut\.png"):
        ImageCache([*records, Record("cut.png", path, (0,))])
    with pytest.raises(BadImage, match=r"gone\.png"):
        ImageCache([Record("gone.png", tmp_path / "gone.png", (0,))])


def test_available_memory_knows_of_containers(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 4 kB\n")
    assert available_memory(tmp_path, tmp_path / "none") == 4096
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    (tmp_path / "memory.stat").write_text("anon 1500\ninactive_file 500\n")
    assert available_memory(tmp_path, tmp_path) == 1500
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path, tmp_path) == 4096


@pytest.mark.parametrize(
    ("cores", "gpu", "workers"), [(1, False, 0), (2, False, 0), (2, True, 1), (4, False, 3), (64, True, 16)]
)
def test_default_workers(monkeypatch: pytest.MonkeyPatch, cores: int, gpu: bool, workers: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert default_workers() == workers
