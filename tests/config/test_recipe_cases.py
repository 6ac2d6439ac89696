"""Settings of a recipe that hold only for some data or shots."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpt.config import load_config
from vpt.utils.errors import UserError

CASES = [
    {"when": {"data.shots": 1}, "use": {"train.epochs": 50}},
    {"when": {"data.shots": [2, 4]}, "use": {"train.epochs": 100}},
    {"when": {"data.path": "dassl:imagenet", "data.half": "all"}, "use": {"train.epochs": 5, "train.seed": 7}},
]
RECIPE = {"data": "photos", "train": {"epochs": 200}, "cases": CASES}


@pytest.mark.parametrize(
    ("words", "epochs"),
    [
        ([], 200),
        (["data.shots=1"], 50),
        (["data.shots=4"], 100),
        (["data.shots=16"], 200),
        (["data.shots=1", "data=dassl:imagenet"], 5),  # the later case wins
        (["data=dassl:imagenet", "data.half=base"], 200),  # all of `when` must hold
        (["data.shots=1", "train.epochs=3"], 3),  # the command line wins
    ],
)
def test_cases_hold_where_all_of_when_does(words: list[str], epochs: int):
    assert load_config(base=RECIPE, overrides=words).train.epochs == epochs


def test_a_protocol_that_loads_its_settings_again_meets_the_cases_of_each_run():
    first = load_config(base=RECIPE, overrides=["train.seed=2"])
    again = [load_config(base=first.model_dump(mode="json"), overrides=[f"data.shots={shots}"]) for shots in (1, 4, 16)]
    assert [config.train.epochs for config in again] == [50, 100, 200]
    imagenet = load_config(base=first.model_dump(mode="json"), overrides=["data.path=dassl:imagenet"])
    assert (imagenet.train.epochs, imagenet.train.seed) == (5, 2)  # what the command line gave first still wins


def test_a_case_that_changes_a_kind_keeps_what_fits():
    cases = [{"when": {"data.shots": 1}, "use": {"prompt.kind": "shallow", "prompt.tokens": 3}}]
    config = load_config(base={"prompt": {"kind": "deep", "dropout": 0.2}, "cases": cases}, overrides=["data.shots=1"])
    assert (config.prompt.kind, config.prompt.tokens, config.prompt.dropout) == ("shallow", 3, 0.2)


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ([{"when": {"data.shot": 1}, "use": {}}], "unknown setting 'data.shot'; did you mean 'data.shots'"),
        ([{"when": {"data.shots": 1}, "use": {"train.epoch": 3}}], "unknown setting 'train.epoch'"),
        ([{"whn": {}, "use": {}}], "unknown key 'cases.0.whn'"),
        ([{"when": {"data.shots": None}, "use": {"train.epochs": 0}}], "train.epochs=0"),
    ],
)
def test_mistakes_in_cases_are_named(cases: list[object], message: str):
    with pytest.raises(UserError, match=message):
        load_config(base={"cases": cases})


def test_an_artifact_holds_what_the_cases_came_to(tmp_path: Path, shapes: Path, small_net: None):
    from tests.helpers.runs import QUIET, settings
    from vpt.models.artifact import read_artifact
    from vpt.training.run import train

    words = ['cases=[{"when": {"data.augment": "light"}, "use": {"train.epochs": 1}}]', "data.augment=light"]
    config = settings(shapes, tmp_path, *words)
    assert config.train.epochs == 3  # `settings` gives it on the command line
    config = load_config(
        base={
            **config.model_dump(mode="json"),
            "cases": [{"when": {"data.augment": "light"}, "use": {"train.epochs": 1}}],
        }
    )
    result = train(config, QUIET)
    stored = read_artifact(result.artifact).config
    assert (stored.train.epochs, stored.cases) == (1, [])
