"""Entry point of the command line. Heavy modules are imported only when a command needs them, to start quickly."""

from __future__ import annotations

import argparse
import atexit
import errno
import gc
import os
import sys
import warnings
from collections.abc import Sequence

from vpt.cli import (
    add_class,
    average,
    backbones,
    bench,
    benchmark,
    completion,
    config,
    convert,
    data,
    export,
    predict,
    protocol,
    push,
    report,
    serve,
    sweep,
    train,
)
from vpt.cli import eval as evaluate
from vpt.cli.parser import USAGE, Parser
from vpt.utils.atomic_io import system_reason
from vpt.utils.cache_dir import ensure_home
from vpt.utils.errors import UserError, nearest
from vpt.utils.std_streams import close_output, prepare_streams, reader_is_gone, say

EXAMPLES = """examples:
  vpt train configs/quickstart.yaml                      the embedded example, no download
  vpt train data=photos backbone=vit_small_patch14_dinov2   a folder of class folders, deep prompts
  vpt train data=photos prompt=none                      linear probe
  vpt train data=photos compare=none,lora,full           also the linear probe, LoRA and full fine-tuning, in a table
  vpt train resume=runs/photos                           continue an interrupted run
  vpt eval runs/photos split=test
  vpt report runs/photos                                 an HTML page about the run
  vpt predict runs/photos new/*.jpg --format json
  vpt export runs/photos --format onnx                   one file for other runtimes
  vpt serve runs                                         serve every task in a folder over HTTP
  vpt data check photos
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0 success, 1 unreadable images or a bug, 2 a usage error, 130
    interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("VPT_DEBUG") == "1"
    words = [word for word in words if word != "--debug"]
    if not debug:
        warnings.simplefilter("ignore")
    prepare_streams()
    # At its end Python looks for reference cycles among all objects of torch, which takes a second or two.
    atexit.register(gc.freeze)
    mistake: Exception | None = None
    code = 0
    try:
        if (note := ensure_home()) and os.environ.get("RANK", "0") == "0":
            say(f"vpt: {note}")
        options = _parse(words)
        code = int(options.run(options))
    except KeyboardInterrupt as stop:
        say(f"\nvpt: interrupted{_continued(stop, words)}")
        code = 128 + getattr(stop, "number", 2)
    except SystemExit as end:  # after --help
        code = end.code if isinstance(end.code, int) else 0
    except Exception as error:
        mistake = error
    gone = reader_is_gone()  # as with `| head`, which has read all it wanted
    unwritten = close_output()
    of_output = isinstance(mistake, BrokenPipeError) and gone
    of_output |= isinstance(mistake, OSError) and mistake.filename is None and unwritten is not None
    if mistake is not None and not of_output:
        if debug:
            raise mistake
        return _explained(mistake)
    if unwritten is not None and not gone:
        say(f"vpt: standard output cannot be written: {unwritten.strerror}")
        return code or USAGE
    return code


def _continued(stop: KeyboardInterrupt, words: Sequence[str]) -> str:
    """How to continue what was interrupted."""
    command = getattr(stop, "resume", None)
    if command is None and words and words[0] in ("sweep", "bench", "protocol"):
        return "; to continue, run the same command again"
    return f"; to continue: {command}" if command else ""


def _without_plugins(words: Sequence[str]) -> tuple[list[str], list[str | None]]:
    """Words without `--plugin NAME`, which any command takes, and the names.

    >>> _without_plugins(["predict", "--plugin", "a:B", "run", "--plugin=c:D"])
    (['predict', 'run'], ['a:B', 'c:D'])
    """
    others: list[str] = []
    names: list[str | None] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            return [*others, word, *rest], names
        if word == "--plugin":
            names.append(next(rest, None))
        elif word.startswith("--plugin="):
            names.append(word.removeprefix("--plugin="))
        else:
            others.append(word)
    return others, names


def _use_plugins(names: Sequence[str | None]) -> None:
    for name in names:
        if name is None:
            raise UserError("--plugin needs a class, as in --plugin my_module:MyPrompt")
        from vpt.config.plugins import use_plugin

        use_plugin(name)


def _explained(error: Exception) -> int:
    """Print the error and return the exit code."""
    if isinstance(error, UserError):
        say(f"vpt: {error}")
        return USAGE
    reason = system_reason(error)
    if reason is not None:
        place = getattr(error, "filename", None)
        say(f"vpt: {reason}{f' ({place})' if place else ''}; {_remedy(reason)}")
        return USAGE
    say(
        f"vpt: unexpected {type(error).__name__}: {error}\nThis is a bug in vpt. Please report it with the output of "
        "the same command and --debug."
    )
    return 1


def _remedy(reason: str) -> str:
    if reason in map(os.strerror, (errno.ENOSPC, errno.EDQUOT)):
        return "free some space"
    return "check the path and its permissions, or choose another one"


def _parse(words: list[str]) -> argparse.Namespace:
    words, plugins = _without_plugins(words)
    parser = Parser(
        prog="vpt",
        description="Visual prompt tuning for frozen vision transformers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument(
        "--plugin",
        metavar="MODULE:CLASS",
        help="a prompt, head or loss of your own that an artifact or a run folder names; any command takes it",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    every = (
        train,
        sweep,
        evaluate,
        report,
        predict,
        protocol,
        bench,
        benchmark,
        export,
        convert,
        push,
        serve,
        add_class,
        average,
        data,
        config,
        backbones,
        completion,
    )
    for command in every:
        command.add(commands)
    if "_ARGCOMPLETE" in os.environ:
        completion.complete(parser)
    known = list(commands.choices)
    if words and not words[0].startswith("-") and words[0] not in known:
        raise UserError(f"there is no command '{words[0]}'{nearest(words[0], known)}; known: {', '.join(known)}")
    options = parser.parse_args(words)
    _use_plugins(plugins)
    if options.version:
        options.run = _version
    elif not hasattr(options, "run"):
        parser.print_help()
        options.run = lambda _options: 0
    return options


def _version(_options: argparse.Namespace) -> int:
    from vpt.utils.version import own_version

    print(f"vpt {own_version()}")
    return 0
