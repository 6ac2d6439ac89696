"""A CLIP from a repository of the Hugging Face Hub or from a folder: its settings are read, its code never runs.

`open_clip_config.json` names a tokenizer and gives arguments to it, and open_clip hands them on to transformers. One of
them lets transformers run Python files of the repository.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpt.backbones.builtin_names import ADDRESSES, in_timm
from vpt.utils.errors import UserError

# Arguments of a tokenizer that say how texts are cleaned and split. All others, such as names of files, are refused;
# trust_remote_code is left out.
HARMLESS = {"clean", "strip_sep_token", "language", "use_fast", "trust_remote_code"}


def check_repository(name: str) -> None:
    """Refuse settings of a repository or folder that lead elsewhere than to a network and a tokenizer.

    Args:
        name: of the model, as open_clip takes it.

    Raises:
        UserError: settings that cannot be had, or one that is refused, by name.
    """
    if not name.startswith(ADDRESSES):
        return
    import open_clip

    try:
        config = open_clip.get_model_config(name)
    except Exception as error:  # whatever the hub, the disk or a broken file leads to
        raise UserError(f"the settings of {name} cannot be had: {' '.join(str(error).split())[:300]}") from error
    text, vision = (_section(config, key, name) for key in ("text_cfg", "vision_cfg"))
    wrong = sorted(set(_section(text, "tokenizer_kwargs", name)) - HARMLESS)
    if wrong:
        raise UserError(f"{name} asks for tokenizer_kwargs.{str(wrong[0])[:50]}, which vpt does not hand on")
    for key in ("hf_tokenizer_name", "hf_model_name"):
        if text.get(key) and not _is_repository(text[key]):
            raise UserError(f"{name} has a {key} that is no repository of the Hugging Face Hub")
    if vision.get("timm_model_name") and not in_timm(str(vision["timm_model_name"])):
        raise UserError(f"{name} has a timm_model_name that is no network of timm")
    if text.get("hf_model_name"):
        _refuse_code(text["hf_model_name"], name)


def tokenizer_of(name: str) -> Any:
    """The tokenizer of an open_clip model. No code of a repository runs, whatever its settings ask for.

    Raises:
        UserError: a tokenizer that needs code of the repository.

    >>> type(tokenizer_of("ViT-B-32")).__name__
    'SimpleTokenizer'
    """
    import open_clip

    text = (open_clip.get_model_config(name) or {}).get("text_cfg", {})
    # Given here it goes before what the settings say; only tokenizers of transformers take it.
    by_transformers = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
    try:
        return open_clip.get_tokenizer(name, **by_transformers)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise UserError(f"the tokenizer of {name} brings code of its own, which vpt does not run") from error


def _section(config: Any, key: str, name: str) -> Mapping[str, Any]:
    found = (config.get(key) or {}) if isinstance(config, Mapping) else None
    if not isinstance(found, Mapping):
        raise UserError(f"the settings of {name} are of another form: {key}")
    return found


def _is_repository(name: Any) -> bool:
    """Whether a name is that of a repository, and not of a folder here."""
    return isinstance(name, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is not None and not Path(name).exists()


def _refuse_code(model: str, name: str) -> None:
    """transformers asks on the terminal whether code may run where trust_remote_code is left out, as open_clip does."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    except Exception as error:
        raise UserError(
            f"the text tower {model} of {name} cannot be had: {' '.join(str(error).split())[:300]}"
        ) from error
    if getattr(config, "auto_map", None):
        raise UserError(f"the text tower {model} of {name} brings code of its own, which vpt does not run")
