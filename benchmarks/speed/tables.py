"""The tables of speed."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.results_files import RESULTS, read, rows, words_of


def speed(device: str, precision: str, mode: str) -> str:
    """Measurements on an idle machine: prompting here, concatenation and the plain backbone."""
    if not (RESULTS / f"speed-{device}.json").is_file():
        return "Not measured yet."
    found = read(f"speed-{device}")
    body = []
    for case in found["cases"]:
        series = case["series"][0]
        train, infer = series["training"], series["inference"]
        if series["note"] or (case["precision"], case["mode"]) != (precision, mode) or "concatenation" not in train:
            continue
        plain = infer["plain backbone"]
        memory = [train[name].get("peak_bytes") for name in ("vpt", "concatenation")]
        body.append(
            [
                case["model"],
                str(case["tokens"]),
                str(case["batch"]),
                f"{ratio(train['concatenation'], train['vpt']):.2f}x",
                "" if None in memory else f"{memory[0] / max(1, memory[1]):.2f}x",
                f"{ratio(infer['vpt'], plain):.2f}x",
                f"{ratio(infer['concatenation'], plain):.2f}x",
            ]
        )
    body.sort(key=lambda line: (line[0], int(line[2]), int(line[1])))
    machine = found["machine"]
    caption = (
        f"Measured on {machine['device']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"{precision}, 224 px, medians of "
        f"{found['cases'][0]['series'][0]['rounds']} alternating rounds (`benchmarks/speed/steps.py`)."
    )
    header = ["model", "deep tokens", "batch", "training speed", "training memory", "inference time"]
    header += ["inference time, concatenation"]
    if not any(line[4] for line in body):
        # A CUDA graph reserves its memory all the time.
        header, body = [*header[:4], *header[5:]], [[*line[:4], *line[5:]] for line in body]
    return f"{rows(header, body)}\n\n{caption}"


def speed_all(device: str) -> str:
    """Every variant of every series. Ratios are within a series; series with a note are marked."""
    if not (RESULTS / f"speed-{device}.json").is_file():
        return "Not measured yet."
    found = read(f"speed-{device}")
    notes: list[str] = []
    body = []
    for case in found["cases"]:
        rate = found["matmul_per_second"].get(case["precision"])
        for series in case["series"]:
            if series["note"] and series["note"] not in notes:
                notes.append(series["note"])
            mark = "*" * (notes.index(series["note"]) + 1) if series["note"] else ""
            where = f"{case['model']}, {case['tokens']}, {case['batch']}, {case['precision']}, {case['mode']}"
            names = dict.fromkeys([*series["inference"], *series["training"]])
            body += [[f"{where}{mark}", name, *_speed_cells(series, name, rate)] for name in names]
    machine = found["machine"]
    caption = (
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}, 224 px, medians of alternating "
        "rounds (`benchmarks/speed/steps.py`)."
    )
    marks = "".join(f" {'*' * (number + 1)} {note}." for number, note in enumerate(notes))
    header = ["model, tokens, batch, precision, mode", "variant", "training step", "relative to vpt", "training memory"]
    header += ["fraction of the matmul rate", "inference", "relative to the plain backbone", "energy per training step"]
    return f"{rows(header, body)}\n\n{caption}{marks}"


FORMS = {
    "released form": "released form",
    "concatenation": "concatenation, fused attention",
    "vpt": "vpt",
    "vpt, bf16": "vpt, bf16",
    "lora": "LoRA (peft)",
    "full": "full",
}


def forms(part: str) -> str:
    """Prompting as published, by concatenation and here, of `part` "training" or "inference"; each step is compared
    with its bound, which is twice the plain forward pass of its precision in training, and once in inference."""
    if not (RESULTS / "speed-cpu-forms.json").is_file():
        return "Not measured yet."
    found = read("speed-cpu-forms")
    times, bound = (2, "plain forward") if part == "training" else (1, "plain backbone")
    names = [name for name in FORMS if (part, name) != ("inference", "full")]
    body, series = [], {}
    for case in found["cases"]:
        series = case["series"][0]
        steps = series[part]
        bounds = {name: steps[f"{bound}, bf16" if name.endswith("bf16") else bound] for name in names}
        plain = [f"{1000 * times * steps[name]['seconds']:.0f}" for name in (bound, f"{bound}, bf16")]
        cells = [f"{1000 * steps[n]['seconds']:.0f} ({ratio(steps[n], bounds[n]) / times:.2f}x)" for n in names]
        body.append([case["model"], str(case["tokens"]), *plain, *cells])
    machine = found["machine"]
    caption = (
        f"Milliseconds, in brackets relative to the bound of the same precision. {machine['device']}, "
        f"{machine['threads']} threads, torch {machine['torch']}, batch {found['cases'][0]['batch']}, medians of "
        f"{series['rounds']} alternating rounds (`benchmarks/speed/steps.py --preset forms`)."
    ).replace(" 1 threads", " 1 thread")
    caption += f" {series['note'].capitalize()}." if series["note"] else ""
    header = ["model", "tokens", "bound", "bound, bf16", *(FORMS[name] for name in names)]
    return f"{rows(header, body)}\n\n{caption}"


def _speed_cells(series: dict[str, Any], name: str, rate: float | None) -> list[str]:
    def of(part: str, reference: str) -> tuple[dict[str, Any], str, str]:
        one, base = series[part].get(name, {}), series[part].get(reference, {})
        if "error" in one:
            return one, one["error"].split(":")[0], ""
        if "seconds" not in one:
            return one, "", ""
        times = f"{ratio(one, base):.2f}x" if "seconds" in base else ""
        return one, f"{1000 * one['seconds']:.{0 if one['seconds'] >= 0.1 else 1}f} ms", times

    train, step, against = of("training", "vpt")
    _, infer, over = of("inference", "plain backbone")
    memory = f"{train['peak_bytes'] / 1e6:.0f} MB" if train.get("peak_bytes") is not None else ""
    fraction = f"{train['operations'] / train['seconds'] / rate:.0%}" if rate and train.get("operations") else ""
    energy = f"{train['joules']:.2f} J" if train.get("joules") else ""
    return [step, against, memory, fraction, infer, over, energy]


def ratio(one: dict[str, Any], base: dict[str, Any]) -> float:
    """The median over rounds of the ratio within a round; for series without stored rounds, the ratio of medians."""
    if "rounds" not in one or "rounds" not in base:
        return one["seconds"] / base["seconds"]
    return statistics.median(mine / other for mine, other in zip(one["rounds"], base["rounds"], strict=True))


def startup(device: str) -> str:
    if not (RESULTS / f"speed-{device}.json").is_file() or not read(f"speed-{device}")["startup"]:
        return "Not measured yet."
    found = read(f"speed-{device}")["startup"]
    body = [[model, f"{one['vpt']:.1f} s", f"{one['timm']:.1f} s"] for model, one in found.items()]
    return rows(["model", "vpt, from an artifact", "timm only"], body)


def vtab_sized(device: str) -> str:
    if not (RESULTS / f"vtab-sized-{device}.json").is_file():
        return "Not measured yet."
    found = read(f"vtab-sized-{device}")
    body = [
        [
            found["machine"]["device"],
            f"{found['images']:,} images, {found['epochs']} epochs",
            f"{found['seconds_end_to_end']:.0f} s",
            f"{found['seconds_training']:.0f} s",
            f"{found['images_per_second']:.0f}",
        ]
    ]
    settings = words_of(found["settings"])
    header = ["device", "run", "end to end", "training only", "images per second"]
    return f"{rows(header, body)}\n\nSettings: {settings}."


def shared_trunk() -> str:
    """Many tasks asked of one image by a bank."""
    if not (RESULTS / "shared-trunk.json").is_file():
        return "Not measured yet."
    found = read("shared-trunk")
    body = []
    for case in found["cases"]:
        rate = case["images_per_second"]
        cells = [f"{rate['per task']:.2f}", f"{rate['shared']:.2f}", f"{rate['shared'] / rate['per task']:.1f}x"]
        body.append([f"`prompt.layers=last:{case['layers']}`", *cells])
    caption = (
        f"{found['tasks']} tasks on {found['backbone']}, {found['precision']}, {_place(found)}, medians of "
        f"{found['rounds']} alternating rounds (`benchmarks/speed/shared_trunk.py`); "
    )
    gap = max(case["largest_difference"] for case in found["cases"])
    caption += f"scores differ by {gap:.0e} at most." if gap else "scores are identical."
    header = ["prompts", "images/s, every task by itself", "images/s, shared layers once", "faster"]
    return f"{rows(header, body)}\n\n{caption}"


def serving_precision() -> str:
    """Inference on a CPU in float32, bf16 and int8."""
    if not (RESULTS / "serving-precision.json").is_file():
        return "Not measured yet."
    found = read("serving-precision")
    rates = {(case["model"], case["batch"]): case["images_per_second"] for case in reversed(found["cases"])}  # of fp32
    body = [
        [
            f"{case['model']}, batch {case['batch']}",
            case["precision"],
            f"{case['images_per_second']:.1f}",
            f"{case['images_per_second'] / rates[case['model'], case['batch']]:.2f}x",
            f"{case['accuracy']:.1%}",
            f"{case['mean_difference']:.4f}",
            f"{case['largest_difference']:.3f}",
        ]
        for case in found["cases"]
    ]
    caption = (
        f"timm's own forward pass with a linear head fitted on {found['shots']} photos per class, {found['images']} "
        f"test photos, {_place(found)}, medians of {found['rounds']} alternating rounds "
        "(`benchmarks/speed/serving_precision.py`)."
    )
    header = ["model", "precision", "images/s", "relative to fp32", "accuracy", "mean difference of probabilities"]
    return f"{rows([*header, 'largest'], body)}\n\n{caption}"


def decoding() -> str:
    """JPEG decoders beside a training step."""
    if not (RESULTS / "decoding.json").is_file():
        return "Not measured yet."
    found = read("decoding")
    body = [
        [
            case["photos"],
            case["way"],
            f"{case['images_per_second']:.0f}",
            f"{case['difference']:.2f}" if "difference" in case else "",
        ]
        for case in found["cases"]
    ]
    caption = (
        f"{found['images']} photos with a short side of {found['short_side']:.0f} px (median), to 224 px; the training "
        f"step is that of vit_tiny_patch16_224 with 10 deep tokens, batch {found['batch']}, {found['precision']}; "
        f"{_place(found)}, medians of {found['rounds']} alternating rounds (`benchmarks/speed/decoding.py`)."
    )
    header = ["photos", "decoder", "images/s", "mean difference of pixels from vpt (0 to 255)"]
    return f"{rows(header, body)}\n\n{caption}"


def _place(found: dict[str, Any]) -> str:
    threads = found["machine"]["threads"]
    return f"{found['machine']['device']}, {threads} thread{'s' if threads > 1 else ''}"
