"""The benchmarks on stand-ins of their folders: readers, checks, runs that are killed and go on, tables, and the form
of the published numbers."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from tests.helpers.benchmark_folders import CLASSES, dassl_set, fgvc_set, imagenet, imagenet_r, resisc, vtab_task
from tests.helpers.clip_models import register_tiny
from tests.helpers.paths import ROOT
from tests.helpers.runs import NET, QUIET
from vpt.cli.main import main
from vpt.config import DataConfig, load_config
from vpt.data.datasets import vtab
from vpt.data.datasets.registry import load_data
from vpt.experiments.benchmarks.averages import ALL, GROUPS, Mean, means
from vpt.experiments.benchmarks.check_data import check
from vpt.experiments.benchmarks.published import Published, published
from vpt.experiments.benchmarks.run import Bench, run, settings_of
from vpt.experiments.benchmarks.suites import SUITES, suite_of
from vpt.experiments.benchmarks.table import _published_mean, as_markdown, build, collect
from vpt.experiments.protocols import harmonic
from vpt.experiments.sweep.search_space import SpaceFile, read_space
from vpt.training.trainer import Trainer
from vpt.utils.errors import UserError

QUICK = [*NET, "train.epochs=2", "train.batch_size=8", "prompt.tokens=2", "data.workers=0"]
pytestmark = pytest.mark.usefixtures("small_net")


class TestData:
    def test_vtab_splits_and_classes(self, tmp_path: Path):
        vtab_task(tmp_path, "dtd")
        data = load_data(DataConfig(path="vtab:dtd", root=str(tmp_path)))
        assert data.classes == tuple(str(label) for label in range(47))  # not all of them are shown
        assert [len(part) for part in (data.train, data.val, data.test)] == [16, 8, 12]
        assert data.train[-1].labels == (3,)
        joined = load_data(DataConfig(path="vtab:dtd", root=str(tmp_path), join_val=True, hold_test=True))
        assert [len(part) for part in (joined.train, joined.val, joined.test)] == [24, 0, 0]

    def test_vtab_without_the_lists_for_choosing(self, tmp_path: Path):
        folder = vtab_task(tmp_path, "dtd")
        for name in (vtab.TRAIN, vtab.VAL):
            (folder / name).unlink()
        data = load_data(DataConfig(path="vtab:dtd", root=str(tmp_path / "vtab-1k"), val_fraction=0.2))
        assert [len(data.train), len(data.val)] == [20, 4]
        assert any("has no train800.txt" in note for note in data.notes)

    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("images/a.jpg", "line 1: 'images/a.jpg' is not of the form IMAGE LABEL"),
            ("images/a.jpg one", "not of the form"),
            ("images/a.jpg 47", "label 47, but there are 47 classes"),
            ("../a.jpg 1", "is not inside"),
        ],
    )
    def test_damaged_lists_are_one_sentence(self, tmp_path: Path, line: str, sentence: str):
        folder = vtab_task(tmp_path, "dtd")
        (folder / vtab.VAL).write_text(line)
        with pytest.raises(UserError, match=sentence):
            load_data(DataConfig(path="vtab:dtd", root=str(tmp_path)))

    def test_a_list_of_1000_alone_is_split_into_800_and_200(self, tmp_path: Path):
        """Not class by class: few images of many classes would all but end in validation."""
        folder = vtab_task(tmp_path, "sun397")
        (folder / vtab.TRAIN).unlink()
        (folder / vtab.VAL).unlink()
        for number in range(1000):
            (folder / "images" / f"{number}.jpg").touch()
        (folder / vtab.JOINED).write_text("".join(f"images/{number}.jpg {number % 397}\n" for number in range(1000)))
        for joined, sizes in ((False, [800, 200]), (True, [1000, 0])):
            data = load_data(DataConfig(path="vtab:sun397", root=str(tmp_path), join_val=joined))
            assert [len(data.train), len(data.val)] == sizes
        assert any("a random fifth of train800val200.txt" in note for note in data.notes)

    def test_a_folder_of_the_same_name_is_another_data_set(self, tmp_path: Path):
        dassl_set(tmp_path, "dtd")
        assert SUITES["vtab"].tasks["dtd"].lies_in(tmp_path) is None
        with pytest.raises(UserError, match=r"vtab:dtd should be in .*vtab-1k/dtd"):
            load_data(DataConfig(path="vtab:dtd", root=str(tmp_path)))
        vtab_task(tmp_path, "kitti").rename(tmp_path / "kitti")
        assert SUITES["vtab"].tasks["kitti"].lies_in(tmp_path) == tmp_path / "kitti"
        assert load_data(DataConfig(path="vtab:kitti", root=str(tmp_path))).test

    @pytest.mark.parametrize("name", ["cub", "nabirds", "flowers", "dogs", "cars"])
    def test_fgvc(self, tmp_path: Path, name: str):
        folder = fgvc_set(tmp_path, name)
        data = load_data(DataConfig(path=f"fgvc:{name}", root=str(tmp_path)))
        assert data.classes == ("1", "2", "3", "4")
        assert [len(part) for part in (data.train, data.val, data.test)] == [16, 8, 12]
        assert {record.labels for record in data.test} == {(0,), (1,), (2,), (3,)}
        (folder / "val.json").write_text('{"a.jpg": "x"}')
        with pytest.raises(UserError, match="is x, not a whole number"):
            load_data(DataConfig(path=f"fgvc:{name}", root=str(tmp_path)))

    def test_what_is_missing_is_named(self, tmp_path: Path):
        with pytest.raises(UserError, match=r"vtab:dtd should be in .*vtab-1k/dtd, which does not exist"):
            load_data(DataConfig(path="vtab:dtd", root=str(tmp_path)))
        fgvc_set(tmp_path, "cub").joinpath("test.json").unlink()
        with pytest.raises(UserError, match=r"no .*test\.json; it is among the split files that the README"):
            load_data(DataConfig(path="fgvc:cub", root=str(tmp_path)))


def test_normalisation_can_be_fixed():
    from vpt.backbones.factory import load_backbone

    def of(word: str) -> tuple[float, float]:
        pre = load_backbone(load_config(overrides=[*NET, f"backbone.normalise={word}"]).backbone).preprocess
        return pre.mean[0], pre.std[0]

    assert [of(word) for word in ("own", "imagenet", "none")] == [(0.5, 0.5), (0.485, 0.229), (0.0, 1.0)]


class TestSuites:
    def test_counts(self):
        assert {name: len(suite.tasks) for name, suite in SUITES.items()} == {
            "vtab": 19,
            "fgvc": 5,
            "few-shot": 11,
            "base-to-new": 11,
            "transfer": 15,
            "pixels": 12,
        }
        for name, sizes in {"vtab": [7, 4, 8], "transfer": [10, 4]}.items():
            groups = [task.group for task in SUITES[name].tasks.values()]
            assert [groups.count(group) for group in SUITES[name].groups] == sizes

    def test_mistakes(self):
        with pytest.raises(UserError, match="there is no benchmark 'vtap'; did you mean 'vtab'"):
            suite_of("vtap")
        with pytest.raises(UserError, match="vtab has no task 'svnh'; did you mean 'svhn'"):
            suite_of("vtab").pick(["svnh"])
        with pytest.raises(UserError, match=r"leave out data\.path=photos"):
            settings_of(suite_of("vtab"), words=["data=photos"])

    def test_check_names_what_differs(self, tmp_path: Path):
        vtab_task(tmp_path, "dtd")
        (vtab_task(tmp_path, "svhn") / vtab.JOINED).write_text("images/train800/000000.jpg 9\n")
        (vtab_task(tmp_path, "kitti") / vtab.TEST).write_text("nonsense\n")
        found = {report.task: report for report in check(SUITES["vtab"], tmp_path)}
        assert found["cifar"].missing
        assert "16 train images, published are 800" in found["dtd"].odd
        assert "12 test images, published are 1880" in found["dtd"].odd
        assert f"{47 - CLASSES} of 47 classes have no image" in found["dtd"].odd
        assert not [line for line in found["dtd"].odd if "cannot be found" in line]
        image = next((tmp_path / "vtab-1k" / "dtd" / "images").rglob("*.jpg"))
        image.unlink()
        [again] = [report for report in check(SUITES["vtab"], tmp_path) if report.task == "dtd"]
        assert f"1 image cannot be found: {image.relative_to(tmp_path / 'vtab-1k' / 'dtd').as_posix()}" in again.odd
        assert found["svhn"].odd[-1] == "train800val200.txt has other labels than train800.txt and val200.txt together"
        assert "test.txt, line 1" in (found["kitti"].broken or "")
        assert not any(report.good for report in found.values())
        dassl_set(tmp_path, "eurosat")
        found = {report.task: report for report in check(SUITES["few-shot"], tmp_path)}
        assert "12 test images, published are 8100" in found["eurosat"].odd

    def test_every_task_knows_how_large_it_is(self):
        for suite in SUITES.values():
            assert all(task.classes and task.images for task in suite.tasks.values())

    def test_a_root_may_have_any_name(self, tmp_path: Path):
        root = tmp_path / "data: all #1"
        vtab_task(root, "dtd")
        found = {report.task: report for report in check(SUITES["vtab"], root)}
        assert not found["dtd"].missing
        assert found["dtd"].broken is None


class TestMeans:
    def test_of_whole_sets(self):
        suite = SUITES["vtab"]
        values = {name: float(number) for number, name in enumerate(suite.tasks)}
        found = {mean.key: mean for mean in means(suite, values)}
        groups = [statistics.mean(range(7)), statistics.mean(range(7, 11)), statistics.mean(range(11, 19))]
        assert [found[group].value for group in suite.groups] == groups
        assert found[GROUPS].value == pytest.approx(sum(groups) / 3)
        assert found[ALL].value == 9
        assert found[GROUPS].title == "mean of the 3 group means"
        assert found[ALL].title == "mean of 19 tasks"

    def test_one_task_less_changes_the_name(self):
        suite = SUITES["vtab"]
        found = {mean.key: mean for mean in means(suite, {name: 1.0 for name in suite.tasks if name != "kitti"})}
        assert GROUPS not in found
        assert found["structured"].title == "structured, mean of 7 of 8"
        assert found[ALL].title == "mean of 18 of 19 tasks"
        assert not found[ALL].complete
        assert found["natural"].complete


def measures_of(entry: Published) -> list[str]:
    """What stated means can be compared in; the mean of harmonic means is not the harmonic mean of means."""
    several = [number for number in entry.tasks.values() if isinstance(number, dict)]
    return sorted({measure for number in several for measure in number} - {"harmonic mean"}) or ["accuracy"]


class TestPublished:
    tree = json.loads((ROOT / "vpt" / "experiments" / "benchmarks" / "published.json").read_text())

    def test_every_number_has_a_source_and_the_text_it_was_read_in(self):
        for entry in self.tree["results"]:
            source = self.tree["sources"][entry["source"]]
            assert {"title", "authors", "year", "venue", "url"} == set(source)
            assert source["url"].startswith("https://")
            assert entry["checked"]
            assert all(entry["checked"])
            assert entry["table"]
            assert entry["backbone"]
            assert entry["pixels"] in ("imagenet", "own", "none", None)
            assert entry.get("tasks") or entry.get("means")
        assert {entry["source"] for entry in self.tree["results"]} == set(self.tree["sources"])

    @pytest.mark.parametrize("suite", SUITES)
    def test_tasks_and_means_are_the_suites(self, suite: str):
        for entry in published(suite):
            told = any(part in (entry.note or "") for part in ("without ImageNet", "shifts only"))
            assert set(entry.tasks) in (set(), set(SUITES[suite].tasks)) or told, entry.method
            assert set(entry.tasks) <= set(SUITES[suite].tasks), entry.method
            assert set(entry.means) <= {*SUITES[suite].groups, GROUPS, ALL}, entry.method
            numbers = [number for part in (entry.tasks, entry.means) for number in part.values()]
            flat = [
                value for number in numbers for value in (number.values() if isinstance(number, dict) else [number])
            ]
            assert all(0 < value < 100 for value in flat)

    def test_stated_means_are_those_of_their_tasks(self):
        """Within the rounding of tasks to one digit and of means to two, or of both to two."""
        compared = 0
        for suite in SUITES.values():
            for entry in published(suite.name):
                if not entry.tasks:
                    continue
                near = 0.0101 if suite.protocol in ("base-to-new", "transfer") else 0.056
                for measure in measures_of(entry):
                    numbers = {task: entry.number(task, measure) for task in entry.tasks}
                    for mean in means(suite, {task: number for task, number in numbers.items() if number is not None}):
                        stated = entry.number(mean.key, measure, mean=True)
                        if stated is not None:
                            assert stated == pytest.approx(mean.value, abs=near), (entry.method, mean.title, measure)
                            compared += 1
        assert compared > 40

    def test_a_mean_that_is_not_stated_is_that_of_the_tasks(self):
        suite = SUITES["vtab"]
        lora = next(entry for entry in published("vtab") if entry.method == "LoRA")
        of_all = Mean(GROUPS, "", 0.0, tuple(suite.tasks), True)
        groups = [
            statistics.mean(number for task, number in lora.tasks.items() if suite.tasks[task].group == group)
            for group in suite.groups
        ]
        assert _published_mean(lora, of_all, "accuracy", suite) == pytest.approx(statistics.mean(groups))

    def test_harmonic_means_are_harmonic(self):
        parts = ("base", "new", "harmonic mean")
        for entry in published("base-to-new"):
            for place, mean in [(ALL, True), *((task, False) for task in entry.tasks)]:
                base, new, both = (entry.number(place, part, mean=mean) for part in parts)
                assert base is not None
                assert new is not None
                if both is not None:  # some state the mean of harmonic means instead, which is another number
                    assert both == pytest.approx(harmonic(base, new), abs=0.0111), (entry.method, place)

    @pytest.mark.parametrize("suite", ["few-shot", "base-to-new", "transfer"])
    def test_each_task_of_a_protocol_has_a_published_number(self, suite: str):
        for task in SUITES[suite].tasks:
            known = [entry for entry in published(suite) if task in entry.tasks]
            assert len({entry.method for entry in known}) > 3, task

    def test_settings_that_are_a_published_method(self):
        deep = load_config(overrides=["prompt=deep"])
        names = {entry.method for entry in published("vtab") if entry.is_method_of(deep)}
        assert names == {"VPT-deep", "VPT-deep, tuned by the authors of PRO-VPT"}
        vipamin = ["prompt.init=vipamin", "prompt.tokens=100"]
        for kind, methods in {"shallow": {"VIPAMIN"}, "deep": set()}.items():
            config = load_config(overrides=[f"prompt={kind}", *vipamin])
            assert {entry.method for entry in published("vtab") if entry.is_method_of(config)} == methods
        for kind, method in {
            "vfpt": "VFPT",
            "e2vpt": "E2VPT",
            "gated": "GateVPT",
            "cvpt": "CVPT",
            "vapt": "VAPT",
            "davpt": "DA-VPT",
            "provpt": "PRO-VPT",
            "ship": "SHIP",
            "sa2vp": "SA2VP",
            "adapter": "AdaptFormer",
        }.items():
            config = load_config(overrides=[f"prompt={kind}"])
            assert {entry.method for entry in published("vtab") if entry.is_method_of(config)} == {method}
        bias = load_config(overrides=["prompt=none", "tuning=bias"])
        assert {entry.method for entry in published("fgvc") if entry.is_method_of(bias)} == {"Bias", "BitFit"}
        for other in ("head=mlp", "prompt.shared=true", "prompt.project=8", "tuning=bias"):
            config = load_config(overrides=["prompt=deep", other])
            assert not any(entry.is_method_of(config) for entry in published("vtab")), other

    @pytest.mark.parametrize(
        ("recipe", "suite", "methods"),
        [
            ("bench/vtab-linear", "vtab", {"Linear"}),
            ("bench/vtab-vpt-shallow", "vtab", {"VPT-shallow"}),
            ("bench/vtab-vpt-deep", "vtab", {"VPT-deep", "VPT-deep, tuned by the authors of PRO-VPT"}),
            ("bench/vtab-vpt-deep-mae", "vtab", {"VPT-deep"}),
            ("bench/vtab-vfpt", "vtab", {"VFPT"}),
            ("bench/vtab-e2vpt", "vtab", {"E2VPT"}),
            ("bench/vtab-vapt", "vtab", {"VAPT"}),
            ("bench/vtab-cvpt", "vtab", {"CVPT"}),
            ("bench/vtab-pro-vpt", "vtab", {"PRO-VPT"}),
            ("bench/vtab-adaptformer", "vtab", {"AdaptFormer"}),
            ("bench/vtab-sa2vp", "vtab", {"SA2VP"}),
            ("bench/fgvc-pae", "fgvc", {"VPT-deep with PAE"}),
            ("bench/fgvc-da-vpt", "fgvc", {"DA-VPT"}),
            ("bench/vtab-vipamin-mae", "vtab", {"VIPAMIN"}),
            ("bench/fgvc-vpt-deep", "fgvc", {"VPT-deep"}),
            ("bench/fgvc-gated-mae", "fgvc", {"GateVPT"}),
            ("bench/fgvc-bpt-mae", "fgvc", {"BPT-shallow"}),
            ("bench/fgvc-spt-mae", "fgvc", {"SPT-deep"}),
            ("clip/coop", "few-shot", {"CoOp"}),
            ("clip/coop", "base-to-new", {"CoOp"}),
            ("clip/cocoop", "base-to-new", {"CoCoOp"}),
            ("clip/kgcoop", "base-to-new", {"KgCoOp"}),
            ("clip/maple", "transfer", {"MaPLe"}),
            ("clip/promptsrc", "base-to-new", {"PromptSRC"}),
            ("clip/ivlp", "base-to-new", {"IVLP, 5 epochs", "IVLP, 20 epochs"}),
            ("clip/vpt", "base-to-new", {"Deep vision prompting"}),
            ("clip/tip", "few-shot", {"Tip-Adapter-F"}),
        ],
    )
    def test_a_recipe_stands_beside_its_own_number_alone(self, recipe: str, suite: str, methods: set[str]):
        half = ["data.half=base"] if suite == "base-to-new" else []
        config = settings_of(SUITES[suite], str(ROOT / "configs" / f"{recipe}.yaml"), half)
        beside = [entry for entry in published(suite) if entry.is_method_of(config) and not entry.other_than(config)]
        assert {entry.method for entry in beside} == methods
        assert len({entry.backbone for entry in beside}) == 1

    @pytest.mark.parametrize(
        ("word", "said"),
        [
            ("backbone=vit_base_patch16_224.mae", "backbone vit_base_patch16_224.mae"),
            ("backbone=vit_base_patch16_224", "backbone vit_base_patch16_224"),
            ("backbone.pretrained=false", "backbone vit_base_patch16_224.orig_in21k, random weights"),
            ("backbone.image_size=112", "backbone vit_base_patch16_224.orig_in21k at 112 pixels"),
            (
                "backbone.weights=linear-vit-b-300ep.pth.tar",
                "backbone vit_base_patch16_224.orig_in21k with linear-vit-b-300ep.pth.tar",
            ),
            ("backbone.normalise=own", "the backbone's own mean and std"),
            ("head.pool=mean_then_norm", "head.pool=mean_then_norm"),
            ("prompt.layers=last:4", "layers last:4 prompts"),
            ("prompt.layers=[0]", "shallow prompts"),
            ("prompt.tokens=7", "7 tokens"),
        ],
    )
    def test_what_is_another_backbone_pooling_depth_tokens_or_pixels(self, word: str, said: str):
        recipe = str(ROOT / "configs" / "bench" / "vtab-vpt-deep.yaml")
        config = settings_of(SUITES["vtab"], recipe, [word])
        entry = next(entry for entry in published("vtab") if entry.method == "VPT-deep")
        assert entry.is_method_of(config)
        assert entry.other_than(config) == [said]

    def test_weights_files_are_known_by_their_names(self):
        words = ["backbone=vit_base_patch16_224", "backbone.normalise=imagenet", "prompt=deep"]
        config = load_config(overrides=[*words, "backbone.weights=models/linear-vit-b-300ep.pth.tar"])
        beside = [entry for entry in published("vtab") if entry.is_method_of(config) and not entry.other_than(config)]
        assert [(entry.method, entry.backbone) for entry in beside] == [
            ("VPT-deep", "ViT-B/16, MoCo v3 on ImageNet-1k")
        ]
        held = [*words, "backbone=vit_base_patch16_224.mae", "backbone.weights=mine.safetensors"]
        config = load_config(overrides=[*held, "head.pool=mean_then_norm"])
        beside = [entry for entry in published("vtab") if entry.is_method_of(config) and not entry.other_than(config)]
        assert [entry.backbone for entry in beside] == ["ViT-B/16, MAE on ImageNet-1k"]

    def test_methods_that_were_asked_for(self):
        means = {(one.method, one.backbone.split(", ")[1][:3]): one.means for one in published("vtab")}
        assert means["PRO-VPT", "sup"]["group means"] == 78.0
        assert means["VPT-deep, tuned by the authors of PRO-VPT", "sup"]["group means"] == 76.4
        assert means["DA-VPT+", "MAE"]["group means"] == 69.61
        assert means["SA2VP", "sup"]["group means"] == 75.83
        assert means["VPT-deep with PAE", "sup"]["group means"] == 74.84
        assert means["SPT-shallow", "MoC"]["all tasks"] == 68.33
        fine = {(one.method, one.backbone.split(", ")[1][:3]): one.means["all tasks"] for one in published("fgvc")}
        assert (fine["BPT-deep", "MAE"], fine["SPT-deep", "MAE"], fine["PRO-VPT", "sup"]) == (84.6, 83.26, 91.7)

    def test_group_means_are_those_of_the_groups(self):
        compared = 0
        for entry in published("vtab"):
            parts = [entry.number(group, "accuracy", mean=True) for group in SUITES["vtab"].groups]
            stated = entry.number(GROUPS, "accuracy", mean=True)
            if stated is not None and None not in parts:
                assert stated == pytest.approx(statistics.mean(parts), abs=0.051), entry.method
                compared += 1
        assert compared > 10

    def test_means_of_all_tasks_are_those_of_the_groups(self):
        sizes = [sum(task.group == group for task in SUITES["vtab"].tasks.values()) for group in SUITES["vtab"].groups]
        for entry in published("vtab"):
            parts = [entry.number(group, "accuracy", mean=True) for group in SUITES["vtab"].groups]
            stated = entry.number(ALL, "accuracy", mean=True)
            if stated is not None and None not in parts:
                mean = sum(size * part for size, part in zip(sizes, parts, strict=True)) / sum(sizes)
                assert stated == pytest.approx(mean, abs=0.0101), entry.method


@pytest.fixture
def as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small nets pass for the published ones."""
    monkeypatch.setattr(Published, "other_than", lambda *_: [])


class TestRuns:
    def bench(self, suite: str, root: Path, out: Path, *words: str, **more) -> Bench:
        known = SUITES[suite]
        space = more.get("space")
        settings = settings_of(known, None, [*QUICK, f"out={out}", "name=mine", *words], space)
        return Bench(
            known, root, settings, more.get("tasks") or list(known.tasks.values()), more.get("seeds", (0,)), space
        )

    @pytest.mark.usefixtures("as_published")
    def test_vtab_is_searched_on_validation_and_goes_on_after_a_kill(self, tmp_path: Path, monkeypatch):
        class Killed(BaseException):
            pass

        for name in ("dtd", "kitti"):
            vtab_task(tmp_path, name)
        axes = read_space(["train.optimizer.lr=1e-6,0.02"])
        smooth = ("train.label_smoothing=0.1",)
        space = SpaceFile(axes, ("train.optimizer.kind=adamw",), True, final=smooth)
        whole = run(self.bench("vtab", tmp_path, tmp_path / "whole", space=space), QUIET)
        plan = self.bench("vtab", tmp_path, tmp_path / "cut", space=space)
        usual, steps = Trainer.train_step, []

        def fatal(*args):
            steps.append(1)
            if len(steps) in (3, 12):  # in the search, in a final run
                raise Killed
            return usual(*args)

        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "train_step", fatal)
            for _ in range(2):
                with pytest.raises(Killed):
                    run(plan, QUIET)
        folder = run(plan, QUIET)
        trial = json.loads(next((folder / "dtd" / "search" / "trials").glob("*/metrics.json")).read_text())
        assert "val" in trial
        assert "test" not in trial
        final = json.loads((folder / "dtd" / "seed0" / "metrics.json").read_text())
        assert "val" not in final
        assert "24 training" in final["data"]  # a space's own `final` leaves the suite's as it is
        assert "label_smoothing: 0.1" in (folder / "dtd" / "seed0" / "config.yaml").read_text()
        mine, other = collect(folder).scores, collect(whole).scores
        assert mine == other
        assert mine["accuracy"]["dtd"].seeds == 1
        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "train_step", lambda *_: pytest.fail("trained again"))
            run(plan, QUIET)
        with pytest.raises(UserError, match=r"started with other settings \(prompt\.tokens\)"):
            run(self.bench("vtab", tmp_path, tmp_path / "cut", "prompt.tokens=3", space=space), QUIET)

        text = as_markdown(build([folder]))
        assert "| dtd | " in text
        assert "natural, mean of 1 of 7" in text
        assert "mean of 2 of 19 tasks" in text
        assert "mean of 19 tasks" not in text
        assert "VPT-deep [1]" in text
        assert "ImageNet mean and std" in text
        row = next(row for row in build([folder])["rows"] if row["name"] == "mean of 2 of 19 tasks")
        assert row["published"][0] == pytest.approx((65.8 + 72.8) / 2)  # of the same two tasks

    @pytest.mark.usefixtures("as_published")
    def test_fgvc_keeps_validation_apart(self, tmp_path: Path):
        fgvc_set(tmp_path, "cub")
        folder = run(self.bench("fgvc", tmp_path, tmp_path / "out"), QUIET)
        final = json.loads((folder / "cub" / "seed0" / "metrics.json").read_text())
        assert {"val", "test"} <= set(final)
        table = build([folder])
        assert {entry["method"] for entry in table["published"]} == {"VPT-deep"}
        assert "mean of 1 of 5 tasks" in as_markdown(table)
        everything = {entry["method"] for entry in build([folder], everything=True)["published"]}
        assert {"Full", "Linear", "VPT-deep"} < everything

    def test_pixels(self, tmp_path: Path):
        dassl_set(tmp_path, "dtd")
        resisc(tmp_path)
        folder = run(self.bench("pixels", tmp_path, tmp_path / "out", "prompt=pixel", "prompt.size=4"), QUIET)
        assert set(collect(folder).scores["accuracy"]) == {"dtd", "resisc45"}
        assert "no published number" in as_markdown(build([folder]))

    def test_numbers_of_other_settings_are_named_and_left_out(self, tmp_path: Path):
        vtab_task(tmp_path, "dtd")
        folder = run(self.bench("vtab", tmp_path, tmp_path / "out"), QUIET)
        table = build([folder])
        assert table["published"] == []
        assert {one["method"] for one in table["not_beside"]} == {
            "VPT-deep",
            "VPT-deep, tuned by the authors of PRO-VPT",
        }
        text = as_markdown(table)
        start = "- not compared: VPT-deep on ViT-B/16, supervised on ImageNet-21k; here: backbone test_vit_patch8_32, "
        assert f"{start}random weights, 2 tokens\n" in text
        assert "--all shows those there are" in text
        assert "deep, 2 tokens; pooling native" in text
        everything = build([folder], everything=True)
        assert len(everything["published"]) == len(published("vtab"))
        assert everything["not_beside"] == []

    @pytest.fixture
    def clip(self, tmp_path: Path) -> list[str]:
        words = [
            f"backbone={register_tiny(tmp_path, 'tiny-bench', layers=1)}",
            "head=zeroshot",
            "prompt=coop",
            "prompt.tokens=2",
            "data.augment=none",
        ]
        return [*words, "train.epochs=1"]

    @pytest.mark.usefixtures("as_published")
    def test_base_to_new(self, tmp_path: Path, clip: list[str], monkeypatch):
        dassl_set(tmp_path, "dtd")
        dassl_set(tmp_path, "eurosat")
        plan = self.bench("base-to-new", tmp_path, tmp_path / "out", *clip, seeds=(1, 2))
        folder = run(plan, QUIET)
        monkeypatch.setattr(Trainer, "train_step", lambda *_: pytest.fail("trained again"))
        run(plan, QUIET)
        table = build([folder])
        assert [entry["method"] for entry in table["published"]] == ["CoOp"]
        rows = {(row["name"], row["measure"]): row for row in table["rows"]}
        base, new, both = (
            rows["mean of 2 of 11 tasks", part]["ours"][0]["mean"] for part in ("base", "new", "harmonic mean")
        )
        assert both == pytest.approx(2 * base * new / (base + new) if base + new else 0)
        assert rows["dtd", "new"]["published"] == [41.18]
        assert rows["mean of 2 of 11 tasks", "base"]["published"] == [pytest.approx((79.44 + 92.19) / 2)]

    @pytest.mark.usefixtures("as_published")
    def test_transfer(self, tmp_path: Path, clip: list[str], monkeypatch):
        imagenet(tmp_path)
        with pytest.raises(UserError, match="besides imagenet none of these tasks was found below"):
            run(self.bench("transfer", tmp_path, tmp_path / "out", *clip), QUIET)
        dassl_set(tmp_path, "dtd")
        imagenet_r(tmp_path)
        plan = self.bench("transfer", tmp_path, tmp_path / "out", *clip, seeds=(1, 2))
        folder = run(plan, QUIET)
        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "train_step", lambda *_: pytest.fail("trained again"))
            run(plan, QUIET)
            dassl_set(tmp_path, "eurosat")  # what comes later is tested with the models that are there
            run(plan, QUIET)
        scores = collect(folder).scores["accuracy"]
        assert list(scores) == ["imagenet", "dtd", "eurosat", "imagenet_r"]
        assert {score.seeds for score in scores.values()} == {2}
        table = build([folder])
        assert [entry["method"] for entry in table["published"]] == ["CoOp"]
        rows = {row["name"]: row for row in table["rows"]}
        assert rows["eurosat"]["published"] == [46.39]
        means = [row["name"] for row in table["rows"] if row["mean"]]
        assert means == ["other data sets, mean of 2 of 10", "shifts, mean of 1 of 4"]
        assert [task.name for task in SUITES["transfer"].pick(["dtd"])] == ["imagenet", "dtd"]
        (tmp_path / "imagenet").rename(tmp_path / "away")
        with pytest.raises(UserError, match="trains on imagenet, which was not found below"):
            run(plan, QUIET)

    @pytest.mark.usefixtures("as_published")
    def test_few_shot(self, tmp_path: Path, clip: list[str]):
        dassl_set(tmp_path, "dtd")
        known = SUITES["few-shot"]
        config = settings_of(known, None, [*QUICK, *clip, f"out={tmp_path / 'out'}"])
        folder = run(Bench(known, tmp_path, config, list(known.tasks.values()), (1,), None, (1, 2)), QUIET)
        assert folder.name == "few-shot-coop"
        assert list(collect(folder).scores) == ["1 shot", "2 shots"]
        assert {entry["method"] for entry in build([folder])["published"]} == {"CoOp"}

    def test_a_task_that_fails_does_not_stop_the_others(self, tmp_path: Path):
        (vtab_task(tmp_path, "dtd") / "images" / "test" / "000000.jpg").write_text("not a picture")
        vtab_task(tmp_path, "kitti")
        with pytest.raises(UserError, match="failed: dtd"):
            run(self.bench("vtab", tmp_path, tmp_path / "out"), QUIET)
        assert set(collect(tmp_path / "out" / "mine").scores["accuracy"]) == {"kitti"}

    def test_nothing_starts_with_a_broken_list_or_without_data(self, tmp_path: Path):
        with pytest.raises(UserError, match="none of these tasks was found below"):
            run(self.bench("vtab", tmp_path, tmp_path / "out"), QUIET)
        (vtab_task(tmp_path, "dtd") / vtab.TEST).write_text("nonsense")
        with pytest.raises(UserError, match=r"cannot be read; fix them.*\ndtd: "):
            run(self.bench("vtab", tmp_path, tmp_path / "out"), QUIET)
        assert not (tmp_path / "out").exists()


class TestCommands:
    def test_list_check_run_table(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        vtab_task(tmp_path, "dtd")
        assert main(["bench", "list", "--root", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert f"vtab: VTAB-1k (Zhai et al. 2019); 19 tasks, 1 found in {tmp_path}" in out
        assert "missing: cifar, caltech101, oxford_flowers102" in out
        assert main(["bench", "check", "vtab", "--root", str(tmp_path)]) == 2
        out = capsys.readouterr().out
        assert "cifar: missing" in out
        assert "  12 test images, published are 1880" in out
        assert "0 of 19 tasks are complete as published" in out
        words = [f"out={tmp_path / 'out'}", "backbone=vpt_nano", "train.epochs=1", "prompt.tokens=2", "data.workers=0"]
        options = ["--tasks", "dtd", "kitti", "--seeds", "2"]
        assert main(["bench", "run", "vtab", "--root", str(tmp_path), *words[:2], *options, *words[2:]]) == 0
        out, err = capsys.readouterr()
        assert "| **mean of 1 of 19 tasks** |" in out
        assert "seeds: 2" in out
        assert f"skipped, not below {tmp_path}: kitti; available from" in out + err
        folder = tmp_path / "out" / "vtab-deep"
        assert (folder / "table.md").read_text() == out[out.index("# VTAB-1k") :]
        assert main(["bench", "table", str(folder), "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out) == json.loads((folder / "table.json").read_text())

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["run", "vtap"], "did you mean 'vtab'"),
            (["run", "vtab", "--root", "no/such"], "--root no/such: no such folder"),
            (["run", "vtab", "--tasks", "svnh", "--root", "."], "did you mean 'svhn'"),
            (["run", "vtab", "--seeds", "0", "--root", "."], "--seeds 0 must be at least 1"),
            (["run", "vtab", "--shots", "1", "--root", "."], "--shots applies only to few-shot"),
            (["run", "few-shot", "--space", "a.yaml", "--root", "."], "remove --space"),
            (["run", "vtab", "prompt.token=3", "--root", "."], "did you mean 'tokens'"),
            (["table", "no/such"], "is not a folder of vpt bench run"),
        ],
    )
    def test_mistakes_are_one_sentence(self, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]):
        assert main(["bench", *words]) == 2
        out, err = capsys.readouterr()
        assert sentence in err
        assert "Traceback" not in out + err
