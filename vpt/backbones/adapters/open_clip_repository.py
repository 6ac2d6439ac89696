"""CLIP models from a repository on the Hugging Face Hub or from a folder: settings are read, code is never run.

`open_clip_config.json` names a tokenizer and its arguments, which open_clip passes to transformers. One of them lets
transformers run Python files of the repository.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpt.backbones.builtin_names import ADDRESSES, in_timm
from vpt.utils.errors import UserError

# Tokenizer arguments that control how texts are cleaned and split. All others, such as file names, are refused;
# trust_remote_code is ignored.
HARMLESS = {"clean", "strip_sep_token", "language", "use_fast", "trust_remote_code"}


def check_repository(name: str) -> None:
    """Refuse settings of a repository or folder that refer to anything but a network and a tokenizer.

    Args:
        name: of the model, as open_clip takes it.

    Raises:
        UserError: settings that are unavailable, or one that is refused, with its name.
    """
    if not name.startswith(ADDRESSES):
        return
    import open_clip

    try:
        config = open_clip.get_model_config(name)
    except Exception as error:  # the hub, the disk or a broken file can raise anything
        raise UserError(f"Could not download the settings of {name}: {' '.join(str(error).split())[:300]}") from error
    text, vision = (_section(config, key, name) for key in ("text_cfg", "vision_cfg"))
    wrong = sorted(set(_section(text, "tokenizer_kwargs", name)) - HARMLESS)
    if wrong:
        raise UserError(f"{name} asks for tokenizer_kwargs.{str(wrong[0])[:50]}, which vpt does not support")
    for key in ("hf_tokenizer_name", "hf_model_name"):
        if text.get(key) and not _is_repository(text[key]):
            raise UserError(f"{name} has a {key} that is not a repository on the Hugging Face Hub")
    if vision.get("timm_model_name") and not in_timm(str(vision["timm_model_name"])):
        raise UserError(f"{name} has a timm_model_name that is not a timm network")
    if text.get("hf_model_name"):
        _refuse_code(text["hf_model_name"], name)


def tokenizer_of(name: str) -> Any:
    """Tokenizer of an open_clip model. Code of a repository is never run, whatever its settings ask for.

    Raises:
        UserError: a tokenizer that needs code of the repository.

    >>> type(tokenizer_of("ViT-B-32")).__name__
    'SimpleTokenizer'
    """
    import open_clip

    text = (open_clip.get_model_config(name) or {}).get("text_cfg", {})
    # Arguments given here override the settings; only tokenizers of transformers accept this one.
    by_transformers = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
    try:
        return open_clip.get_tokenizer(name, **by_transformers)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise UserError(f"the tokenizer of {name} needs its own code, which vpt does not run") from error


def _section(config: Any, key: str, name: str) -> Mapping[str, Any]:
    found = (config.get(key) or {}) if isinstance(config, Mapping) else None
    if not isinstance(found, Mapping):
        raise UserError(f"the settings of {name} have an unexpected form: {key}")
    return found


def _is_repository(name: Any) -> bool:
    """Whether a name is that of a repository rather than a local folder."""
    return isinstance(name, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is not None and not Path(name).exists()


def _refuse_code(model: str, name: str) -> None:
    """Refuse models with remote code; without trust_remote_code=False transformers would ask on the terminal."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    except Exception as error:
        raise UserError(
            f"the text tower {model} of {name} is not available: {' '.join(str(error).split())[:300]}"
        ) from error
    if getattr(config, "auto_map", None):
        raise UserError(f"the text tower {model} of {name} needs its own code, which vpt does not run")
