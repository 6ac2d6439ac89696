"""Configuration: merging, shorthand, and every mistake with the nearest name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.helpers.paths import ROOT
from vpt.config import DeepPrompt, NoPrompt, SgdConfig, given_keys, load_config, parse_overrides, split_values, word
from vpt.config.describe import described
from vpt.utils.errors import UserError

RECIPES = sorted(file for file in (ROOT / "configs").rglob("*.yaml") if file.parent.name != "sweep")


def test_a_bare_word_is_the_kind_or_the_name():
    config = load_config(overrides=["prompt=none", "backbone=resnet18", "data=photos", "tuning=lora", "head=mlp"])
    assert config.prompt == NoPrompt()
    assert (config.backbone.name, config.data.path) == ("resnet18", "photos")
    assert (config.tuning.kind, config.head.kind) == ("lora", "mlp")


def test_the_command_line_wins_over_the_file_over_the_defaults(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("prompt: {kind: deep, tokens: 5, layers: 'first:3'}\ntrain: {epochs: 7}\n")
    config = load_config(file, ["prompt.tokens=6"])
    assert config.prompt == DeepPrompt(tokens=6, layers="first:3")
    assert config.train.epochs == 7
    assert config.train.batch_size == load_config().train.batch_size


def test_a_changed_kind_drops_what_it_does_not_have():
    base = {"prompt": {"kind": "deep", "tokens": 5, "layers": "last:2"}}
    assert load_config(base=base, overrides=["prompt=shallow"]).prompt.tokens == 5
    assert load_config(base=base, overrides=["prompt=none"]).prompt == NoPrompt()
    sgd = load_config(base={"train": {"optimizer": {"lr": 1e-3}}}, overrides=["train.optimizer=sgd"]).train.optimizer
    assert sgd == SgdConfig()


def test_rates_are_one_number_or_one_for_a_role():
    usual = load_config().train.optimizer
    assert load_config(overrides=["train.optimizer.lr=1e-2"]).train.optimizer.lr.head == 0.01
    changed = load_config(overrides=["train.optimizer.lr.prompt=2e-2"]).train.optimizer
    assert (changed.lr.prompt, changed.lr.head) == (0.02, usual.lr.head)


def test_every_setting_is_explained():
    found = described()
    assert not [one.key for one in found if not one.meaning]
    tree = load_config().model_dump(mode="json")
    keys = {one.key for one in found}
    flat = [
        (f"{section}.{key}", value) for section in ("backbone", "data", "train") for key, value in tree[section].items()
    ]
    assert not [key for key, value in flat if not isinstance(value, dict) and key not in keys]
    usual = {one.key: one.default for one in found if not one.kinds}
    assert {key: usual[key] for key, value in flat if type(value) is int} == {
        key: str(value) for key, value in flat if type(value) is int
    }
    assert [one.kinds for one in described("prompt.rank")] == [
        (kind,) for kind in ("bpt", "sa2vp", "adapter", "pixel", "clip_lora", "mmrlpp")
    ]


def test_a_home_folder_is_one_everywhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(load_config(overrides=["out=~/runs"]).out) == "/home/somebody/runs"
    assert str(load_config(overrides=["out=~nobody-here/runs"]).out) == "~nobody-here/runs"


def test_values_are_read_as_yaml():
    paths = ["a=/photos #1/x", "b=photos: mine", "c=- photos", "d=2024-11-25", "e=#1"]
    assert list(parse_overrides(paths).values()) == [path[2:] for path in paths]
    assert parse_overrides(["a={b: c}", "b='x #1'"]) == {"a": {"b": "c"}, "b": "x #1"}
    assert parse_overrides(["a=1e-3", "b=null", "c=[1, 2]", "d=yes please", "e=", "f=a=b", "g=nan"]) == {
        "a": 0.001,
        "b": None,
        "c": [1, 2],
        "d": "yes please",
        "e": None,
        "f": "a=b",
        "g": "nan",
    }


TEXTS = ["a", "2024", "1e-3", "null", "true", "", " a ", "#a", "a: b", "- a", "[0, 1]", "it's", '"', "a\nb", "\x85"]
OTHERS = [None, True, 3, 0.1, 1e-5, 1e300, [0, [1e-7]], {"a": ["b"]}, ["it's, so", "😀"]]


@pytest.mark.parametrize("value", [*TEXTS, *OTHERS])
def test_a_written_word_gives_back_what_it_was(value: object):
    found = parse_overrides([word("key", value)])["key"]
    assert (type(found), found) == (type(value), value)
    assert parse_overrides([word("key", Path("a") / str(value))]) == {"key": str(Path("a") / str(value))}


def test_commas_in_brackets_and_quotes_do_not_part_values():
    assert split_values("1,2") == ["1", "2"]
    assert split_values("[0,1],[2,[3,4]],all") == ["[0,1]", "[2,[3,4]]", "all"]
    assert split_values("it's,\"a,b\",['c,d', e]") == ["it's", '"a,b"', "['c,d', e]"]
    assert split_values("a],b,[c,d") == ["a]", "b", "[c,d"]
    assert split_values("") == [""]


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["prompt.tokns=3"], ["unknown key 'prompt.tokns'; did you mean 'tokens'?"]),
        (["prompt=none", "prompt.tokens=3"], ["unknown key 'prompt.tokens'"]),
        (["tuning.rank=3"], ["unknown key 'tuning.rank'"]),
        (["train.optimizer.lr.promt=1"], ["unknown key 'train.optimizer.lr.promt'; did you mean 'prompt'?"]),
        (["train.accumulate=3"], ["train: batch_size=32 must be a multiple of accumulate=3"]),
        (["train.epochs=0"], ["train.epochs=0: input should be greater than or equal to 1"]),
        (
            ["head.kind=liner"],
            ["head.kind=liner does not exist; did you mean 'linear'?; known: "],
        ),
        (["train.seed=nan"], ["train.seed=nan: input should be a valid integer, unable to parse string as an integer"]),
    ],
)
def test_mistakes_are_told_line_by_line(words: list[str], lines: list[str]):
    with pytest.raises(UserError) as caught:
        load_config(overrides=words)
    found = str(caught.value).splitlines()
    assert len(found) == len(lines)
    assert all(one.startswith(other) for one, other in zip(found, lines, strict=True))


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1, 2", "just words", "a: &x [*x]\n1: 2"])
def test_a_file_that_is_no_config_is_one_sentence(tmp_path: Path, text: str):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"a\.yaml"):
        load_config(file)


def test_a_binary_file_is_one_sentence(tmp_path: Path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UserError, match="not a text file"):
        load_config(tmp_path / "a.yaml")


def test_what_is_shown_is_what_was_meant():
    config = load_config(overrides=["prompt.layers=[0,3]", "tuning=lora", "train.optimizer=sgd"])
    again = load_config(base=yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))))
    assert again == config


CONFIGS = [file for file in sorted((ROOT / "configs").glob("**/*.yaml")) if file.parent.name != "sweep"]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_shipped_configs_are_valid_and_open_with_their_command(file: Path):
    load_config(file)
    assert re.match(f"# vpt (train|eval|bench run [a-z-]+) {re.escape(str(file.relative_to(ROOT)))}", file.read_text())


class TestWith:
    """`config.with_(...)` changes a configuration as the command line does, without text."""

    @pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
    def test_without_changes_it_is_the_same(self, file: Path):
        config = load_config(file)
        assert config.with_() == config

    def test_it_is_what_the_command_line_makes(self):
        base = load_config(overrides=["prompt.tokens=7", "data=photos", "train.optimizer=sgd"])
        for words, changes in (
            (["prompt=shallow"], {"prompt": "shallow"}),
            (["prompt.kind=none"], {"prompt.kind": "none"}),
            (["train.optimizer=adamw", "train.epochs=3"], {"train.optimizer": "adamw", "train.epochs": 3}),
            (["data=other", "out=there"], {"data": "other", "out": Path("there")}),
        ):
            wanted = load_config(base=base.model_dump(mode="json"), overrides=words)
            assert base.with_(changes) == wanted

    def test_the_first_one_stays_as_it_is(self):
        config = load_config()
        assert config.with_(name="other").name == "other"
        assert config.name is None

    def test_a_section_replaces_the_one_that_was_there(self):
        config = load_config(overrides=["prompt.tokens=7", "prompt.layers=first:2"])
        assert config.with_(prompt=DeepPrompt(tokens=3)).prompt == DeepPrompt(tokens=3)
        assert config.with_(prompt={"kind": "deep", "tokens": 3}).prompt == DeepPrompt(tokens=3)
        other = load_config(overrides=["data=photos", "data.shots=3"])
        assert config.with_(data=other.data).data == other.data

    def test_mistakes_are_named_with_the_nearest_name(self):
        config = load_config()
        with pytest.raises(UserError, match=r"unknown key 'train\.epoch'; did you mean 'epochs'"):
            config.with_({"train.epoch": 3})
        with pytest.raises(UserError, match="unknown key 'nam'"):
            config.with_(nam="x")
        with pytest.raises(UserError, match=r"train\.epochs=-1"):
            config.with_({"train.epochs": -1})
        with pytest.raises(UserError, match=r"prompt\.kind=dep does not exist"):
            config.with_(prompt="dep")
        with pytest.raises(UserError, match="does not go with head=fcos"):
            config.with_({"head.kind": "fcos"})

    def test_a_case_follows_what_it_depends_on_and_does_not_undo_a_change(self, tmp_path: Path):
        file = tmp_path / "a.yaml"
        file.write_text("cases: [{when: {data.shots: 1}, use: {train.epochs: 50, prompt.tokens: 2}}]\n")
        config = load_config(file, ["prompt.tokens=9"])
        one = config.with_({"data.shots": 1})
        assert (one.train.epochs, one.prompt.tokens) == (50, 9)
        assert one.with_({"train.epochs": 7}).with_(name="x").train.epochs == 7


def test_a_word_is_a_kind_only_where_there_are_kinds():
    """head.loss is a list of losses, train.loss a section with a kind."""
    head = "head=linear_segmentation"
    for given, found in (("dice", ["dice"]), ("cross_entropy,dice", ["cross_entropy", "dice"])):
        assert load_config(overrides=["task=segmentation", head, f"head.loss={given}"]).head.loss == found
    assert load_config(overrides=["train.loss=cross_entropy"]).train.loss.kind == "cross_entropy"


@pytest.mark.parametrize("text", ["1", "007", "no", "on", "1e3", "2024-01-02", "0x10", ".5"])
@pytest.mark.parametrize(
    "key", ["data.positive", "data.label_column", "data.group", "name", "positive", "out", "backbone.weights"]
)
def test_a_text_is_what_was_written_whatever_yaml_makes_of_it(key: str, text: str):
    config = load_config(overrides=[f"{key}={text}"])
    place = config.backbone if "backbone" in key else config if key in ("name", "out") else config.data
    assert str(getattr(place, key.rpartition(".")[2])) == text


def test_a_section_takes_such_a_word_too():
    assert load_config(overrides=["data=2024"]).data.path == "2024"
    assert load_config(data=2024, positive=1).data.positive == "1"
    assert load_config().with_(positive=1).data.positive == "1"
    assert given_keys(["data=2024"]) == ["data.path"]
    assert parse_overrides(["data.test=2024"]) == {"data": {"test": "2024"}}
    assert load_config(overrides=["data.positive=null"]).data.positive is None
    with pytest.raises(UserError, match=r"prompt\.kind=1 does not exist"):
        load_config(overrides=["prompt=1"])


def test_in_a_file_quotes_are_the_way(tmp_path: Path):
    found = {"data: {positive: 1}": "data.positive=1", "out: 7": "out=7", "name: 2024-01-02": "name=2024"}
    for text, shown in found.items():
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(UserError, match=re.escape(shown) + ".*: write it in quotes"):
            load_config(tmp_path / "a.yaml")
