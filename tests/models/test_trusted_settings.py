"""What an artifact names is not opened, run or made on its word; only what the user names is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import vpt
from tests.compat.backbones import register
from tests.compat.cases import pictures
from tests.helpers import hostile_artifacts as hostile
from tests.helpers.hostile_artifacts import mutate, refused
from vpt.backbones.builtin_names import is_address
from vpt.backbones.factory import load_backbone
from vpt.config import BackboneConfig, RunConfig, load_config
from vpt.config.storable import refuse_unstorable
from vpt.data.datasets.registry import load_data
from vpt.models.artifact import read_artifact, save_artifact
from vpt.models.classifier import backbone_for, build_model
from vpt.models.header import ArtifactHeader, CheckpointHeader, PromptHeader
from vpt.prompts.clip.templates import read_templates
from vpt.utils.console import Console


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return register(tmp_path_factory.mktemp("backbones"))


@pytest.fixture
def own_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notes of a user who has named no backbone yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class TestCode:
    def test_a_folder_that_only_the_artifact_names_is_not_opened(
        self, weights: Path, tmp_path: Path, own_notes: None, monkeypatch: pytest.MonkeyPatch
    ):
        folder = hostile.evil_folder(tmp_path / "evil", tmp_path / "ran")
        named = f"open_clip:local-dir:{folder}"
        artifact = hostile.changed(
            "clip-coop", tmp_path / "a.safetensors", backbone__name=named, backbone__weights=None
        )
        shutil.rmtree(folder)  # were it opened, the sentence would say that it is not there
        for call in (lambda: vpt.load(artifact), lambda: vpt.Bank().add("a", artifact), lambda: vpt.evaluate(artifact)):
            assert f"specify it: --backbone {named}" in refused(call)

    @pytest.mark.parametrize("address", ["hf-hub:nobody/nothing", "local-dir:/nowhere"])
    def test_addresses_are_left_to_the_user(self, address: str, tmp_path: Path, own_notes: None):
        name = f"open_clip:{address}"
        artifact = hostile.changed("clip-coop", tmp_path / "a.safetensors", backbone__name=name, backbone__weights=None)
        assert "specify it" in refused(lambda: vpt.load(artifact))
        assert "specify it" not in refused(lambda: vpt.load(artifact, backbone=name))  # it is looked for
        for other in (address, f"vit_tiny_patch16_224.{address}", "../vit_tiny_patch16_224"):
            artifact = hostile.changed("nano-deep", tmp_path / "b.safetensors", backbone__name=other)
            why = "specify it" if ":" in other else "does not exist in timm"
            assert why in refused(lambda: vpt.load(artifact))  # noqa: B023

    def test_code_of_a_folder_that_the_user_names_does_not_run_either(self, tmp_path: Path):
        marker = tmp_path / "ran"
        folder = hostile.evil_folder(tmp_path / "evil", marker)
        config = BackboneConfig(name=f"open_clip:local-dir:{folder}")
        assert is_address(config.name)
        assert "needs its own code" in refused(lambda: load_backbone(config, text=True))
        assert not marker.exists()

    def test_a_folder_without_code_is_used_where_the_user_names_it(self, tmp_path: Path, own_notes: None):
        marker = tmp_path / "ran"
        folder = hostile.harmless_folder(tmp_path / "clip", marker)
        words = [f"backbone=open_clip:local-dir:{folder}", "backbone.pretrained=false", "prompt=none", "head=zeroshot"]
        config = load_config(overrides=words)
        model = build_model(config, backbone_for(config), ["cat", "dog"])
        artifact = save_artifact(tmp_path / "a.safetensors", model, config, ["cat", "dog"])
        # Its maker has named the folder; on another machine it has to be named once.
        assert vpt.load(artifact, "cpu").predict(pictures()[0])
        shutil.rmtree(tmp_path / "cache")
        assert "specify it" in refused(lambda: vpt.load(artifact, "cpu"))
        assert vpt.load(artifact, "cpu", backbone=config.backbone.name).predict(pictures()[0])
        assert vpt.load(artifact, "cpu").predict(pictures()[0])
        assert not marker.exists()

    @pytest.mark.parametrize(
        ("section", "key", "value", "sentence"),
        [
            ("text_cfg", "tokenizer_kwargs", {"vocab_file": "/etc/passwd"}, "tokenizer_kwargs.vocab_file"),
            ("text_cfg", "tokenizer_kwargs", ["x"], "an unexpected form"),
            ("text_cfg", "hf_tokenizer_name", "/etc", "hf_tokenizer_name"),
            ("text_cfg", "hf_model_name", "../x/y", "hf_model_name"),
            ("vision_cfg", "timm_model_name", "local-dir:/etc", "timm_model_name"),
            ("vision_cfg", "timm_model_name", "hf-hub:a/b", "timm_model_name"),
        ],
    )
    def test_settings_of_a_repository_lead_nowhere_else(
        self, section: str, key: str, value: object, sentence: str, tmp_path: Path
    ):
        folder = hostile.harmless_folder(tmp_path / "clip", tmp_path / "ran")
        config = json.loads((folder / "open_clip_config.json").read_text())
        config["model_cfg"][section][key] = value
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        wanted = BackboneConfig(name=f"open_clip:local-dir:{folder}", pretrained=False)
        assert sentence in refused(lambda: load_backbone(wanted, text=True))

    def test_a_text_tower_that_brings_code_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        folder = hostile.harmless_folder(tmp_path / "clip", tmp_path / "ran")
        tower = tmp_path / "tower"
        tower.mkdir()
        code = {"model_type": "bert", "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}}
        (tower / "config.json").write_text(json.dumps(code))
        (tower / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
        config = json.loads((folder / "open_clip_config.json").read_text())
        config["model_cfg"]["text_cfg"]["hf_model_name"] = "owner/tower"
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        from transformers import AutoConfig

        usual = AutoConfig.from_pretrained
        monkeypatch.setattr(AutoConfig, "from_pretrained", lambda _, **more: usual(tower, **more))
        wanted = BackboneConfig(name=f"open_clip:local-dir:{folder}", pretrained=False)
        assert "needs its own code" in refused(lambda: load_backbone(wanted, text=True))
        assert not (tmp_path / "ran").exists()


OPENED = """
import json, os, resource, sys
sys.path[:0] = {paths!r}
opened, most = [], {{}}
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
import torch, vpt
from tests.compat.backbones import register
from tests.compat.cases import pictures
from pathlib import Path
weights = register(Path({folder!r}))
for path, clip in {artifacts!r}:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for call in (
        lambda: vpt.load(path, "cpu", weights if clip else None).predict(pictures()[0]),
        lambda: vpt.Bank(device="cpu").add("a", path),
        lambda: vpt.evaluate(path, overrides=[f"backbone.weights={{weights}}"] if clip else []),
    ):
        try:
            call()
        except vpt.UserError as error:
            print(path, error, file=sys.stderr)
    most[path] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(json.dumps([opened, most]))
"""


def watched(artifacts: list[tuple[Path, bool]], folder: Path) -> tuple[list[str], dict[str, float], str]:
    """What a process opens that loads artifacts, into a bank too, and measures them; the megabytes that its memory grew
    by at each; what it said."""
    paths = [str(hostile.ROOT)]
    given = [(str(path), clip) for path, clip in artifacts]
    code = OPENED.format(paths=paths, folder=str(folder), artifacts=given)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    opened, most = json.loads(done.stdout.splitlines()[-1])
    return opened, most, done.stderr


class TestFiles:
    def test_no_path_in_a_header_is_opened(self, tmp_path: Path):
        secret = tmp_path / "secret.txt"
        secret.write_text("the first line\n")
        (tmp_path / "images" / "a").mkdir(parents=True)
        given: list[tuple[str, dict[str, object]]] = [
            ("clip-none", {"head__templates": str(secret)}),
            ("clip-none", {"head__templates": f"{secret}{{}}"}),
            ("clip-none", {"head__templates": "auto", "data__path": f"wds:{tmp_path / 'images'}"}),
            ("nano-deep", {"data__path": f"hf:{tmp_path / 'images'}", "data__download": True}),
            ("boxes-owl", {"head__templates": str(secret)}),
            ("clip-coop", {"head__templates": str(secret)}),
            ("clip-tip", {"head__templates": str(secret)}),
            ("nano-deep", {"backbone__weights": str(secret)}),
            ("nano-deep", {"backbone__weights": str(secret), "backbone__pretrained": str(secret)}),
            ("nano-deep", {"data__augment": f"{secret}.yaml"}),
            ("nano-deep", {"data__path": str(tmp_path / "images")}),
            ("nano-deep", {"data__val": str(secret), "data__test": str(secret), "data__root": str(secret)}),
            ("nano-deep", {"data__path": "torchvision:CIFAR10", "data__root": str(secret), "data__download": True}),
            ("nano-deep", {"out": str(tmp_path / "images"), "name": "a"}),
            ("mapped-iterative", {"head__text": f"local-dir:{secret}", "head__text_pretrained": str(secret)}),
        ]
        artifacts = [
            (hostile.changed(name, tmp_path / f"{number}.safetensors", **changes), "clip" in name or "owl" in name)
            for number, (name, changes) in enumerate(given)
        ]
        opened, _, said = watched(artifacts, tmp_path)
        assert str(artifacts[0][0]) in opened  # what is opened is noticed
        assert not [path for path in opened if str(secret) in path or str(tmp_path / "images") in path]
        assert "the first line" not in said

    def test_a_small_file_takes_little_memory(self, tmp_path: Path):
        given: list[tuple[str, dict[str, object]]] = [
            ("small-deep-mlp", {"head__hidden": [15000, 15000]}),
            ("small-deep-mlp", {"head__hidden": [65536] * 16}),
            ("small-deep-drop", {"prompt__tokens": 10_000}),
            ("small-e2vpt", {"prompt__kv_tokens": 10_000, "prompt__tokens": 10_000}),
            ("small-bpt", {"prompt__rank": 65_536, "prompt__tokens": 10_000}),
            ("small-vapt", {"prompt__bottleneck": 65_536, "prompt__tokens": 10_000}),
            ("small-lora", {"tuning__rank": 65_536}),
            ("clip-coop", {"prompt__class_specific": True, "prompt__tokens": 64}),
            ("clip-ivlp", {"prompt__depth": 1000, "prompt__tokens": 1000}),
            ("clip-maple", {"prompt__depth": 1000, "prompt__tokens": 64}),
            ("boxes-fcos", {"head__channels": 1024, "head__convs": 8, "head__taps": [-1] * 64}),
            ("boxes-owl", {"head__size": 4096, "head__longest": 20.0}),
            ("small-full-image", {"backbone__image_size": 4096}),
        ]
        artifacts = []
        for number, (name, changes) in enumerate(given):
            path = hostile.changed(name, tmp_path / f"{number}.safetensors", **changes)
            artifacts.append((path, "clip" in name or "owl" in name))
        plain = [(hostile.ARTIFACTS / f"{name}.safetensors", "clip" in name) for name in ("nano-deep", "clip-coop")]
        _, most, _ = watched([*plain, *artifacts], tmp_path)
        assert max(most[str(path)] for path, _ in artifacts) < 100, most  # megabytes

    def test_sizes_that_stall_are_refused(self, weights: Path, tmp_path: Path):
        _, tree = mutate.load(hostile.ARTIFACTS / "nano-deep.safetensors")
        for size in (3200, 4096, 10**9):
            large = hostile.with_header(
                "nano-deep", tmp_path / "a.safetensors", preprocess={**tree["preprocess"], "size": size}
            )
            assert refused(lambda: vpt.load(large))  # noqa: B023
        bank = vpt.Bank(device="cpu")
        bank.add("good", hostile.ARTIFACTS / "nano-deep.safetensors")
        pre = {**tree["preprocess"], "size": 3200}
        large = hostile.with_header("nano-deep", tmp_path / "b.safetensors", preprocess=pre)
        assert "patches" in refused(lambda: bank.add("bad", large))

    def test_more_texts_than_anybody_encodes_are_refused(self, weights: Path, tmp_path: Path):
        many = [f"class {number}" for number in range(100_000)]
        for name in ("clip-simple", "clip-promptsrc"):
            path = hostile.with_header(name, tmp_path / "a.safetensors", classes=many)
            assert "texts" in refused(lambda: vpt.load(path, "cpu", weights))  # noqa: B023

    def test_templates_are_given_by_the_user(self, weights: Path, tmp_path: Path):
        file = tmp_path / "templates.txt"
        file.write_text("a drawing of a {}\nnot a {}\n")
        old = hostile.changed("clip-none", tmp_path / "a.safetensors", head__templates=str(file))
        assert "--templates FILE" in refused(lambda: vpt.load(old, weights=weights))
        given = vpt.load(old, "cpu", weights, templates=file).predict(pictures()[0])
        assert given == vpt.load(old, "cpu", weights, templates=["a drawing of a {}", "not a {}"]).predict(
            pictures()[0]
        )
        assert given != vpt.load(old, "cpu", weights, templates="single").predict(pictures()[0])

    def test_an_artifact_holds_the_texts_of_a_file(self, weights: Path, tmp_path: Path):
        file = tmp_path / "templates.txt"
        file.write_text("a drawing of a {}\n\n")
        words = ["backbone=open_clip:compat-clip", f"backbone.weights={weights}", "head=zeroshot", "prompt=none"]
        config = load_config(overrides=[*words, f"head.templates={file}"])
        model = build_model(config, backbone_for(config), ["a", "b"])
        artifact = save_artifact(tmp_path / "a.safetensors", model, config, ["a", "b"])
        file.unlink()
        assert read_artifact(artifact).config.head.templates == ["a drawing of a {}"]
        found = vpt.load(artifact, "cpu").model.head.templates
        assert found == ("a drawing of a {}",)

    @pytest.mark.parametrize("content", [b"no place\n", b"\xff\xfe{}", b"", b"{}\x1b[2J\n", b"x" * 2000 + b"{}"])
    def test_bad_files_of_templates_are_one_sentence(self, content: bytes, tmp_path: Path):
        (tmp_path / "a.txt").write_bytes(content)
        assert str(tmp_path / "a.txt") in refused(lambda: read_templates(str(tmp_path / "a.txt")))

    def test_data_of_an_artifact_alone_are_given_by_the_user(self, tmp_path: Path):
        alone = shutil.copy(hostile.ARTIFACTS / "small-deep-drop.safetensors", tmp_path / "artifact.safetensors")
        assert "specify the data: data=PATH" in refused(lambda: vpt.evaluate(alone, "val"))
        named = hostile.changed("nano-deep", tmp_path / "b.safetensors", data__test=str(tmp_path))
        assert "specify the data: data=PATH" in refused(lambda: vpt.evaluate(named, "val"))


class TestOverwriting:
    def test_a_file_that_is_cut_meanwhile_does_not_end_the_process(self, tmp_path: Path):
        """Mapped into memory, the first look at a page that is gone would be a SIGBUS."""
        code = (
            "import os, sys, torch\n"
            "from vpt.utils.tensor_io import open_tensors, read_tensors, write_tensors\n"
            "from vpt.utils.errors import UserError\n"
            "path = sys.argv[1]\n"
            "write_tensors(path, {'a': torch.ones(3_000_000), 'b': torch.ones(3_000_000)}, {})\n"
            "tensors, _ = read_tensors(path)\n"
            "with open_tensors(path) as file:\n"
            "    os.truncate(path, 5_000_000)\n"
            "    try: file.tensors()\n"
            "    except UserError as error: print(error)\n"
            "os.truncate(path, 0)\n"
            "print(float(sum(value.sum() for value in tensors.values())))\n"
        )
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "is damaged" in done.stdout
        assert "6000000.0" in done.stdout


class TestTraining:
    def test_classes_that_an_artifact_cannot_hold_are_refused_before_training(self, tmp_path: Path):
        for number in range(4):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
        rows = [f"{number}.png,{'long' * 300 if number % 2 else 'plain'}" for number in range(4)]
        (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]))
        config = load_config(overrides=[f"data={tmp_path / 'table.csv'}", f"out={tmp_path / 'runs'}"])
        assert "rename the class" in refused(lambda: vpt.train(config, Console(quiet=True)))
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize("name", [b"a\x1b[2Jb", b"line\nbreak"])
    def test_class_folders_have_names_that_an_artifact_can_hold(self, name: bytes, tmp_path: Path):
        for folder in (b"plain", name):
            place = os.path.join(os.fsencode(tmp_path / "images"), folder)
            os.makedirs(place)
            for number in range(4):
                with open(os.path.join(place, b"%d.png" % number), "wb") as file:
                    Image.new("RGB", (8, 8), (number, 0, 0)).save(file, "PNG")
        config = load_config(overrides=[f"data={tmp_path / 'images'}"])
        refuse_unstorable(config, load_data(config.data).classes)

    def test_every_setting_is_bounded(self):
        """A header is read by the same models; a number or a list without an end would be a stranger's to choose."""

        def loose(schema: dict, at: str) -> Iterator[str]:
            kind = schema.get("type")
            if kind in ("integer", "number") and not {"enum", "const"} & set(schema):
                ends = [{"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}]
                yield from [at for end in ends if not end & set(schema)]
            if kind == "string" and not {"maxLength", "enum", "const", "format", "pattern"} & set(schema):
                yield at
            if kind == "array" and "maxItems" not in schema:
                yield at
            if kind == "object" and "properties" not in schema and "maxProperties" not in schema:
                yield at
            for key in ("anyOf", "oneOf", "prefixItems"):
                for number, part in enumerate(schema.get(key, ())):
                    yield from loose(part, f"{at}|{number}")
            for key in ("items", "additionalProperties"):
                if isinstance(schema.get(key), dict):
                    yield from loose(schema[key], f"{at}[]")
            for key, part in schema.get("properties", {}).items():
                yield from loose(part, f"{at}.{key}")

        found = []
        for model in (RunConfig, ArtifactHeader, PromptHeader, CheckpointHeader):
            schema = model.model_json_schema()
            for name, part in {model.__name__: schema, **schema.get("$defs", {})}.items():
                found += list(loose(part, name))
        free = {"CheckpointHeader.identity", "IdentityHeader.settings"}  # compared, never obeyed
        measured = {place for place in found if ".metrics" in place or ".history" in place or "best_score" in place}
        measured |= {place for place in found if place.startswith("ProgressHeader.probe")}
        assert not set(found) - free - measured
