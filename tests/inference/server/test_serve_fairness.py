"""Tasks take turns: one that is slow, fails, gives NaN or has many images costs only itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from tests.helpers.bank_tasks import make
from tests.helpers.serving import ask, png, ready, until
from vpt.backbones.backbone import Backbone
from vpt.backbones.block import Block
from vpt.config import load_config
from vpt.inference.bank import deadline
from vpt.inference.bank.answers import BrokenTaskError
from vpt.inference.bank.bank import Bank
from vpt.inference.bank.deadline import TooSlowError
from vpt.inference.bank.task import TaskError
from vpt.inference.classification import Classification
from vpt.inference.server.app import create_app
from vpt.inference.server.dynamic_batching import Batcher, SlowTaskError, Work
from vpt.inference.server.fair_queue import FairQueue, FullError, Job
from vpt.inference.server.settings import ServeSettings
from vpt.models.artifact import save_artifact
from vpt.training.tasks import task_of
from vpt.utils.errors import UserError


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 64, 3), dtype=np.uint8)


def not_a_number(folder: Path) -> Path:
    """An artifact whose head gives NaN."""
    config = load_config(overrides=["backbone=vpt_nano", "prompt=deep", "prompt.tokens=3"])
    model = task_of(config).build(config, ["a", "b"])
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.fill_(3e38)
    return save_artifact(folder / "nan.safetensors", model, config, ["a", "b"])


class Queue:
    """A fair queue whose passes take as long as a table says."""

    def __init__(self, limit: int = 10_000, costs: dict[str, float] | None = None) -> None:
        self.queue = FairQueue(limit)
        self.costs = costs or {}

    def put(self, task: str, number: int = 1, lane: str = "", request: object = None) -> list[Job]:
        request = object() if request is None else request
        jobs = [Job(task, lane or task, n, request, 0.0, 9e9, None) for n in range(number)]  # type: ignore[arg-type]
        self.queue.put(jobs)
        return jobs

    def serve(self, passes: int, room: int = 8) -> Counter[str]:
        """Seconds that each task has got."""
        spent: Counter[str] = Counter()
        for _ in range(passes):
            jobs = self.queue.take(lambda lane: room)
            seconds = sum(self.costs.get(job.task, 1.0) for job in jobs)
            for job in jobs:
                spent[job.task] += seconds / len(jobs)
            self.queue.charge(jobs, seconds)
        return spent


class TestTurns:
    def test_a_slow_task_gets_no_more_time_than_others(self):
        queue = Queue(costs={"slow": 1.0, "quick": 0.01})
        queue.put("slow", 1000)
        queue.put("quick", 5000)
        spent = queue.serve(60, room=1)
        assert spent["slow"] <= 2
        assert spent["quick"] > 0.5

    def test_many_images_of_one_task_do_not_hold_up_one_of_another(self):
        queue = Queue()
        queue.put("many", 500, lane="same")
        queue.serve(3)
        queue.put("one", lane="same")
        assert "one" in [job.task for job in queue.queue.take(lambda lane: 2)]

    def test_tasks_of_one_lane_share_passes_in_turn(self):
        queue = Queue()
        queue.put("a", 5, lane="same")
        queue.put("b", 2, lane="same")
        queue.put("c", 5, lane="other")
        taken = [[(job.task, job.work) for job in queue.queue.take(lambda lane: 4)] for _ in range(4)]
        assert taken[0] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
        assert {task for task, _ in taken[1]} in ({"a"}, {"c"})
        assert sum(map(len, taken)) == 12
        assert not len(queue.queue)

    def test_who_was_idle_has_no_claim_to_what_it_did_not_use(self):
        queue = Queue()
        queue.put("busy", 100)
        queue.serve(50, room=1)
        queue.put("late", 100)
        spent = queue.serve(20, room=1)
        assert abs(spent["late"] - spent["busy"]) <= 1

    def test_in_a_full_queue_the_newest_of_the_longest_make_room(self):
        queue = Queue(limit=10)
        queue.put("few", 2)
        old, new = queue.put("many", 4), queue.put("many", 4)
        with pytest.raises(FullError):
            queue.put("many", 1)
        with pytest.raises(FullError):
            queue.put("another", 9)
        jobs = [Job("one", "", 0, object(), 0.0, 9e9, None)]  # type: ignore[arg-type]
        assert set(queue.queue.put(jobs)) == set(new)
        assert len(queue.queue) == 7
        left = {job for _ in range(9) for job in queue.queue.take(lambda lane: 9)}
        assert set(old) <= left
        assert not set(new) & left


def run_batcher(run: Any, works: Sequence[Work], **words: Any) -> list[Any]:
    """Answers of works that come together."""

    async def scenario() -> list[Any]:
        batcher = Batcher(run, **{"max_batch": 16, "wait_s": 0.0, "limit": 100, **words})
        batcher.start()
        try:
            return await batcher.submit(works, 60)
        finally:
            await batcher.close()

    return asyncio.run(scenario())


class TestBatches:
    def test_a_batch_grows_once_it_is_known_how_long_an_image_takes(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("vpt.inference.server.dynamic_batching.PASS_S", 600.0)  # however busy the machine is
        sizes: list[int] = []
        run_batcher(lambda works, seconds: (sizes.append(len(works)), works)[1], [Work("a", "a", n) for n in range(40)])
        assert sizes[0] == 1
        assert max(sizes) == 16
        assert sum(sizes) == 40

    def test_a_slow_lane_is_taken_in_small_batches(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("vpt.inference.server.dynamic_batching.PASS_S", 0.02)
        sizes: list[int] = []

        def run(works: Sequence[Any], seconds: float) -> Sequence[Any]:
            sizes.append(len(works))
            time.sleep(0.05 * len(works))
            return works

        run_batcher(run, [Work("slow", "slow", n) for n in range(6)])
        assert sizes == [1] * 6

    def test_who_is_not_waited_for_is_not_computed(self):
        async def scenario() -> list[Any]:
            seen: list[Any] = []
            running, gate = threading.Event(), threading.Event()
            run = lambda works, seconds: (running.set(), gate.wait(60), seen.extend(works), works)[3]  # noqa: E731
            batcher = Batcher(run, max_batch=4, wait_s=0.0, limit=100)
            batcher.start()
            first = asyncio.create_task(batcher.submit([Work("a", "a", "first")], 60))
            assert await asyncio.to_thread(running.wait, 60)
            late = asyncio.create_task(batcher.submit([Work("a", "a", "late")], 0.05))
            good = asyncio.create_task(batcher.submit([Work("a", "a", "good")], 60))
            await asyncio.sleep(0.2)
            gate.set()
            await asyncio.gather(first, good)
            late.cancel()
            await batcher.close()
            return seen

        assert asyncio.run(scenario()) == ["first", "good"]

    def test_a_task_that_fails_is_left_alone_for_a_while(self):
        async def scenario() -> tuple[list[Any], int]:
            ran: list[str] = []

            def run(works: Sequence[Any], seconds: float) -> Sequence[Any]:
                ran.extend(works)
                return [BrokenTaskError("task bad failed") if work == "bad" else work for work in works]

            batcher = Batcher(run, max_batch=4, wait_s=0.0, limit=100)
            batcher.start()
            both = [Work("bad", "lane", "bad"), Work("good", "lane", "good")]
            answers = [await batcher.submit(both, 60) for _ in range(4)]
            tried = ran.count("bad")
            batcher.forgive(["bad"])  # a new artifact came
            await batcher.submit(both, 60)
            await batcher.close()
            assert ran.count("bad") == 2
            return answers, tried

        answers, tried = asyncio.run(scenario())
        assert tried == 1
        for bad, good in answers:
            assert isinstance(bad, BrokenTaskError)
            assert good == "good"

    def test_a_pass_that_is_stopped_leaves_its_task_alone(self):
        def run(works: Sequence[Any], seconds: float) -> Sequence[Any]:
            if "slow" in works:
                raise TooSlowError
            return works

        async def scenario() -> list[Any]:
            batcher = Batcher(run, max_batch=4, wait_s=0.0, limit=100, task_s=5)
            batcher.start()
            found = []
            for _ in range(3):
                found.append(await batcher.submit([Work("slow", 0, "slow"), Work("good", 1, "good")], 60))
            await batcher.close()
            return found

        for slow, good in asyncio.run(scenario()):
            assert isinstance(slow, SlowTaskError)
            assert "task slow took longer than 5.0 seconds" in str(slow)
            assert good == "good"


class TestBank:
    @pytest.fixture
    def bank(self, folder: Path, tmp_path: Path) -> Bank:
        made = Bank(device="cpu")
        made.add("good", folder / "deep.safetensors")
        made.add("other", folder / "deep-longer.safetensors")
        made.add("nan", not_a_number(tmp_path))
        made.add("boxes", folder / "boxes.safetensors")
        return made

    def answers(self, bank: Bank, photo: np.ndarray, tasks: list[str], seconds: float | None = None) -> list[Any]:
        images = [each for task in tasks for each in bank.prepare(photo, "a", [task])]
        return bank.answer(images, tasks, 5, seconds)  # type: ignore[arg-type]

    def test_scores_that_are_not_finite_cost_no_further_pass(
        self, bank: Bank, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ):
        passes = []
        usual = Backbone.features
        monkeypatch.setattr(Backbone, "features", lambda self, *a, **k: (passes.append(1), usual(self, *a, **k))[1])
        good, nan, other = self.answers(bank, photo, ["good", "nan", "other"])
        assert len(passes) == 1
        assert isinstance(nan, TaskError)
        assert str(nan) == "task nan predicts scores that are not finite; train it again"
        for found, name in ((good, "good"), (other, "other")):
            assert found.scores == pytest.approx(bank.predict([photo], [name])[0].scores, abs=1e-6)
        with pytest.raises(UserError, match="not finite"):
            bank.predict([photo, photo], ["good", "nan"])

    def test_a_task_that_raises_fails_alone(self, bank: Bank, photo: np.ndarray):
        loaded = bank._use(["other"])["other"]
        object.__setattr__(loaded, "head", lambda features: 1 / 0)
        good, other, nan, boxes = self.answers(bank, photo, ["good", "other", "nan", "boxes"])
        assert isinstance(good, Classification)
        assert isinstance(other, BrokenTaskError)
        assert str(other) == "task other failed; see the log of the server"
        assert isinstance(other.__cause__, ZeroDivisionError)
        assert "not finite" in str(nan)
        assert not isinstance(boxes, UserError)

    def test_a_task_that_went_or_changed_fails_alone(self, bank: Bank, photo: np.ndarray, tmp_path: Path):
        tasks = ["good", "other", "boxes"]
        images = [each for task in tasks for each in bank.prepare(photo, "a", [task])]
        bank.remove("other")
        bank.add("boxes", make(tmp_path, "small", 1))  # a task of another image size under the same name
        good, gone, changed = bank.answer(images, tasks)  # type: ignore[arg-type]
        assert isinstance(good, Classification)
        assert str(gone) == "task other is no longer served"
        assert str(changed) == "task boxes was replaced in the meantime; send the image again"
        assert isinstance(bank.prepare(photo, "a", ["other"])[0], UserError)

    @pytest.mark.parametrize("task", ["good", "boxes"])
    def test_a_pass_is_stopped_between_two_layers(
        self, bank: Bank, photo: np.ndarray, task: str, monkeypatch: pytest.MonkeyPatch
    ):
        layers = []
        usual = Block.forward

        def forward(self: Block, *words: Any, **more: Any) -> Any:
            layers.append(1)
            if len(layers) == 3:
                monkeypatch.setattr(deadline, "monotonic", lambda: 9e9)
            return usual(self, *words, **more)

        monkeypatch.setattr(Block, "forward", forward)
        with pytest.raises(TooSlowError):
            self.answers(bank, photo, [task], seconds=60)
        assert len(layers) == 3  # of six
        monkeypatch.undo()
        assert not isinstance(self.answers(bank, photo, [task], seconds=60)[0], UserError)

    def test_a_task_that_takes_long_to_prepare_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        from tests.helpers.bank_tasks import clip_words

        base = clip_words(tmp_path, "transformer")[:2]
        path = make(tmp_path, "words", 1, *base, "head=zeroshot", "prompt=none")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # where no text is encoded yet
        backbone = load_config(overrides=base).backbone
        with pytest.raises(UserError, match="task words takes longer than -1 seconds to prepare"):
            Bank(backbone, device="cpu", load_s=-1).add("words", path)
        Bank(backbone, device="cpu", load_s=600).add("words", path)


class TestServer:
    def test_a_task_of_nan_beside_others(self, folder: Path, tmp_path: Path):
        root = tmp_path / "tasks"
        root.mkdir()
        for name in ("deep", "deep-longer"):
            (root / f"{name}.safetensors").write_bytes((folder / f"{name}.safetensors").read_bytes())
        not_a_number(root)
        with TestClient(create_app(ServeSettings(folder=root, device="cpu"))) as client:
            ready(client)
            rows = ask(client, [png(), png(1)], ["deep", "nan"]).json()["results"]
            assert [row["task"] for row in rows] == ["deep", "nan"] * 2
            for row in rows:
                assert ("scores" in row) == (row["task"] == "deep")
                assert ("error" in row) == (row["task"] == "nan")
            answer = ask(client, [png()], ["nan"])
            assert answer.status_code == 422
            assert "not finite" in answer.json()["detail"]
            answer = client.post("/v1/attention", files={"images": png()}, data={"tasks": "nan"})
            assert answer.status_code in (200, 422)  # its head does not touch attention

    def test_attention_that_is_not_finite_is_an_error(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        from vpt.inference.bank import attention

        usual = attention.attention_of

        def broken(*words: Any) -> Any:
            (maps,) = usual(*words)
            return [replace(maps, rollout=maps.rollout * torch.nan)]

        monkeypatch.setattr(attention, "attention_of", broken)
        with TestClient(create_app(ServeSettings(folder=folder, device="cpu"))) as client:
            ready(client)
            answer = client.post("/v1/attention", files={"images": png()}, data={"tasks": "deep"})
            assert answer.status_code == 422
            assert "attention maps that are not finite" in answer.json()["detail"]
            monkeypatch.setattr(attention, "attention_of", lambda *words: 1 / 0)
            answer = client.post("/v1/attention", files={"images": png()}, data={"tasks": "deep"})
            assert answer.status_code == 503
            assert answer.json()["detail"] == "task deep failed; see the log of the server"

    def test_attention_of_very_many_patches_is_refused(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("vpt.inference.bank.attention.MAX_BYTES", 100_000)
        with TestClient(create_app(ServeSettings(folder=folder, device="cpu"))) as client:
            ready(client)
            answer = client.post("/v1/attention", files={"images": png()}, data={"tasks": "deep"})
        assert answer.status_code == 422
        assert "have 64 patches, too many for attention maps" in answer.json()["detail"]

    def test_attention_waits_in_the_queue(self, folder: Path):
        app = create_app(ServeSettings(folder=folder, device="cpu", queue=1, wait_ms=0))
        batcher = app.state.service.batcher
        usual, threads, running, gate = batcher._run, [], threading.Event(), threading.Event()

        def run(*words: Any) -> Any:
            threads.append(threading.current_thread().name)
            running.set()
            gate.wait(60)
            return usual(*words)

        batcher._run = run
        found: list[int] = []
        with TestClient(app) as client:
            ready(client)

            def look() -> None:
                answer = client.post("/v1/attention", files={"images": png()}, data={"tasks": "deep"})
                found.append(answer.status_code)

            asking = [threading.Thread(target=look) for _ in range(2)]
            asking[0].start()
            assert running.wait(60)
            asking[1].start()
            until(lambda: batcher.waiting == 1)
            assert client.post("/v1/attention", files={"images": png()}, data={"tasks": "deep"}).status_code == 429
            gate.set()
            for thread in asking:
                thread.join()
        assert found == [200, 200]
        assert all(name.startswith("vpt-batch") for name in threads)

    def test_a_slow_task_is_answered_with_503_and_the_others_as_ever(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ):
        app = create_app(ServeSettings(folder=folder, device="cpu", task_s=0.2))
        with TestClient(app) as client:
            ready(client)
            # Each layer of this task's own head takes its time.
            model = app.state.service.bank._use(["shallow"])["shallow"].model
            seconds = iter(range(10**6))
            now = [next(seconds)]
            monkeypatch.setattr(deadline, "monotonic", lambda: now[0])
            model.head.register_forward_pre_hook(lambda *words: now.__setitem__(0, next(seconds)))
            model.head.register_forward_pre_hook(app.state.service.bank._deadline)
            answer = ask(client, [png()], ["shallow"])
            assert answer.status_code == 503
            assert "task shallow took longer than 0.2 seconds" in answer.json()["detail"]
            assert ask(client, [png()], ["deep"]).status_code == 200
            batches = app.state.service.metrics.registry.get_sample_value("vpt_batch_images_count")
            assert ask(client, [png()], ["shallow"]).status_code == 503  # and is not tried again at once
            assert app.state.service.metrics.registry.get_sample_value("vpt_batch_images_count") == batches
