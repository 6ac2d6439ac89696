"""Prompts, heads, losses, data formats and backbones of others: named by the user or installed, never by a file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import vpt
from tests.helpers.doc_commands import console_lines, vpt_words
from tests.helpers.plugins import PAGE, install, nothing_named, shown_entry_points, shown_files
from tests.helpers.runs import NET, QUIET
from tests.helpers.tensors import close
from vpt.cli.main import main
from vpt.config import load_config, use_plugin
from vpt.config.describe import config_schema, described
from vpt.interop.export.export import export
from vpt.utils.errors import UserError

QUICK = ["data.shots=3", "data.workers=0", "train.batch_size=16"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The current folder, with the files of the page in it, which nobody has named yet."""
    with nothing_named() as patch:
        patch.chdir(tmp_path)
        for name, text in shown_files().items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        yield tmp_path


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Path]:
    """A folder of installed packages that offers what the page's package offers."""
    with nothing_named() as patch:
        site = tmp_path / "site"
        site.mkdir()
        install(site, shown_files(), shown_entry_points())
        patch.syspath_prepend(str(site))
        yield tmp_path


def said_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    return capsys.readouterr().err


def write_squares(folder: Path) -> Path:
    """A list in the page's format."""
    chance = np.random.default_rng(0)
    rows = []
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        for label, level in (("dark", 40), ("light", 180)):
            for number in range(count):
                name = f"{split}-{label}-{number}.png"
                Image.fromarray(chance.integers(level, level + 40, (32, 32, 3), dtype=np.uint8)).save(folder / name)
                rows.append(json.dumps({"image": name, "label": label, "split": split}))
    file = folder / "list.jsonl"
    file.write_text("\n".join(rows))
    return file


class TestNamed:
    def test_the_commands_of_the_page_run(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        ran = 0
        for line in console_lines(PAGE.read_text(encoding="utf-8")):
            words = vpt_words(line)
            assert words is not None
            assert main([*words, *(QUICK if words[0] == "train" else ["data.workers=0"])]) == 0, capsys.readouterr().err
            ran += 1
        assert ran >= 5
        assert sorted(path.name for path in (folder / "runs").iterdir()) == ["anchors", "cosine", "focal", "mixture"]

    def test_settings_are_checked_explained_and_in_the_schema(self, folder: Path):
        config = load_config(overrides=["prompt=my_prompts:MixturePrompt", "prompt.tokens=7"])
        assert config.prompt.model_dump() == {"kind": "my_prompts:MixturePrompt", "tokens": 7}
        assert load_config(base=yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config
        with pytest.raises(UserError, match=r"unknown key 'prompt\.tokns'; did you mean 'tokens'\?"):
            load_config(overrides=["prompt=my_prompts:MixturePrompt", "prompt.tokns=7"])
        with pytest.raises(UserError, match=r"prompt\.tokens=0: input should be greater"):
            load_config(overrides=["prompt=my_prompts:MixturePrompt", "prompt.tokens=0"])
        kept = load_config(
            base={"prompt": {"kind": "deep", "tokens": 9, "layers": "last:1"}},
            overrides=["prompt=my_prompts:MixturePrompt"],
        )
        assert kept.prompt.model_dump() == {"kind": "my_prompts:MixturePrompt", "tokens": 9}
        [told] = [one for one in described("prompt.tokens") if one.kinds == ("my_prompts:MixturePrompt",)]
        assert (told.default, told.meaning) == ("4", "prompt tokens per layer")
        schema = config_schema()
        assert schema["properties"]["prompt"]["discriminator"]["mapping"]["my_prompts:MixturePrompt"]
        assert schema["$defs"]["my_prompts:MixturePrompt"]["properties"]["tokens"]["maximum"] == 1000

    def test_a_file_and_cases_and_comparisons_name_classes_too(self, folder: Path):
        file = folder / "own.yaml"
        file.write_text(
            "train: {loss: {kind: 'my_losses:FocalLoss', gamma: 3}}\ncompare: ['my_prompts:MixturePrompt']\n"
            "cases: [{when: {data.shots: 1}, use: {head: 'my_heads:CosineHead'}}]\n"
        )
        config = load_config(file, ["data.shots=1"])
        assert (config.train.loss.gamma, config.head.scale) == (3.0, 16.0)
        assert config.compare == ["my_prompts:MixturePrompt"]

    @pytest.mark.parametrize(
        ("word", "said"),
        [
            ("prompt=my_promts:MixturePrompt", "no module my_promts in this folder"),
            ("prompt=my_prompts:MixturPrompt", r"my_prompts has no MixturPrompt; did you mean 'MixturePrompt'\?"),
            (
                "prompt=my_prompts:MixturePrompts",
                r"is not a settings section; derive it from vpt\.config\.PromptSection",
            ),
            ("head=my_prompts:MixturePrompt", r"derive it from vpt\.config\.HeadSection"),
            ("train.loss=my_heads:CosineHead", r"derive it from vpt\.config\.LossSection"),
            ("prompt=../my_prompts:MixturePrompt", "not of the form module:Class"),
            ("prompt=derived:Mine", r"prompt=derived:Mine calls itself kind='deep'; give it the field kind: str = ''"),
            ("prompt=broken:Anything", "importing broken failed: ZeroDivisionError: division by zero"),
            ("prompt=needs:Anything", "importing needs failed: ModuleNotFoundError: No module named 'no_such_package'"),
        ],
    )
    def test_mistakes_are_one_sentence(self, folder: Path, word: str, said: str):
        (folder / "derived.py").write_text("from vpt.config import DeepPrompt\nclass Mine(DeepPrompt):\n    pass\n")
        (folder / "broken.py").write_text("1 / 0\n")
        (folder / "needs.py").write_text("import no_such_package\n")
        with pytest.raises(UserError, match=said) as caught:
            load_config(overrides=[word])
        assert "\n" not in str(caught.value)

    def test_settings_derived_from_ours_are_those_of_the_class_that_is_named(self, folder: Path):
        (folder / "derived.py").write_text(
            "from vpt.config import DeepPrompt\nclass Mine(DeepPrompt):\n    kind: str = ''\n    more: int = 3\n"
        )
        prompt = load_config(overrides=["prompt=derived:Mine", "prompt.tokens=2"]).prompt
        assert (prompt.kind, prompt.tokens, prompt.more) == ("derived:Mine", 2, 3)

    def test_a_network_of_ones_own_takes_a_named_class(self, folder: Path, small_net: None, tmp_path: Path):
        import timm

        net = timm.create_model("test_vit_patch8_32", num_classes=3)
        model = vpt.wrap(net, "my_prompts:MixturePrompt", tokens=2)
        saved = model.save(tmp_path / "own.safetensors")
        images = torch.randn(2, 3, 32, 32)
        fresh = timm.create_model("test_vit_patch8_32", num_classes=3)
        fresh.load_state_dict(net.state_dict())
        close(vpt.load_prompt(fresh, saved)(images), model(images))
        with nothing_named(), pytest.raises(UserError, match="code is never loaded because a file names it"):
            vpt.load_prompt(fresh, saved)
        with pytest.raises(UserError, match=r"prompt=my_anchors:AnchorPrompt is initialised from images: use wrap\("):
            vpt.wrap(timm.create_model("test_vit_patch8_32", num_classes=3), "my_anchors:AnchorPrompt")
        mine = vpt.wrap(
            timm.create_model("test_vit_patch8_32", num_classes=3),
            "my_anchors:AnchorPrompt",
            images=torch.randn(4, 3, 32, 32),
            labels=torch.tensor([0, 1, 2, 1]),
        )
        assert torch.equal(mine.prompt.tokens[0, 0], mine.prompt.tokens[0, 3])  # the fourth is of the first class again

    def test_a_class_that_fails_while_it_is_built_is_no_bug_of_ours(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ):
        (folder / "mine.py").write_text(
            "from vpt.config import FeatureHead, TokenPrompt\n"
            "class Fails(TokenPrompt):\n    def build(self, shape):\n        return shape.depht\n"
            "class Other(FeatureHead):\n    def build(self, features, classes):\n        return 3\n"
        )
        said = said_of(["train", "prompt=mine:Fails", *QUICK], capsys)
        assert re.search(r"vpt: prompt=mine:Fails cannot be built: AttributeError: .* has no attribute 'depht'", said)
        assert "head=mine:Other builds a int, not a torch.nn.Module" in said_of(
            ["train", "head=mine:Other", *QUICK], capsys
        )

    def test_the_current_folder_is_searched_by_the_installed_command(self, folder: Path):
        code = "import sys; sys.path.remove(''); from vpt.cli.main import main; sys.exit(main(sys.argv[1:]))"
        words = ["config", "show", "prompt=my_prompts:MixturePrompt"]
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert yaml.safe_load(done.stdout)["prompt"] == {"kind": "my_prompts:MixturePrompt", "tokens": 4}


TRAP = """
from pathlib import Path
Path(__file__).with_name("imported").touch()
from vpt.config import TokenPrompt
class Prompt(TokenPrompt):
    pass
"""


class TestStrangers:
    """No file, whoever has written it, has a module imported by naming it."""

    @pytest.fixture
    def trained(self, folder: Path, shapes: Path, small_net: None) -> Iterator[Path]:
        """A finished run with a plug-in, in a process that knows it no longer."""
        words = [f"data={shapes}", *NET, "train.epochs=1", "name=own", "data.workers=0", "head.init=small"]
        vpt.train(load_config(overrides=["prompt=my_prompts:MixturePrompt", *words]), QUIET)
        with nothing_named():
            yield folder / "runs" / "own"

    def test_an_artifact_is_loaded_once_its_class_is_named(
        self, trained: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
    ):
        image = str(next(shapes.glob("test/*/*.png")))
        for words in (["predict", str(trained), image], ["eval", str(trained)], ["report", str(trained)]):
            said = said_of(words, capsys)
            assert "code is never loaded because a file names it" in said
            assert re.search("--plugin (MODULE:CLASS|my_prompts:MixturePrompt)", said)
            assert said.count("\n") == 1
            assert "take another copy" not in said
        [first] = vpt_scores(trained, image, "--plugin", "my_prompts:MixturePrompt", capsys=capsys)
        use_plugin("my_prompts:MixturePrompt")
        close_to = vpt.load(trained / "artifact.safetensors").predict(image)[0].score
        assert first == pytest.approx(close_to, abs=1e-5)

    @pytest.mark.parametrize("kind", ["trap:Prompt", "trap.inner:Prompt", "os:system", "my_prompts", "../trap:Prompt"])
    def test_no_file_has_a_module_imported(
        self, kind: str, trained: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ):
        from safetensors import safe_open
        from safetensors.torch import save_file

        (folder / "trap.py").write_text(TRAP)
        artifact = trained / "artifact.safetensors"
        with safe_open(artifact, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        changed = {key: value.replace("my_prompts:MixturePrompt", kind) for key, value in metadata.items()}
        assert changed != metadata
        other = folder / "other.safetensors"
        save_file(tensors, other, changed)
        with pytest.raises(UserError):
            vpt.load(other)
        with pytest.raises(UserError):
            vpt.load_config(base={"prompt": kind})
        for key in ("compare", "cases"):
            value = [kind] if key == "compare" else [{"when": {}, "use": {"prompt": kind}}]
            if ":" in kind:
                with pytest.raises(UserError):
                    vpt.load_config(base={key: value})
        text = (trained / "config.yaml").read_text()
        (trained / "config.yaml").write_text(text.replace("my_prompts:MixturePrompt", kind))
        (trained / "metrics.json").unlink()
        assert main(["train", f"resume={trained}"]) == 2
        assert main(["report", str(trained)]) == 2
        assert not (folder / "imported").exists()
        assert "trap" not in sys.modules

    def test_a_run_is_resumed_once_its_class_is_named(self, trained: Path):
        (trained / "metrics.json").unlink()
        with pytest.raises(UserError, match="code is never loaded because a file names it"):
            vpt.resume(trained, console=QUIET)
        vpt.resume(trained, ["prompt=my_prompts:MixturePrompt"], QUIET)
        assert (trained / "metrics.json").is_file()


def vpt_scores(run: Path, image: str, *words: str, capsys: pytest.CaptureFixture[str]) -> list[float]:
    capsys.readouterr()
    assert main(["predict", str(run), image, "--format", "json", *words]) == 0
    return [max(row["scores"].values()) for row in json.loads(capsys.readouterr().out)]


class TestInstalled:
    def test_what_a_package_offers_is_called_by_its_name(self, installed: Path):
        file = write_squares(installed)
        words = ["prompt=mixture", f"data=jsonl:{file}", "backbone=my_zoo:tiny", f"out={installed / 'runs'}"]
        config = load_config(overrides=[*words, "train.epochs=1", "data.workers=0"])
        result = vpt.train(config, QUIET)
        assert [sum(row) for row in result.metrics["test"]["confusion"]] == [2, 2]
        with nothing_named() as patch:
            patch.setattr(sys, "path", [str(installed / "site"), *sys.path])
            found = vpt.load(result.artifact).predict(str(next(installed.glob("test-light-*.png"))))
            assert found[0].top in ("dark", "light")

    def test_unknown_names_are_told_with_the_nearest(self, installed: Path):
        for word, said in {
            "prompt=mixtur": r"prompt\.kind=mixtur does not exist; did you mean 'mixture'\?; known: none, .*, mixture$",
            "backbone=my_zo:tiny": r"there is no source 'my_zo'; did you mean 'my_zoo'\?",
        }.items():
            with pytest.raises(UserError, match=said):
                from vpt.backbones.factory import check_backbone

                check_backbone(load_config(overrides=[word]).backbone)
        from vpt.data.datasets.registry import load_data

        with pytest.raises(UserError, match=r"nor a format 'json'; did you mean 'jsonl'\?"):
            load_data(load_config(overrides=["data=json:list"]).data)
        with pytest.raises(UserError, match=r"cannot be read by my_formats:read_json_lines: FileNotFoundError"):
            load_data(load_config(overrides=["data=jsonl:nothing"]).data)
        with pytest.raises(UserError, match="cannot be built by my_zoo:build: KeyError"):
            from vpt.backbones.factory import load_backbone

            load_backbone(load_config(overrides=["backbone=my_zoo:huge"]).backbone)

    def test_settings_are_explained_and_in_the_schema(self, installed: Path, capsys: pytest.CaptureFixture[str]):
        assert main(["config", "explain", "prompt"]) == 0
        assert "mixture" in capsys.readouterr().out
        assert main(["config", "schema"]) == 0
        schema = json.loads(capsys.readouterr().out)
        assert schema["$defs"]["mixture"]["properties"]["kind"]["const"] == "mixture"
        assert {"$ref": "#/$defs/mixture"} in schema["properties"]["prompt"]["oneOf"]

    def test_a_backbone_of_a_package_is_not_loaded_on_an_artifacts_word(self, installed: Path):
        file = write_squares(installed)
        words = [f"data=jsonl:{file}", "backbone=my_zoo:tiny", f"out={installed / 'runs'}", "prompt=none"]
        result = vpt.train(load_config(overrides=[*words, "train.epochs=1", "data.workers=0"]), QUIET)
        from vpt.backbones import known_backbones
        from vpt.models.artifact import read_artifact

        fingerprint = read_artifact(result.artifact).backbone["fingerprint"]
        known_backbones._note(fingerprint).unlink()  # as on another machine
        with pytest.raises(UserError, match="a plug-in, which is not loaded because an artifact names it"):
            vpt.load(result.artifact)
        assert vpt.load(result.artifact, backbone="my_zoo:tiny").classes == ("dark", "light")

    def test_a_name_of_ours_is_never_taken_and_two_packages_are_told(self, installed: Path):
        more = installed / "more"
        more.mkdir()
        install(more, {}, "[vpt.prompts]\ndeep = my_anchors:AnchorPrompt\n", "other-one")
        with nothing_named() as patch:
            patch.syspath_prepend(str(more))
            assert type(load_config(overrides=["prompt=deep"]).prompt).__name__ == "DeepPrompt"
        twice = installed / "twice"
        twice.mkdir()
        install(twice, {}, "[vpt.prompts]\nmixture = my_anchors:AnchorPrompt\n", "other-two")
        with nothing_named() as patch:
            patch.syspath_prepend(str(twice))
            with pytest.raises(UserError, match="two installed packages offer 'mixture'"):
                load_config(overrides=["prompt=mixture"])

    def test_a_broken_package_is_one_sentence(self, installed: Path):
        more = installed / "more"
        more.mkdir()
        install(more, {"bad.py": "1 / 0\n"}, "[vpt.prompts]\nbad = bad:Prompt\n", "bad-one")
        with nothing_named() as patch:
            patch.syspath_prepend(str(more))
            with pytest.raises(UserError, match=r"'bad' of bad-one cannot be loaded \(bad:Prompt\): ZeroDivisionError"):
                load_config(overrides=["prompt=bad"])
            assert described("prompt.tokens")  # the others are explained all the same


class TestTask:
    """A task of an installed package trains, evaluates, predicts and reports as those of this package."""

    @pytest.fixture
    def trained(self, installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(installed)
        words = ["task=number", "data=digits", "backbone=vpt_nano", "prompt.tokens=2", "train.epochs=2", "name=number"]
        assert main(["train", *words, *QUICK, "out=runs"]) == 0
        return installed / "runs" / "number"

    def test_everywhere(self, trained: Path, capsys: pytest.CaptureFixture[str]):
        metrics = json.loads((trained / "metrics.json").read_text())
        assert set(metrics["val"]) == {"r2", "images"}
        assert [set(row) & {"val_r2", "val_loss", "train_accuracy"} for row in rows_of(trained)] == [{"val_r2"}] * 2
        capsys.readouterr()
        assert main(["eval", str(trained), "split=val", "data.workers=0", "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["r2"] == pytest.approx(metrics["val"]["r2"], abs=1e-5)
        photo = trained / "prompted.png"
        Image.fromarray(np.full((40, 30, 3), 90, dtype=np.uint8)).save(photo)
        [found] = vpt.load(trained).predict(photo)
        assert main(["predict", str(trained), str(photo), "--format", "csv"]) == 0
        assert capsys.readouterr().out.splitlines() == ["image,number", f"{photo},{found.number}"]
        assert main(["predict", str(trained), str(photo), "--draw", str(trained / "drawn")]) == 2
        assert "--draw cannot be used with an artifact of task=number" in capsys.readouterr().err
        assert main(["report", str(trained)]) == 0
        assert "R2 is " in (trained / "report.html").read_text()
        with pytest.raises(UserError, match="task=number cannot be exported"):
            export(trained)

    def test_it_shares_a_backbone_with_others(self, trained: Path, installed: Path):
        words = ["backbone=vpt_nano", "data=digits", "prompt.tokens=2", "train.epochs=1", "out=runs", "name=digits"]
        vpt.train(load_config(overrides=[*words, *QUICK]), QUIET)
        bank = vpt.Bank()
        for name in ("number", "digits"):
            bank.add(name, installed / "runs" / name)
        pixels = np.full((40, 30, 3), 90, dtype=np.uint8)
        number, digit = bank.predict([pixels, pixels], ["number", "digits"])
        assert number.number == pytest.approx(vpt.load(trained).predict(pixels)[0].number, abs=1e-5)
        assert digit.top in vpt.load(installed / "runs" / "digits").classes

    def test_its_head_belongs_to_it(self, installed: Path):
        with pytest.raises(UserError, match="task=classification does not go with head=number; set task=number"):
            load_config(overrides=["head=number"])
        with pytest.raises(UserError, match=r"task=numbr: input should be one of .*, number; did you mean 'number'\?"):
            load_config(overrides=["task=numbr"])


def rows_of(run: Path) -> list[dict[str, object]]:
    """Rows of the log at the end of epochs."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "epoch"]


def test_settings_are_read_without_torch_and_only_the_chosen_prompt_is_imported():
    code = """
import sys
from vpt.config import load_config
from vpt.config.describe import config_schema, described
config = load_config(overrides=["prompt=vfpt", "head=mlp"])
config_schema(), described()
assert "torch" not in sys.modules
from vpt.prompts.base import Shape
config.prompt.build(Shape(depth=2, width=8, heads=2, patch=(4, 4), grid=(2, 2)))
print(sorted(name for name in sys.modules if name.startswith(("vpt.prompts.visual.", "vpt.prompts.clip", "vpt.heads"))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['vpt.prompts.visual.vfpt', 'vpt.prompts.visual.vpt']"


def test_sections_of_a_registry_name_what_exists():
    """A misspelt place of a builder is found here, not by a user."""
    from vpt.config.plugins import REGISTRIES
    from vpt.utils.plugins import imported

    makers = {section.make for registry in REGISTRIES for section in registry.own.values() if section.make}
    assert len(makers) > 10
    assert all(callable(imported(make)) for make in makers)
