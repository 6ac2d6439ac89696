"""PAE: its losses and its initialisation against loops written from the paper, on every kind of deep prompt."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import vpt
from tests.helpers.runs import QUIET, settings
from tests.helpers.tensors import close, images_for
from tests.helpers.vit_families import build_backbone, build_net
from vpt.config import load_config
from vpt.models.artifact import read_artifact
from vpt.prompts.base import Shape, TrainingImages
from vpt.prompts.init.initialize import start
from vpt.prompts.init.spectral import STRIDE, WINDOW, best_bands, spectral_tokens
from vpt.prompts.registry import build_tokens
from vpt.prompts.visual.pae import paper_terms, released_terms
from vpt.training.run import train
from vpt.utils.errors import UserError
from vpt.utils.tensor_io import read_tensors

pytestmark = pytest.mark.usefixtures("small_net")
SHAPE = Shape(depth=4, width=32, heads=2, patch=(8, 8), grid=(4, 4))


def terms_twin(prompts: list[Tensor], u: Tensor, step: Tensor, energy: Tensor, paper: bool) -> tuple[Tensor, Tensor]:
    """Token by token: z = U p; |z' - K^T z|^2; the increase of z Q z^T, Q = L^T L."""
    quadratic = torch.stack([torch.stack([(energy[:, i] * energy[:, j]).sum() for j in range(3)]) for i in range(3)])
    if not paper:
        quadratic = quadratic / torch.linalg.eigvalsh(quadratic)[-1]
    consistency, stability = torch.zeros(()), torch.zeros(())
    for here, there in pairwise(prompts):
        squares, increases = [], []
        for token, following in zip(here, there, strict=True):
            state, wanted = u @ token, u @ following
            predicted = torch.stack([sum(state[i] * step[i, j] for i in range(3)) for j in range(3)])
            squares += [(wanted[j] - predicted[j]) ** 2 for j in range(3)]
            if not paper:
                state, predicted = (each / each.norm().clamp(min=1) for each in (state, predicted))
            increases.append(predicted @ quadratic @ predicted - state @ quadratic @ state)
        if paper:
            consistency, stability = consistency + sum(squares), stability + torch.relu(sum(increases))
        else:
            consistency = consistency + sum(squares) / len(squares)
            mean = sum(torch.log(1 + torch.exp(each)) for each in increases) / len(increases)
            stability = stability + 10 * torch.tanh(mean / 10)
    return consistency, stability


@pytest.mark.parametrize("paper", [True, False])
def test_the_losses_are_those_of_the_definition(paper: bool):
    torch.manual_seed(0)
    prompts = [torch.randn(4, 8, requires_grad=True) for _ in range(3)]
    u, step, energy = ((torch.eye(3, size) + 0.3 * torch.randn(3, size)).requires_grad_() for size in (8, 3, 3))
    mine = (paper_terms if paper else released_terms)([tokens @ u.T for tokens in prompts], step, energy)
    theirs = terms_twin(prompts, u, step, energy, paper)
    wanted = [*prompts, u, step, energy]
    for one, other in zip(mine, theirs, strict=True):
        assert other > 0
        close(one, other)
    for one, other in zip(
        torch.autograd.grad(mine[0] + 3 * mine[1], wanted),
        torch.autograd.grad(theirs[0] + 3 * theirs[1], wanted),
        strict=True,
    ):
        close(one, other, "the gradient")


@pytest.mark.parametrize("kind", ["deep", "vfpt", "e2vpt", "cvpt", "bpt"])
@pytest.mark.parametrize("form", ["released", "paper"])
def test_any_deep_prompt_takes_them(kind: str, form: str):
    """Of the tokens that enter, without dropout; the released form leaves out those of the first layer."""
    words = [f"prompt={kind}", "prompt.tokens=4", "prompt.layers=all", f"prompt.pae={form}", "prompt.dropout=0.5"]
    more = ["prompt.rank=3", "prompt.pae.from_images=false"] if kind == "bpt" else []
    config = load_config(overrides=[*words, *more, "prompt.pae.width=3"]).prompt
    torch.manual_seed(0)
    prompt = build_tokens(config, SHAPE).train()
    with torch.no_grad():
        prompt.regularizer.step.add_(torch.eye(3) + 0.3 * torch.randn(3, 3))
    found = prompt.all_losses(None, None)
    sets = list(prompt.eval().sets(1))[form == "released" :]
    theirs = terms_twin(
        sets, prompt.regularizer.project.weight, prompt.regularizer.step, prompt.regularizer.energy, form == "paper"
    )
    assert prompt.has_extra_losses
    assert theirs[1] > 0
    close(found["consistency"].detach(), 0.5 * theirs[0].detach())
    close(found["stability"].detach(), 0.2 * theirs[1].detach())


def test_parameters_are_counted_as_in_the_paper_and_leave_the_artifact():
    shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    prompt = build_tokens(load_config(overrides=["prompt.pae=released", "prompt.tokens=20"]).prompt, shape)
    counts = {True: 0, False: 0}
    for name, parameter in prompt.named_parameters():
        counts[prompt.is_training_only(name)] += parameter.numel()
    assert counts == {True: 768 * 256 + 2 * 256**2, False: 12 * 20 * 768}


def test_prompts_in_one_layer_are_refused():
    for words in (["prompt.layers=last:1"], ["prompt.shared=true"], ["prompt=bpt", "prompt.pae.from_images=false"]):
        with pytest.raises(UserError, match="at least two layers"):
            build_tokens(load_config(overrides=["prompt.pae=paper", *words]).prompt, SHAPE)
    with pytest.raises(UserError, match=r"besides the first one, which prompt\.pae=paper counts too"):
        build_tokens(load_config(overrides=["prompt.pae=released", "prompt.layers=first:2"]).prompt, SHAPE)
    assert build_tokens(load_config(overrides=["prompt.pae=paper", "prompt.layers=first:2"]).prompt, SHAPE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prompt.project=4"], "width"),
        (["prompt.init=sample"], "replaces init"),
        (["prompt=e2vpt", "prompt.prune_tokens=0.5"], "pruning"),
        (["prompt=bpt"], "width"),
    ],
)
def test_settings_that_contradict_it_are_refused(words: list[str], said: str):
    with pytest.raises(UserError, match=said):
        load_config(overrides=["prompt.pae.form=paper", *words])


def band_images(images: Tensor) -> list[Tensor]:
    """Every window of the centred spectrum on its own, by numpy, colour by colour."""
    side = images.shape[-1]
    found = []
    for top in range(0, side - WINDOW + 1, STRIDE):
        for left in range(0, side - WINDOW + 1, STRIDE):
            out = np.zeros(images.shape)
            for index in np.ndindex(*images.shape[:2]):
                spectrum = np.fft.fftshift(np.fft.fft2(images[index].double().numpy()))
                mask = np.zeros((side, side))
                mask[top : top + WINDOW, left : left + WINDOW] = 1
                out[index] = np.fft.ifft2(np.fft.ifftshift(spectrum * mask)).real
            found.append(torch.from_numpy(out).float())
    return found


class TestInitialisation:
    def test_bands_with_the_smallest_loss_come_first(self):
        images, labels = torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 1])
        weight = torch.randn(3 * 32 * 32, 2)
        losses = []
        for each in band_images(images):
            scores = (each.flatten(1) @ weight).exp()
            losses.append(-sum(math.log(row[label] / row.sum()) for row, label in zip(scores, labels, strict=True)))
        order = sorted(range(9), key=losses.__getitem__)
        assert best_bands(images, labels, lambda some: some.flatten(1) @ weight, 5) == order[:5]
        assert best_bands(images, labels, lambda some: some.flatten(1) @ weight, 11) == [*order, *order[:2]]

    def test_tokens_are_weighted_means_passed_through_the_layers_on_their_own(self):
        backbone = build_backbone("vit")
        images, labels = images_for(backbone, 4), torch.tensor([2, 5, 2, 7])
        data = TrainingImages(backbone, [images], [labels])
        with torch.no_grad():
            found = spectral_tokens(data, [0, 2, 3], 9)
            every = []
            for each in band_images(images):
                rows = backbone.net._pos_embed(backbone.net.patch_embed(each))[:, 1:]
                energy = rows.square().sum(-1)
                token = sum(
                    energy[b, n] / energy.sum() * rows[b, n] for b in range(len(rows)) for n in range(rows.shape[1])
                )
                every.append(token)
            places = [int((torch.stack(every) - token).abs().sum(1).argmin()) for token in found[0]]
            assert sorted(places) == list(range(9))
            rows = torch.stack([every[place] for place in places])[None]
            close(found[0], rows[0])
            for layer, block in enumerate(backbone.net.blocks[:3]):
                rows = block(rows)
                if layer:
                    close(found[layer], rows[0])

    @pytest.mark.parametrize("labels", [[], [torch.zeros(4, 3)], [[object()]]])
    def test_images_without_one_label_each_are_refused(self, labels: list):
        backbone = build_backbone("vit")
        config = load_config(overrides=["prompt.pae=released", "prompt.tokens=2"]).prompt
        prompt = build_tokens(config, Shape.of(backbone.require_tower("prompts")))
        with pytest.raises(UserError, match="one label for every image"):
            start(prompt, config, backbone, [images_for(backbone, 4)], 0, labels)

    @pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 1, 0]])
    def test_one_or_two_classes_are_enough(self, labels: list[int]):
        backbone = build_backbone("vit")
        data = TrainingImages(backbone, [images_for(backbone, 4)], [torch.tensor(labels)])
        with torch.no_grad():
            assert spectral_tokens(data, [0, 1], 3).isfinite().all()


def test_a_run_stores_the_tokens_alone(shapes: Path, tmp_path: Path):
    runs = {}
    for name, words in {"plain": [], "pae": ["prompt.pae=paper", "prompt.pae.width=16"]}.items():
        runs[name] = train(settings(shapes, tmp_path / name, *words), QUIET)
    shapes_of = {
        name: {key: value.shape for key, value in read_artifact(run.artifact).tensors.items()}
        for name, run in runs.items()
    }
    assert shapes_of["pae"] == shapes_of["plain"]
    assert runs["pae"].artifact.stat().st_size < runs["plain"].artifact.stat().st_size + 200
    held = read_tensors(runs["pae"].folder / "checkpoint.safetensors")[0]
    step = held["model:prompt.regularizer.step"]
    assert (step - torch.eye(16)).abs().max() > 1e-4  # it has been trained


def test_a_network_of_ones_own(tmp_path: Path):
    torch.manual_seed(0)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    model = vpt.wrap(build_net("vit"), "deep", tokens=3, pae="released", images=images, labels=labels).train()
    loss = model.with_extra_losses(model(images).square().mean(), images, labels)
    loss.backward()
    assert model.prompt.regularizer.project.weight.grad.abs().sum() > 0
    saved = model.save(tmp_path / "own.safetensors")
    assert set(read_tensors(saved)[0]) == {"prompt.tokens"}
    again = vpt.load_prompt(build_net("vit"), saved).eval()
    assert torch.equal(again(images), model.eval()(images))
