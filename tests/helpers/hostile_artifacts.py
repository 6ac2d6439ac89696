"""Artifacts of tests/compat as a stranger might have changed them, and the backbones on which they stand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.robustness import mutate
from tests.helpers.paths import ROOT
from vpt.utils.errors import UserError

ARTIFACTS = ROOT / "tests" / "compat" / "0.1" / "artifacts"


def changed(which: str, target: Path, **settings: Any) -> Path:
    """An artifact with other settings in its header, given as `backbone__name="x"` for config.backbone.name."""
    tensors, tree = mutate.load(ARTIFACTS / f"{which}.safetensors")
    for key, value in settings.items():
        *parents, last = key.split("__")
        section = tree["config"]
        for parent in parents:
            section = section[parent]
        section[last] = value
    tree["backbone"]["name"] = tree["config"]["backbone"]["name"]
    return mutate.write(target, tensors, json.dumps(tree))


def with_header(name: str, target: Path, **fields: Any) -> Path:
    """An artifact with other fields in its header."""
    tensors, tree = mutate.load(ARTIFACTS / f"{name}.safetensors")
    return mutate.write(target, tensors, json.dumps({**tree, **fields}))


def evil_folder(folder: Path, marker: Path) -> Path:
    """A CLIP as open_clip reads it from a folder, whose tokenizer asks for Python code that writes `marker`."""
    folder.mkdir()
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    asked = {"hf_tokenizer_name": "any/name", "tokenizer_kwargs": {"trust_remote_code": True}}
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
        "text_cfg": {**text, **asked},
    }
    pixels = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": pixels}))
    code = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(code))
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').write('ran')\n\n\nclass Evil:\n    pass\n")
    return folder


def harmless_folder(folder: Path, marker: Path) -> Path:
    """The same with a tokenizer that needs no code; its settings still ask to trust what code there is."""
    evil_folder(folder, marker)
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ["[PAD]", "[UNK]", "a", "photo", "of", "cat", "dog", "."]
    made = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.save(str(folder / "tokenizer.json"))
    plain = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(plain))
    return folder


def refused(call: Callable[[], object]) -> str:
    """The sentence of a refusal; "" where there is none. Anything but a UserError fails the test."""
    try:
        call()
    except UserError as error:
        text = str(error)
        text.encode()  # no lone surrogates
        assert text.strip()
        assert len(text) < 2000
        assert not set(text) & set("\x00\x07\x1b\r\n")
        return text
    return ""
