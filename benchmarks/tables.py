"""Writes the tables of README.md and docs/ from benchmarks/results/*.json; no number in them is typed by hand.

python -m benchmarks.tables          # rewrite them
python -m benchmarks.tables --check  # exit 1 if one is out of date
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.accuracy.box_tables import small_boxes
from benchmarks.accuracy.compare_tables import compared
from benchmarks.accuracy.released import PEERS
from benchmarks.accuracy.suite_tables import duration, rules, shipped, starts, suite_short, suite_ti
from benchmarks.accuracy.suite_tables import search as search_suite
from benchmarks.accuracy.where_methods_work import where
from benchmarks.results_files import RESULTS, read, rows, words_of
from benchmarks.robustness import tables as robustness_tables
from benchmarks.speed import gpu_tables
from benchmarks.speed import tables as speed_tables
from benchmarks.speed.tables import forms, speed, speed_all, startup, vtab_sized
from vpt.config.describe import described
from vpt.utils.atomic_io import write_text

ROOT = Path(__file__).resolve().parent.parent
END = " †"
NOT_MEASURED = "Not measured yet."
SECTIONS = ("backbone", "prompt", "tuning", "head", "data", "train")  # of settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if options.check and before != after:
            raise SystemExit(f"{page.name} is out of date: python -m benchmarks.tables")
        if before != after:
            write_text(page, after)


def filled(text: str) -> str:
    """`text` with the content of every `<!-- table:NAME -->` ... `<!-- end -->` generated anew."""

    def table(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- table:{name} -->\n{TABLES[name]()}\n<!-- end -->"

    return re.sub(r"<!-- table:([\w-]+) -->\n.*?<!-- end -->", table, text, flags=re.S)


def parameters() -> str:
    body = [
        [f"`{row['setting']}`", row["backbone"], f"{row['learning']:,}", f"{4 * row['learning'] / 1e6:.2f} MB"]
        for row in read("parameters")["rows"]
    ]
    table = rows(["setting", "backbone", "trainable parameters", "as float32"], body)
    caption = "Other settings at their defaults, without the classifier head (`benchmarks/accuracy/parameters.py`)."
    return f"{table}\n\n{caption}"


def released() -> str:
    """Comparison with the authors' code: measured differences, and known ones."""
    found = read("released")
    body = []
    for method, peer in PEERS.items():
        figures = found.get(method, {})
        counts = figures.get("parameters")
        equal = "" if counts is None else "equal" if counts["ours"] == counts["theirs"] else f"{counts['ours']:,}"
        body.append(
            [
                method,
                f"[{peer.code.partition('/')[2]}](https://github.com/{peer.code})",
                _relative(figures.get("outputs")),
                _relative(figures.get("gradients")),
                equal,
                _within(figures.get("start")),
                ", ".join(f"`{recipe}`" for recipe in peer.recipe.split(", ") if recipe),
                peer.differs,
            ]
        )
    heads = ["method", "released code", "outputs", "gradients", "parameters", "initialisation", "recipe", "differences"]
    lines = rows(heads, body).splitlines()
    lines[1] = "| --- | --- | ---: | ---: | --- | --- | --- | --- |"
    return "\n".join(lines)


def _relative(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.0e}"


def _within(value: float | None) -> str:
    """Difference of the standard deviations of random initialisations, estimated from some thousand numbers."""
    return "" if value is None else "equal" if value == 0 else f"within {max(1, round(100 * value))} %"


def clothing() -> str:
    found = read("clothing")
    body = [
        [
            row["method"],
            f"{100 * row['test']['accuracy']:.1f}%",
            f"{100 * row['val']['accuracy']:.1f}%",
            f"{row['parameters']['learning']:,}",
            f"{row['artifact_bytes'] / 1e6:.2f} MB",
            str(row["epochs"]),
            f"{row['seconds'] / 60:.0f} min",
        ]
        for row in found["rows"]
    ]
    settings = "; ".join(
        [words_of(found["settings"]), *(f"{row['method']} {words_of(row['words'])}" for row in found["rows"])]
    )
    header = ["method", "test accuracy", "validation", "trainable parameters", "artifact", "epochs", "time"]
    return f"{rows(header, body)}\n\nSettings other than the defaults of that time: {settings}."


def search() -> str:
    found = read("clothing-search")
    body = [
        [
            row["question"],
            words_of(word.removeprefix("train.optimizer.") for word in row["setting"]),
            f"{100 * row['val']['accuracy']:.1f}%",
            f"{row['val']['loss']:.3f}",
        ]
        for row in found["rows"]
    ]
    settings = words_of(found["settings"])
    table = rows(["question", "setting", "validation accuracy", "validation loss"], body)
    return f"{table}\n\nSettings of all runs, unless the row says otherwise: {settings}."


def search_boxes() -> str:
    found = read("boxes-search")
    body = [
        [
            f"`{row['kind']}`",
            words_of(word.removeprefix("train.optimizer.") for word in row["setting"]),
            f"{100 * row['val']['map']:.1f}",
            f"{100 * row['val']['map50']:.1f}",
        ]
        for row in found["rows"]
    ]
    settings = words_of(found["settings"])
    table = rows(["method", "learning rates", "validation mAP", "mAP50"], body)
    return f"{table}\n\nOne seed. Settings of all runs: {settings}."


def settings(section: str) -> str:
    """All settings of a section; "" selects those outside any section."""
    found = [one for one in described(section) if section or one.key.partition(".")[0] not in SECTIONS]
    kinds = any(one.kinds for one in found)
    body = [
        [
            f"`{one.key}`",
            f"`{one.default}`".replace("|", "\\|"),
            one.meaning,
            *[", ".join(one.kinds)] * kinds,
        ]
        for one in found
    ]
    header = ["setting", "default", "meaning", *["kinds"] * kinds]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *body])


def quickstart() -> str:
    found = read("quickstart")
    body = [
        [
            row["question"],
            row["method"],
            f"{100 * row['accuracy']:.1f}%",
            f"{round((1 - row['accuracy']) * row['images'])} of {row['images']}",
            f"{row['learning']:,}",
            f"{row['artifact_bytes'] / 1e6:.2f} MB",
        ]
        for row in found["rows"]
    ]
    return rows(["question", "method", "test accuracy", "mistakes", "trainable parameters", "artifact"], body)


def methods(*stems: str) -> str:
    """A row per method; accuracy for each backbone, the other columns from the first."""
    every = [read(f"methods-{stem}") for stem in stems if (RESULTS / f"methods-{stem}.json").is_file()]
    if not every or not every[0]["rows"]:
        return NOT_MEASURED
    boxes, masks = (f"task={task}" in every[0]["settings"] for task in ("detection", "segmentation"))
    body = []
    for row in every[0]["rows"]:
        line = [row["method"], _spread(row)]
        for found in every[1:]:
            other = {one["method"]: one for one in found["rows"]}.get(row["method"])
            line.append(_spread(other) if other else "")
        if boxes:
            line.append(f"{100 * sum(row['map50']) / len(row['map50']):.1f}")
        line += [
            f"`{row['chosen']}`{END if _at_an_end(row) else ''}",
            f"{row['parameters']['learning']:,}",
            f"{row['artifact_bytes'] / 1e6:.2f} MB",
            f"{row['seconds_per_epoch']:.1f} s",
            f"{row['peak_bytes'] / 1e6:.0f} MB",
        ]
        body.append(line)
    score = ["mAP", *["mAP, random weights"] * (len(every) - 1), "mAP50"] if boxes else ["test accuracy"]
    score = ["mean IoU"] if masks else score
    score += ["random weights"] * (len(every) - 1) if not boxes else []
    header = [
        "method",
        *score,
        "learning rate",
        "trainable parameters",
        "artifact",
        "time per epoch",
        "additional memory",
    ]
    settings = words_of(every[0]["settings"])
    caption = f"Mean and standard deviation of {_seeds(every[0]['rows'])}, in percent. Settings: {settings}."
    if any(_at_an_end(row) for row in every[0]["rows"]):
        caption += f"{END} The best learning rate lies at an end of the grid, so a wider grid might do better."
    own = {row["method"]: [word for word in row["words"] if "." in word.partition("=")[0]] for row in every[0]["rows"]}
    more = "; ".join(f"{method} {words_of(words)}" for method, words in own.items() if words)
    caption += f" Extra settings: {more}." if more else ""
    return f"{rows(header, body)}\n\n{caption}"


def _at_an_end(row: dict[str, Any]) -> bool:
    """Whether the chosen learning rate is the lowest or the highest tried."""
    tried = sorted(row["searched"], key=lambda word: float(word.partition("=")[2]))
    return len(tried) > 1 and row["chosen"] in (tried[0], tried[-1])


def detectors() -> str:
    """A row per detector, best validation score first."""
    found = read("detectors")
    body = [
        [
            f"`head={row['head']}`",
            _of_seeds(row["val"]["map"]),
            f"{100 * statistics.mean(row['val']['map50']):.1f}",
            _searched(row),
            f"{row['learning']:,}",
            f"{row['seconds_per_epoch']:.0f} s",
        ]
        for row in sorted(found["rows"], key=lambda row: -statistics.mean(row["val"]["map"]))
    ]
    header = ["head", "validation mAP", "mAP50", "search, one seed", "trainable parameters", "time per epoch"]
    return f"{rows(header, body)}\n\nThree seeds at the best learning rate. Settings: {words_of(found['settings'])}."


def detectors_photos() -> str:
    """The two best detectors on real photos, without prompts, on validation, over the seeds that both have."""
    stem = "methods-raccoon-vit_small_patch16_224"
    files = {"fcos": stem, "faster_rcnn": f"{stem}-faster"}
    alone, seeds = _without_prompts(files)
    body = []
    for head, row in alone.items():
        size = f"{row['artifact_bytes'] / 1e6:.2f} MB"
        learning = f"{row['parameters']['learning']:,}"
        body.append([f"`head={head}`", _of_seeds(row["val"][:seeds]), _searched(row), learning, size])
    header = ["head", "validation mAP", "search, one seed", "trainable parameters", "artifact"]
    settings = words_of(word for word in read(files["faster_rcnn"])["settings"] if not word.startswith("head="))
    return f"{rows(header, body)}\n\n{seeds} seeds at the best learning rate. Settings: {settings}."


def mask_heads() -> str:
    """Heads of segmentation on street scenes, without prompts, best validation score first."""
    stem = "methods-camvid-vit_tiny_patch16_224"
    files = {"linear": stem, "fpn": f"{stem}-fpn", "query": f"{stem}-query"}
    if not all((RESULTS / f"{name}.json").is_file() for name in files.values()):
        return NOT_MEASURED
    alone, seeds = _without_prompts(files)
    body = []
    for head, row in sorted(alone.items(), key=lambda item: -statistics.mean(item[1]["val"][:seeds])):
        body.append(
            [
                f"`head={head}_segmentation`",
                *(_of_seeds(row[split][:seeds]) for split in ("val", "test")),
                _searched(row),
                f"{row['parameters']['learning']:,}",
                f"{row['artifact_bytes'] / 1e6:.2f} MB",
                f"{row['seconds_per_epoch']:.1f} s",
            ]
        )
    header = ["head", "validation mean IoU", "test", "search, one seed", "trainable parameters", "artifact", "epoch"]
    settings = words_of(word for word in read(files["linear"])["settings"] if not word.startswith("head="))
    return f"{rows(header, body)}\n\n{seeds} seeds at the best learning rate. Settings: {settings}."


def _without_prompts(files: Mapping[str, str]) -> tuple[dict[str, dict[str, Any]], int]:
    """The row of each head alone, and the number of seeds that all of them have."""
    alone = {
        head: next(row for row in read(name)["rows"] if row["method"] == "head only") for head, name in files.items()
    }
    return alone, min(len(row["val"]) for row in alone.values())


def _of_seeds(scores: Sequence[float]) -> str:
    return f"{100 * statistics.mean(scores):.1f} ± {100 * statistics.stdev(scores):.1f}"


def _searched(row: dict[str, Any]) -> str:
    return ", ".join(f"`lr.{rate}` {100 * score:.1f}" for rate, score in row["searched"].items())


def _seeds(measured: Sequence[dict[str, Any]]) -> str:
    """Number of seeds per method: "3 seeds", or "3 seeds (8 of deep, linear)"."""
    names: dict[int, list[str]] = {}
    for row in measured:
        names.setdefault(len(row["test"]), []).append(row["method"])
    least = min(names)
    more = [f"{count} of {', '.join(names[count])}" for count in sorted(names) if count > least]
    return f"{least} seeds" + (f" ({'; '.join(more)})" if more else "")


def gain(stem: str, method: str, base: str) -> str:
    """Difference between two methods, with Welch's interval over seeds."""
    if not (RESULTS / f"methods-{stem}.json").is_file():
        return NOT_MEASURED
    from scipy.stats import ttest_ind

    by_name = {row["method"]: row["test"] for row in read(f"methods-{stem}")["rows"]}
    mine, other = by_name[method], by_name[base]
    interval = ttest_ind(mine, other, equal_var=False).confidence_interval(0.95)
    points = 100 * (sum(mine) / len(mine) - sum(other) / len(other))
    return (
        f"`{method}` compared with `{base}`: {points:+.1f} points, mean over {len(mine)} seeds each "
        f"(95% interval of Welch's t-test: {100 * interval.low:+.1f} to {100 * interval.high:+.1f})."
    )


def _spread(row: dict[str, Any]) -> str:
    return f"{100 * row['mean']:.1f} ± {100 * row['spread']:.1f}"


def bank() -> str:
    found = read("bank-cpu")
    names = {
        "one task": "one task for the whole batch",
        "mixed": "a different task for every image",
        "task by task": "the same, one task at a time",
        "own models": "the same, a separate model per task",
    }
    rate = found["images_per_second"]
    body = [[text, f"{rate[way]:.0f}", f"{rate[way] / rate['one task']:.2f}x"] for way, text in names.items()]
    caption = (
        f"{found['tasks']} tasks on {found['backbone']} in a batch of {found['tasks']}, prompts of "
        f"{found['tokens'][0]} to {found['tokens'][1]} tokens, medians of {found['rounds']} alternating rounds on "
        f"{_place(found)}; scores differ from each task's own model by "
        f"{found['largest_difference']:.0e} at most (`benchmarks/speed/bank.py`)."
    )
    return f"{rows(['batch', 'images/s', 'relative to one task'], body)}\n\n{caption}"


def bank_lora() -> str:
    found = read("bank-lora-cpu")
    names = {
        "one prompted task": "one task with prompts for the whole batch",
        "one LoRA task": "one task tuned by LoRA for the whole batch",
        "mixed": "a different task for every image, half with prompts, half by LoRA",
        "task by task": "the same, one task at a time",
    }
    rate, base = found["images_per_second"], "one prompted task"
    body = [[text, f"{rate[way]:.1f}", f"{rate[way] / rate[base]:.2f}x"] for way, text in names.items()]
    caption = (
        f"{found['tasks']} tasks on {found['backbone']} with random weights in a batch of {found['batch']}, prompts of "
        f"{found['tokens'][0]} to {found['tokens'][1]} tokens, rank {found['lora']}, medians of {found['rounds']} "
        f"alternating rounds on {_place(found)}; scores differ from each task's own model by "
        f"{found['largest_difference']:.0e} at most (`benchmarks/speed/bank.py --lora`)."
    )
    return f"{rows(['batch', 'images/s', 'relative to one task with prompts'], body)}\n\n{caption}"


def prompt_tools() -> str:
    found = read("prompt-tools")
    body = []
    for row in found["rows"]:
        points = [f"{100 * value:+.1f}" for value in row.get("gain", [])]
        gain = f"{points[0]} ({points[1]} to {points[2]})" if points else ""
        body.append([row["task"], row["prompt"], f"{100 * row['mean']:.1f}", gain])
    shots = ", ".join(f"{task} with {count} images a class" for task, count in found["shots"].items())
    caption = (
        f"Accuracy on test images in percent, mean of {found['seeds']} seeds, and the difference from new prompts with "
        f"its 95% interval (paired t-test); {shots}. Settings: {words_of(found['settings'])} "
        "(`benchmarks/accuracy/prompt_tools.py`)."
    )
    return f"{rows(['task', 'prompt', 'accuracy', 'difference'], body)}\n\n{caption}"


def load() -> str:
    found = read("load-cpu")
    answers = found["answers"]
    body = [
        [
            f"{found['requests_per_second']:.0f}",
            *(f"{found['latency_ms'][cut]:.0f} ms" for cut in ("p50", "p95", "p99")),
            f"{answers['right']:,}",
            str(answers["wrong"]),
            str(answers["lost"] + answers["refused"]),
        ]
    ]
    caption = (
        f"{found['clients']} clients over loopback for {found['seconds']:.0f} s, {found['tasks']} tasks on "
        f"{found['backbone']}, server and clients sharing two cores of {found['machine']['device']}; meanwhile a "
        f"task was added and removed {answers['guest changes']} times. Every response was compared with that of the "
        "task's own model (`benchmarks/speed/server_load.py`)."
    )
    header = ["requests/s", "p50", "p95", "p99", "correct responses", "wrong", "lost or refused"]
    return f"{rows(header, body)}\n\n{caption}"


def partial_depth() -> str:
    found = read("partial-depth")
    body = [
        [
            f"`prompt.layers=last:{case['prompted']}`",
            *(f"{case['seconds_per_epoch'][way]:.2f} s" for way in ("every step", "once")),
            f"{case['speedup']:.1f}x",
        ]
        for case in found["cases"]
    ]
    machine = found["machine"]
    caption = (
        f"{found['backbone']} ({found['depth']} layers), {found['images']} images, {machine['device']}, "
        f"{machine['threads']} threads, {found['precision']}; medians of an epoch "
        "(`benchmarks/speed/partial_depth.py`)."
    ).replace("1 threads", "1 thread")
    header = ["prompts", "layers below in every step", "layers below computed once", "faster"]
    return f"{rows(header, body)}\n\n{caption}"


def clip_cache() -> str:
    found = read("clip-cache")
    seconds = found["seconds_per_epoch"]
    body = [[way, f"{time:.2f} s"] for way, time in seconds.items()]
    caption = (
        f"An epoch of CoOp is {found['speedup']:.0f}x as fast if features are computed once: {found['backbone']} with "
        f"random weights, {found['images']} images of {found['classes']} classes, {_place(found)} "
        "(`benchmarks/speed/clip_cache.py`)."
    )
    return f"{rows(['image features', 'time per epoch'], body)}\n\n{caption}"


def unknown() -> str:
    """A row per score of unknown images, best AUROC first."""
    found = read("unknown")["rows"]
    cells: dict[str, list[tuple[float, float]]] = {}
    header = ["score"]
    for case in found:
        prompt = "" if case["prompt"] == "none" else f", {case['prompt']} prompts"
        for shots in dict.fromkeys(draw["shots"] for draw in case["draws"]):
            header.append(f"{case['task']}, {case['backbone']}{prompt}, {shots or 'all'} images per class")
            draws = [draw["scores"] for draw in case["draws"] if draw["shots"] == shots]
            for name in draws[0]:
                pair = (statistics.mean(draw[name][key] for draw in draws) for key in ("auroc", "fpr95"))
                cells.setdefault(name, []).append(tuple(pair))  # type: ignore[arg-type]
    order = sorted(cells, key=lambda name: -statistics.mean(pair[0] for pair in cells[name]))
    body = [[name, *(f"{100 * auroc:.1f} / {100 * fpr:.0f}" for auroc, fpr in cells[name])] for name in order]
    settings = words_of(word for case in found for word in case["settings"])
    caption = "AUROC / accepted unknown images, in percent (`benchmarks/accuracy/unknown.py`)."
    caption += f" Photos with {settings}." if settings else ""
    return f"{rows(header, body)}\n\n{caption}"


def faults() -> str:
    found = read("faults")["faults"]
    names = {
        "kills": "SIGKILL at a random moment, then resumed",
        "checkpoints": "a checkpoint or artifact truncated or with a flipped bit",
        "images": "a mutated image, in every format Pillow reads and writes",
        "configs": "a mutated configuration",
        "disks": "a disk of random size that fills up during the run; space is added, and the run continues",
        "pairs": "a second process resumes a run that the first one is training, which is then killed",
    }
    body = []
    for key, text in names.items():
        if key in found:
            outcomes = ", ".join(f"{what}: {count}" for what, count in found[key]["outcomes"].items())
            body.append([text, str(found[key]["times"]), outcomes])
    table = rows(["fault", "times", "outcomes"], body)
    return f"{table}\n\n`benchmarks/robustness/faults.py`, seed {read('faults')['seed']}."


def _place(found: dict[str, Any]) -> str:
    return f"{found['machine']['device']}, {found['machine']['threads']} threads"


TABLES: dict[str, Callable[[], str]] = {
    "parameters": parameters,
    "speed": lambda: speed("cpu", "fp32", "eager"),
    "speed-gpu": lambda: speed("cuda", "bf16", "graphs"),
    "speed-all-cpu": lambda: speed_all("cpu"),
    "speed-all-busy": lambda: speed_all("cpu-busy"),
    "speed-all-cuda": lambda: speed_all("cuda"),
    "speed-forms-training": lambda: forms("training"),
    "speed-forms-inference": lambda: forms("inference"),
    "shared-trunk": speed_tables.shared_trunk,
    "serving-precision": speed_tables.serving_precision,
    "decoding": speed_tables.decoding,
    "startup-busy": lambda: startup("cpu-busy"),
    "startup-cuda": lambda: startup("cuda"),
    "vtab-sized": lambda: vtab_sized("cuda"),
    "gpu-session": gpu_tables.measurements,
    "gpu-goals": gpu_tables.goals,
    "gpu-outside": gpu_tables.outside,
    "released": released,
    "where": where,
    "compare": compared,
    "unknown": unknown,
    "clothing": clothing,
    "search": search,
    "suite-vit-ti": suite_ti,
    "suite-vit-s": lambda: suite_short("vit_s"),
    "suite-nano": lambda: suite_short("nano"),
    "suite-search": search_suite,
    "suite-rules": rules,
    "suite-starts": starts,
    "suite-shipped": shipped,
    "suite-duration": duration,
    "search-boxes": search_boxes,
    **{f"settings-{section or 'run'}": partial(settings, section) for section in ("", *SECTIONS)},
    "quickstart": quickstart,
    "digits": lambda: methods("digits-vpt_nano", "digits-random"),
    "fashion": lambda: methods("fashion-vpt_nano", "fashion-random"),
    "clothing-vit": lambda: methods("clothing-vit_small_patch16_224"),
    "clothing-nano": lambda: methods("clothing-vpt_nano", "clothing-random"),
    "detectors": detectors,
    "detectors-photos": detectors_photos,
    "camvid-heads": mask_heads,
    "camvid-tiny": lambda: methods("camvid-vit_tiny_patch16_224"),
    "camvid-tiny-gain": lambda: gain("camvid-vit_tiny_patch16_224", "deep", "head only"),
    "camvid-small": lambda: methods("camvid-vit_small_patch16_224"),
    "camvid-small-gain": lambda: gain("camvid-vit_small_patch16_224", "deep", "head only"),
    "scenes": lambda: methods("scenes-vpt_nano"),
    "scenes-gain": lambda: gain("scenes-vpt_nano", "deep", "head only"),
    "small-boxes": small_boxes,
    "raccoon": lambda: methods("raccoon-vit_small_patch16_224"),
    "raccoon-gain": lambda: gain("raccoon-vit_small_patch16_224", "deep", "head only"),
    "raccoon-small": lambda: methods("raccoon-vit_small_patch16_224-small-head"),
    "raccoon-small-gain": lambda: gain("raccoon-vit_small_patch16_224-small-head", "deep", "head only"),
    "bank": bank,
    "bank-lora": bank_lora,
    "prompt-tools": prompt_tools,
    "load": load,
    "clip-cache": clip_cache,
    "partial-depth": partial_depth,
    "faults": faults,
    "robustness-artifacts": robustness_tables.artifacts,
    "robustness-server": robustness_tables.attacks,
    "robustness-loads": robustness_tables.loads,
}


if __name__ == "__main__":
    main()
