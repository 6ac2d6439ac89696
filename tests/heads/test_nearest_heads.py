"""Nearest neighbours and class means, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from tests.helpers.runs import NET
from vpt.config import KnnHead, PrototypeHead, load_config
from vpt.heads.nearest import build_neighbours, build_prototypes
from vpt.training.tasks.fit_heads import drawn
from vpt.utils.errors import UserError


@pytest.fixture(scope="module")
def clouds() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features of 90 images of three classes that overlap, their labels, and 40 other features."""
    chance = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    centres = torch.randn(3, 12, generator=chance)
    features = centres[labels] + 1.5 * torch.randn(90, 12, generator=chance)
    return features, labels, torch.randn(40, 12, generator=chance) + centres[torch.arange(40) % 3]


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (20, 0.5), (500, 0.2)])
def test_neighbours_vote_as_in_scikit_learn(clouds, k: int, temperature: float):
    features, labels, others = clouds
    head = build_neighbours(KnnHead(k=k, temperature=temperature), 12, 3)
    head.remember(features, labels)
    stored = head.keys.double().numpy()  # fp16, as in the artifact
    twin = KNeighborsClassifier(
        min(k, 90), metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature), algorithm="brute"
    )
    twin.fit(stored, labels.numpy())
    unit = torch.nn.functional.normalize(others, dim=-1)
    # Its cosine normalises the stored features once more, which fp16 has made a little longer or shorter.
    torch.testing.assert_close(
        head(others).softmax(1), torch.from_numpy(twin.predict_proba(unit.numpy())).float(), atol=5e-3, rtol=0
    )
    assert (head(others).argmax(1).numpy() == twin.predict(unit.numpy())).mean() >= 0.95


def test_prototypes_are_the_centroids_of_scikit_learn(clouds):
    features, labels, others = clouds
    head = build_prototypes(PrototypeHead(temperature=0.25), 12, 3)
    head.remember(features, labels)
    unit = torch.nn.functional.normalize(features, dim=-1).numpy()
    centroids = NearestCentroid().fit(unit, labels.numpy()).centroids_
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    wanted = torch.nn.functional.normalize(others, dim=-1).numpy() @ centroids.T / 0.25
    torch.testing.assert_close(head(others), torch.from_numpy(wanted).float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "make", [lambda n: build_neighbours(KnnHead(k=5), 12, n), lambda n: build_prototypes(PrototypeHead(), 12, n)]
)
def test_a_class_that_is_added_is_as_if_it_had_been_there(clouds, make):
    features, labels, others = clouds
    whole, grown = make(3), make(2)
    whole.remember(features, labels)
    grown.remember(features[labels < 2], labels[labels < 2])
    grown.add_class(features[labels == 2])
    torch.testing.assert_close(grown(others), whole(others))


def test_similarities_are_not_rounded_by_autocast(clouds):
    features, labels, others = clouds
    head = build_neighbours(KnnHead(k=9), 12, 3)
    head.remember(features, labels)
    plain = head(others)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(others), plain)


def test_images_are_drawn_of_every_class(tmp_path):
    from vpt.data.dataset import Record

    records = [Record(f"{at}", tmp_path, (0 if at < 50 else at - 49,)) for at in range(53)]
    for seed in range(3):
        chosen = drawn(records, 6, seed)
        assert len(chosen) == 6
        assert {record.labels[0] for record in chosen} == {0, 1, 2, 3}
        assert chosen == drawn(records, 6, seed)
    assert len(drawn(records, 2, 0)) == 4


@pytest.mark.parametrize("kind", ["knn", "prototype"])
def test_what_would_need_training_is_refused(kind: str):
    assert load_config(overrides=[f"head={kind}"]).prompt.kind == "none"
    for words in (["prompt=deep"], ["tuning=lora"]):
        with pytest.raises(UserError, match=f"head={kind} is computed from the features of the frozen backbone"):
            load_config(overrides=[f"head={kind}", *words])
    with pytest.raises(UserError, match="needs one class an image"):
        load_config(overrides=[f"head={kind}", "data.multilabel=true", *NET])
