"""One frozen backbone in memory, any number of tasks beside it, and batches in which every image is another task's."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpt.artifact import Artifact, find_artifact, read_artifact
from vpt.attention import as_heat, attention_of, require_attention
from vpt.backbones.backbone import Backbone
from vpt.backbones.ports import LayerPrompt
from vpt.bank.stacking import Stack, shape_of, stack
from vpt.config import BackboneConfig, LabelMapHead, NativeHead, OwlHead, ZeroShotHead
from vpt.data.images import BadImage, decode
from vpt.device import pick_device
from vpt.errors import UserError, nearest
from vpt.heads.zeroshot import ZeroShot
from vpt.inputs import Picture
from vpt.model import PromptedModel
from vpt.predict import BoxPredictor, Classifier, Predictor
from vpt.results import Classification, Detections
from vpt.tasks import task_of

Result = Classification | Detections


@dataclass(frozen=True)
class TaskInfo:
    """What a bank tells of a task."""

    name: str
    task: str  # classification or detection
    classes: tuple[str, ...]
    prompt: str
    image_size: int
    bytes: int
    loaded: bool


@dataclass
class _Entry:
    """A task: where it came from, and, unless memory was short, what it computes with."""

    name: str
    artifact: Artifact
    predictor: Predictor | None = None
    layers: list[LayerPrompt] | None = None
    head: Callable[[Tensor], Tensor] | None = None
    shape: Hashable = None
    bytes: int = 0


@dataclass
class _Group:
    """Tasks that go through the backbone together."""

    names: tuple[str, ...]
    stack: Stack
    place: dict[str, int] = field(default_factory=dict)


class Bank:
    """Serves tasks from one backbone.

    Args:
        backbone: which one; default: that of the first artifact that is added.
        device: auto, cpu, cuda, cuda:1, mps.
        memory: bytes that tasks may take beside the backbone; the least recently used leave first and come back from
            their files. None for no limit.

    Tasks are added and removed while others predict. Results equal each task's own model.
    """

    def __init__(self, backbone: BackboneConfig | None = None, device: str = "auto", memory: int | None = None) -> None:
        self._config = backbone
        self._device = pick_device(device)
        self._memory = memory
        self._lock = threading.RLock()
        self._tasks: OrderedDict[str, _Entry] = OrderedDict()  # least recently used first
        self._groups: dict[Hashable, _Group] = {}
        self._backbone: Backbone | None = None

    def add(self, name: str, artifact: str | Path) -> TaskInfo:
        """Add a task, or replace the one of that name, by its artifact file or run folder.

        Raises:
            UserError: a damaged artifact, one of another backbone, or one that changes backbone weights.
        """
        if not name or len(name) > 200:
            raise UserError("a task needs a name of at most 200 characters")
        found = read_artifact(find_artifact(artifact))
        self._check(name, found)
        entry = _Entry(name, found)
        self._load(entry)
        with self._lock:
            self._tasks[name] = entry
            self._tasks.move_to_end(name)
            self._groups.clear()
            self._make_room(keep={name})
        return self.info(name)

    def remove(self, name: str) -> None:
        """Remove a task; batches that are under way still finish with it.

        Raises:
            UserError: no such task.
        """
        with self._lock:
            self._entry(name)
            del self._tasks[name]
            self._groups.clear()

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def names(self) -> list[str]:
        """Names of all tasks, in order."""
        with self._lock:
            return sorted(self._tasks)

    def info(self, name: str) -> TaskInfo:
        """What a task is.

        Raises:
            UserError: no such task.
        """
        with self._lock:
            entry = self._entry(name)
            config, found = entry.artifact.config, entry.artifact
            return TaskInfo(
                name,
                config.task,
                found.classes,
                config.prompt.kind,
                found.preprocess.size,
                entry.bytes,
                entry.predictor is not None,
            )

    def bytes(self) -> int:
        """Bytes that loaded tasks take beside the backbone."""
        with self._lock:
            return sum(entry.bytes for entry in self._tasks.values() if entry.predictor is not None)

    def predict(self, images: Sequence[Picture], tasks: Sequence[str], top: int = 5) -> list[Result | BadImage]:
        """What each image shows to its task; an image that cannot be read gives its BadImage instead.

        Args:
            images: paths, PIL pictures or uint8 arrays.
            tasks: the task of each image.
            top: how many classes a classification names.

        Raises:
            UserError: no such task, or lists of different lengths.
        """
        if len(images) != len(tasks):
            raise UserError(f"{len(images)} images with {len(tasks)} tasks; give one task an image")
        entries = self._use(tasks)
        results: list[Result | BadImage | None] = [None] * len(images)
        waiting: dict[Hashable, list[tuple[int, Tensor]]] = {}
        for index, (image, name) in enumerate(zip(images, tasks, strict=True)):
            entry = entries[name]
            assert entry.predictor is not None
            label = str(image) if isinstance(image, str | Path) else f"image {index + 1}"
            try:
                pixels = decode(image, entry.artifact.config.data.max_pixels, label)
            except BadImage as error:
                results[index] = error
                continue
            if isinstance(entry.predictor, Classifier):
                ready = entry.predictor.transform(pixels, 0)
                waiting.setdefault((entry.shape, ready.shape[-1]), []).append((index, ready))
            else:
                results[index] = entry.predictor.batch([label], [pixels], top)[0]
        for batch in waiting.values():
            places = [index for index, _ in batch]
            scores = self.logits(
                torch.stack([ready for _, ready in batch]), [tasks[index] for index in places], entries
            )
            for index, row in zip(places, scores, strict=True):
                results[index] = _classified(entries[tasks[index]], images[index], index, row, top)
        with self._lock:
            self._make_room(keep=set())  # a batch may have needed more tasks than there is room for
        return [result for result in results if result is not None]

    def attention(self, image: Picture, task: str) -> dict[str, Any]:
        """Where a task looks on an image: maps over the square that the backbone sees, each 0 to 1 by its own range.

        Returns:
            square, what the backbone sees as (S, S, 3) uint8; grid (rows, columns); rollout, and of every layer cls
            and prompts, as nested lists.

        Raises:
            UserError: no such task, one that finds boxes, or a backbone without patches.
        """
        entry = self._use([task])[task]
        predictor = entry.predictor
        assert predictor is not None
        model = require_attention(predictor.model)
        assert isinstance(predictor, Classifier)
        square = predictor.transform(decode(image, entry.artifact.config.data.max_pixels, "image"), 0)
        (maps,) = attention_of(model, square[None].to(self._device))

        def lists(layers: Tensor | None) -> list[Any]:
            return [] if layers is None else [as_heat(layer).round(4).tolist() for layer in layers]

        return {
            "task": task,
            "square": square.permute(1, 2, 0).numpy(),
            "grid": list(maps.rollout.shape),
            "rollout": as_heat(maps.rollout).round(4).tolist(),
            "cls": lists(maps.cls),
            "prompts": lists(maps.prompts),
        }

    @torch.inference_mode()
    def logits(self, images: Tensor, tasks: Sequence[str], entries: dict[str, _Entry] | None = None) -> list[Tensor]:
        """Scores (classes of its task,) of each image, on the CPU in float32, before softmax or sigmoid.

        Args:
            images: (B, 3, S, S) uint8, of the size that their tasks want.
            tasks: the task of each image; of one shape, or they are passed in turn.
            entries: loaded tasks, from `predict`.
        """
        entries = entries or self._use(tasks)
        found: list[Tensor | None] = [None] * len(tasks)
        shapes: dict[Hashable, list[int]] = {}
        for index, name in enumerate(tasks):
            shapes.setdefault(entries[name].shape, []).append(index)
        images = images.to(self._device)
        for shape, places in shapes.items():
            names = [tasks[index] for index in places]
            group = self._group(shape, names, entries)
            first = entries[names[0]].predictor
            assert first is not None
            model: PromptedModel = first.model
            batch = images if len(places) == len(tasks) else images[torch.tensor(places, device=self._device)]
            ids = torch.tensor([group.place[name] for name in names], device=self._device)
            pixels = self._normalised(batch, names, entries)
            features = model.backbone.features(pixels, model.steps, model.pool, group.stack.of(ids))
            for name in dict.fromkeys(names):
                rows = [row for row, other in enumerate(names) if other == name]
                head = entries[name].head
                assert head is not None
                mine = features if len(rows) == len(names) else features[torch.tensor(rows, device=self._device)]
                for row, score in zip(rows, head(mine).float().cpu(), strict=True):
                    found[places[row]] = score
        return [score for score in found if score is not None]

    def _normalised(self, images: Tensor, names: Sequence[str], entries: dict[str, _Entry]) -> Tensor:
        """Normalised images, each under its own task's pixel prompt if it has one."""
        models = {name: entries[name].predictor.model for name in dict.fromkeys(names)}  # type: ignore[union-attr]
        plain = [name for name, model in models.items() if model.image_size == model.backbone.preprocess.size]
        if len(plain) == len(models) and not any(_has_pixels(model) for model in models.values()):
            return next(iter(models.values())).normalise(images)
        parts = [models[name].normalise(images[row : row + 1]) for row, name in enumerate(names)]
        return torch.cat(parts)

    def _group(self, shape: Hashable, names: Sequence[str], entries: dict[str, _Entry]) -> _Group:
        """The stacked prompts of all loaded tasks of a shape, made anew after tasks came or went."""
        with self._lock:
            group = self._groups.get(shape)
            if group is not None and all(name in group.place for name in names):
                return group
            members = {name: entry for name, entry in self._tasks.items() if entry.shape == shape and entry.predictor}
            members |= {name: entries[name] for name in names}
            made = _Group(tuple(members), stack([entry.layers for entry in members.values()]))
            made.place = {name: place for place, name in enumerate(members)}
            self._groups[shape] = made
            return made

    def _use(self, tasks: Sequence[str]) -> dict[str, _Entry]:
        """The entries of tasks, loaded and marked as used."""
        with self._lock:
            wanted = {name: self._entry(name) for name in dict.fromkeys(tasks)}
            for name in wanted:
                self._tasks.move_to_end(name)
            missing = [entry for entry in wanted.values() if entry.predictor is None]
            for entry in missing:
                self._load(entry)
            if missing:
                self._groups.clear()
                self._make_room(keep=set(wanted))
            # Copies, so that a task that is evicted meanwhile still finishes this batch.
            return {name: _Entry(**vars(entry)) for name, entry in wanted.items()}

    def _entry(self, name: str) -> _Entry:
        if name not in self._tasks:
            raise UserError(f"there is no task '{name}'{nearest(name, self._tasks)}; known: {len(self._tasks)} tasks")
        return self._tasks[name]

    def _make_room(self, keep: set[str]) -> None:
        if self._memory is None:
            return
        for name in list(self._tasks):
            if self.bytes() <= self._memory:
                return
            entry = self._tasks[name]
            if entry.predictor is not None and name not in keep:
                entry.predictor = entry.layers = entry.head = None
                self._groups.clear()

    def _check(self, name: str, artifact: Artifact) -> None:
        config = artifact.config
        if config.tuning.kind != "frozen":
            raise UserError(
                f"task {name} changes weights of the backbone (tuning={config.tuning.kind}); a bank shares it"
            )
        if isinstance(config.head, LabelMapHead | NativeHead):
            raise UserError(f"task {name} needs a backbone of its own (head={config.head.kind}); serve it alone")
        with self._lock:
            if self._backbone is None:
                wanted = self._config or config.backbone
                self._backbone = _shared(wanted, text=isinstance(config.head, ZeroShotHead | OwlHead))
                self._backbone.to(self._device)
            backbone = self._backbone
            if isinstance(config.head, ZeroShotHead | OwlHead) and backbone.text is None:
                raise UserError(
                    f"task {name} needs the text tower; add a zero-shot task first, or start the bank with one"
                )
        if artifact.backbone["fingerprint"] not in backbone.fingerprints:
            raise UserError(
                f"task {name} was trained on backbone {artifact.backbone['name']} "
                f"(weights {artifact.backbone['fingerprint'][:12]}), not on {backbone.name} "
                f"(weights {backbone.fingerprint[:12]})"
            )

    def _load(self, entry: _Entry) -> None:
        """Build a task's model around the shared backbone."""
        assert self._backbone is not None
        artifact = entry.artifact
        backbone = self._backbone.at_size(artifact.preprocess)
        model = task_of(artifact.config).build(artifact.config, artifact.classes, backbone)
        model.set_preprocess(artifact.preprocess)
        model.load_owned(dict(artifact.tensors))
        # Before the freeze: what a task owns is what learned.
        owned = sum(tensor.numel() * tensor.element_size() for tensor in model.owned_state().values())
        model.requires_grad_(False)
        model.to(self._device).eval()
        if isinstance(model, PromptedModel):
            with torch.inference_mode():
                entry.layers = model.constants()
                entry.head = model.head.ready() if isinstance(model.head, ZeroShot) else model.head
            entry.shape = (model.pool, shape_of(model.steps, entry.layers))
            entry.predictor = Classifier(model, artifact)
            owned += sum(_layer_bytes(layer) for layer in entry.layers or ())
        else:
            entry.shape = ("detection", entry.name)
            entry.predictor = BoxPredictor(model, artifact)
        entry.bytes = owned


def _has_pixels(model: Any) -> bool:
    from vpt.prompts.pixels import PixelPrompts

    return isinstance(model.prompt, PixelPrompts)


def _classified(entry: _Entry, image: Any, index: int, scores: Tensor, top: int) -> Classification:
    predictor = entry.predictor
    assert isinstance(predictor, Classifier)
    if not torch.isfinite(scores).all():
        raise UserError(f"task {entry.name} gives scores that are not finite; train it again")
    share = scores.sigmoid() if entry.artifact.multilabel else scores.softmax(0)
    name = str(image) if isinstance(image, str | Path) else f"image {index + 1}"
    return predictor.result(name, share, top)


def _layer_bytes(layer: LayerPrompt) -> int:
    parts = [layer.tokens, *(layer.extra or ()), *(layer.branch or ())]
    return sum(part.numel() * part.element_size() for part in parts if isinstance(part, Tensor))


def _shared(config: BackboneConfig, text: bool) -> Backbone:
    from vpt.backbones.loading import load_backbone

    return load_backbone(config, text=text, dynamic=True)
