"""The command line: thin, and quick to start, for nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vpt.errors import UserError, nearest

if TYPE_CHECKING:
    from vpt.data.images import BadImage
    from vpt.predict import Predictor
    from vpt.results import Classification

USAGE = 2  # exit code of a user's mistake
EXAMPLES = """examples:
  vpt train configs/quickstart.yaml                      the embedded example, no download
  vpt train data=photos backbone=vit_small_patch14_dinov2   a folder of class folders, deep prompts
  vpt train data=photos prompt=none                      linear probe; also tuning=bias, lora or full
  vpt train resume=runs/photos                           go on after an interruption
  vpt eval runs/photos split=test
  vpt predict runs/photos new/*.jpg --format json
  vpt data check photos
"""


class _Parser(argparse.ArgumentParser):
    """Speaks of mistakes as the rest of vpt does, and names the nearest command."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.split(' (choose')[0]}; see: {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 some images unreadable or a bug, 2 a mistake of the caller's,
    130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("VPT_DEBUG") == "1"
    words = [word for word in words if word != "--debug"]
    if not debug:
        warnings.simplefilter("ignore")
    try:
        options = _parse(words)
        return int(options.run(options))
    except UserError as error:
        if debug:
            raise
        print(f"vpt: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("\nvpt: interrupted; an unfinished run goes on with: vpt train resume=RUN", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if debug:
            raise
        place = f" ({error.filename})" if error.filename else ""
        print(f"vpt: {error.strerror or error}{place}; make room or choose another folder", file=sys.stderr)
        return USAGE
    except Exception as error:
        if debug:
            raise
        kind = type(error).__name__
        print(
            f"vpt: unexpected {kind}: {error}\nThis is a bug in vpt. Please report it with the output of the same "
            "command and --debug.",
            file=sys.stderr,
        )
        return 1


def _parse(words: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="vpt",
        description="Visual prompt tuning for frozen vision transformers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    _train_parser(commands)
    _eval_parser(commands)
    _predict_parser(commands)
    _protocol_parser(commands)
    _data_parser(commands)
    _config_parser(commands)
    _backbones_parser(commands)
    known = list(commands.choices)
    if words and not words[0].startswith("-") and words[0] not in known:
        raise UserError(f"there is no command '{words[0]}'{nearest(words[0], known)}; known: {', '.join(known)}")
    options = parser.parse_args(words)
    if options.version:
        options.run = _version
    elif not hasattr(options, "run"):
        parser.print_help()
        options.run = lambda _options: 0
    return options


def _version(_options: argparse.Namespace) -> int:
    from importlib.metadata import version

    print(f"vpt {version('vpt')}")
    return 0


def _train_parser(commands: Any) -> None:
    parser = commands.add_parser("train", help="train prompt and head on a data set, or resume=RUN")
    parser.add_argument("words", nargs="*", metavar="CONFIG.yaml | key=value", help="a config file and settings")
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    file, overrides = _file_and_overrides(options.words)
    run = [word.partition("=")[2] for word in overrides if word.startswith("resume=")]
    overrides = [word for word in overrides if not word.startswith("resume=")]
    if run and file:
        raise UserError("a resumed run has its own config; leave out the file")
    from vpt.config import load_config

    config = None if run else load_config(file, overrides)
    from vpt.run import resume, train

    result = train(config) if config is not None else resume(run[0], overrides)
    print(result.folder)
    return 0


def _eval_parser(commands: Any) -> None:
    parser = commands.add_parser("eval", help="measure an artifact on a split")
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN|ARTIFACT|CONFIG.yaml | key=value",
        help="a run, or settings that need no training (head=zeroshot prompt=none); split=test, val or train; data=...",
    )
    parser.add_argument("--weights", type=Path, help="where the backbone's weight file lies now")
    parser.add_argument("--format", choices=["table", "json"], default="table")
    parser.set_defaults(run=_eval)


def _eval(options: argparse.Namespace) -> int:
    first = options.words[0]
    artifact = None if "=" in first or first.endswith((".yaml", ".yml")) else first
    file, overrides = _file_and_overrides(options.words[1:] if artifact else options.words)
    if file and artifact:
        raise UserError(f"'{file}' is not of the form key=value, as in data=photos")
    chosen = [word.partition("=")[2] for word in overrides if word.startswith("split=")]
    split = chosen[-1] if chosen else "test"
    known = ("train", "val", "test")
    if split not in known:
        raise UserError(f"split={split} does not exist{nearest(split, known)}; known: {', '.join(known)}")
    overrides = [word for word in overrides if not word.startswith("split=")]
    from vpt.config import load_config

    config = None if artifact else load_config(file, overrides)
    from vpt.run import evaluate, evaluate_untrained

    if config is not None:
        found = evaluate_untrained(config, split)
    else:
        assert artifact is not None
        found = evaluate(artifact, split, overrides, weights=options.weights)
    if options.format == "json":
        import json

        print(json.dumps(found, indent=2))
        return 0
    for name, value in found.items():
        if isinstance(value, float | int):
            print(f"{name:<18} {value:.4f}" if isinstance(value, float) else f"{name:<18} {value}")
    print(f"\n{'class':<24} {'precision':>9} {'recall':>9} {'f1':>9} {'images':>9}")
    for row in found["per_class"]:
        numbers = " ".join(f"{row[key]:>9.3f}" for key in ("precision", "recall", "f1"))
        print(f"{row['class']:<24} {numbers} {row['support']:>9}")
    return 0


def _protocol_parser(commands: Any) -> None:
    parser = commands.add_parser("protocol", help="few shots, base to new classes, transfer to other data")
    parser.add_argument("protocol", choices=["few-shot", "base-to-new", "transfer"])
    parser.add_argument("words", nargs="*", metavar="CONFIG.yaml | key=value", help="a config file and settings")
    parser.add_argument("--shots", type=int, nargs="+", help="few-shot: 1 2 4 8 16; else one number, 16")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--format", choices=["table", "json"], default="table")
    parser.add_argument("--to", nargs="+", default=[], metavar="DATA", help="transfer: other data sets to test on")
    parser.set_defaults(run=_protocol)


def _protocol(options: argparse.Namespace) -> int:
    import json

    from vpt.config import load_config

    config = load_config(*_file_and_overrides(options.words))
    from vpt.protocols import SHOTS, as_table, base_to_new, few_shot, transfer

    shots = options.shots or SHOTS
    if options.protocol == "few-shot":
        found = few_shot(config, shots, options.seeds)
    elif options.protocol == "base-to-new":
        found = base_to_new(config, shots[-1], options.seeds)
    else:
        found = transfer(config, options.to, shots[-1], options.seeds)
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if options.format == "json" else as_table(found))
    return 0


def _predict_parser(commands: Any) -> None:
    parser = commands.add_parser("predict", help="classify files, folders or globs")
    parser.add_argument("artifact", metavar="RUN|ARTIFACT")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders or globs")
    parser.add_argument("--format", choices=["table", "json", "csv"], default="table")
    parser.add_argument("--classes", help="other class names, comma-separated, where the head reads names (zeroshot)")
    parser.add_argument("--top", type=int, default=5, help="classes named for each image (default 5)")
    parser.add_argument("--output", type=Path, help="write to this file instead of stdout")
    parser.add_argument("--prompted", type=Path, metavar="DIR", help="write what the backbone sees, as PNG")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--weights", type=Path, help="where the backbone's weight file lies now")
    parser.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> int:
    from vpt.data.images import BadImage
    from vpt.predict import find_images, load

    find_images(options.images)  # a misspelt path is told before the backbone is built
    predictor = load(options.artifact, options.device, options.weights)
    if options.classes is not None:
        predictor = predictor.with_classes([name.strip() for name in options.classes.split(",") if name.strip()])
    results: list[Classification] = []
    bad: list[BadImage] = []
    for found in predictor.predict_each(options.images, options.batch_size, options.top):
        if isinstance(found, BadImage):
            bad.append(found)
        else:
            results.append(found)
    text = {"table": _as_table, "json": _as_json, "csv": _as_csv}[options.format](results)
    if options.output is not None:
        from vpt.files import write_text

        write_text(options.output, text)
    else:
        sys.stdout.write(text)
    for error in bad:
        print(f"vpt: not predicted: {error}", file=sys.stderr)
    if options.prompted is not None:
        _write_prompted(predictor, [result.image for result in results], options.prompted)
    if bad and not results:
        return USAGE
    return 1 if bad else 0


def _write_prompted(predictor: Predictor, images: Sequence[str], folder: Path) -> None:
    from vpt.plots import picture_png

    for number, (name, pixels) in enumerate(predictor.prompted(list(images)), 1):
        picture_png(pixels, folder / f"{number:04d}-{Path(name).stem}.png")


def _as_table(results: Sequence[Classification]) -> str:
    width = max((len(result.image) for result in results), default=0)
    lines = []
    for result in results:
        scores = "  ".join(f"{label} {score:.3f}" for label, score in zip(result.labels, result.scores, strict=True))
        lines.append(f"{result.image:<{width}}  {scores}\n")
    return "".join(lines)


def _as_json(results: Sequence[Classification]) -> str:
    import json

    return json.dumps([result.to_dict() for result in results], indent=2, ensure_ascii=False) + "\n"


def _as_csv(results: Sequence[Classification]) -> str:
    import csv
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image", "rank", "label", "score"])
    for result in results:
        for rank, (label, score) in enumerate(zip(result.labels, result.scores, strict=True), 1):
            writer.writerow([result.image, rank, label, f"{score:.6f}"])
    return out.getvalue()


def _data_parser(commands: Any) -> None:
    parser = commands.add_parser("data", help="look at a data set: vpt data check PATH")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", parser_class=_Parser, required=True)
    check = actions.add_parser("check", help="decode every image; list what is wrong, by name")
    check.add_argument("words", nargs="+", metavar="PATH | CONFIG.yaml | key=value")
    check.set_defaults(run=_data_check)


def _data_check(options: argparse.Namespace) -> int:
    first, *rest = options.words
    words = options.words if "=" in first or first.endswith((".yaml", ".yml")) else [f"data.path={first}", *rest]
    file, overrides = _file_and_overrides(words)
    from vpt.config import load_config

    config = load_config(file, overrides)
    from vpt.data.check import check
    from vpt.data.sources import load_data

    data = load_data(config.data)
    report = check(data, config.data.max_pixels)
    print(f"{config.data.path}: {data.summary()}")
    for note in data.notes:
        print(note)
    print(report.text())
    return USAGE if report.bad else 0


def _config_parser(commands: Any) -> None:
    parser = commands.add_parser("config", help="show merged settings, or the JSON Schema for editors")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", parser_class=_Parser, required=True)
    show = actions.add_parser("show", help="every setting with its value")
    show.add_argument("words", nargs="*", metavar="CONFIG.yaml | key=value")
    show.set_defaults(run=_config_show)
    schema = actions.add_parser("schema", help="JSON Schema of a config file")
    schema.set_defaults(run=_config_schema)


def _config_show(options: argparse.Namespace) -> int:
    import yaml

    from vpt.config import load_config

    config = load_config(*_file_and_overrides(options.words))
    sys.stdout.write(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    return 0


def _config_schema(_options: argparse.Namespace) -> int:
    import json

    from vpt.config import RunConfig

    print(json.dumps(RunConfig.model_json_schema(), indent=2))
    return 0


def _backbones_parser(commands: Any) -> None:
    parser = commands.add_parser("backbones", help="list backbones that take prompts, by name or pattern")
    parser.add_argument("pattern", nargs="?", default="*", help="as in '*dinov2*'")
    parser.set_defaults(run=_backbones)


def _backbones(options: argparse.Namespace) -> int:
    from fnmatch import fnmatch

    from vpt.backbones.names import known_names

    found = [name for name in known_names() if fnmatch(name, options.pattern)]
    if not found:
        raise UserError(f"no backbone matches '{options.pattern}'; try '*{options.pattern.strip('*')}*'")
    print("\n".join(found))
    return 0


def _file_and_overrides(words: Sequence[str]) -> tuple[str | None, list[str]]:
    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise UserError(f"'{files[1]}': give one config file, and settings as key=value")
    if files and not files[0].endswith((".yaml", ".yml")):
        raise UserError(f"'{files[0]}' is neither a .yaml file nor of the form key=value, as in data={files[0]}")
    return (files[0] if files else None), [word for word in words if "=" in word]


if __name__ == "__main__":
    sys.exit(main())
