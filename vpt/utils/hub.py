"""Artifacts on the Hugging Face Hub: a safetensors file and a model card; loading them executes no code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from vpt.utils.errors import UserError

PREFIX = "hf:"
MAX_BYTES = 16 << 30  # maximum size of an artifact
FILE = "artifact.safetensors"


class Api(Protocol):
    """The used part of huggingface_hub.HfApi."""

    def create_repo(self, repo_id: str, *, private: bool | None = None, exist_ok: bool = False) -> Any: ...
    def upload_file(self, *, path_or_fileobj: Any, path_in_repo: str, repo_id: str, commit_message: str) -> Any: ...


def pull(address: str) -> Path:
    """Download the artifact of `hf:owner/name` or `hf:owner/name@revision`, or take it from the local cache.

    Raises:
        UserError: no such repository or artifact, or the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, _, revision = address.removeprefix(PREFIX).partition("@")
    try:
        _refuse_large(address, name, revision or None)
        return Path(hf_hub_download(name, FILE, revision=revision or None))
    except HFValidationError:
        raise UserError(f"{address}: give the repository as {PREFIX}owner/name") from None
    except LocalEntryNotFoundError:
        raise UserError(f"{address} is not in the cache and the hub cannot be reached") from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise UserError(
            f"{address}: the hub has no such repository or revision, or it is private: hf auth login"
        ) from None
    except EntryNotFoundError:
        raise UserError(f"{address} contains no {FILE}; it was not pushed by vpt") from None
    except (HfHubHTTPError, OSError, _network_error()) as error:
        raise UserError(f"Could not download {address}: {' '.join(str(error).split())[:200]}") from None


def _network_error() -> type[Exception]:
    """The error of the library that huggingface_hub reaches the network with, since its version 1."""
    try:
        from httpx import HTTPError
    except ImportError:
        return OSError
    return HTTPError


def _refuse_large(address: str, name: str, revision: str | None) -> None:
    """Refuse a file that exceeds the maximum size, before it is downloaded. If the hub cannot be reached, the local
    cache is used.

    Raises:
        UserError: the file is too large.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        size = get_hf_file_metadata(hf_hub_url(name, FILE, revision=revision)).size
    except Exception:  # the error is reported by the download that follows
        return
    if size is not None and size > MAX_BYTES:
        raise UserError(f"{address} is larger than {MAX_BYTES >> 30} GiB, the maximum size")


def push(artifact: Path, header: Mapping[str, Any], name: str, private: bool = False, api: Api | None = None) -> str:
    """Upload an artifact and its model card; the repository is created if necessary. Returns the address to load it by.

    Args:
        artifact: the file.
        header: header of the artifact: classes, backbone, settings, metrics.
        name: owner/name.
        private: for a newly created repository.
        api: default: huggingface_hub's, with the token of `hf auth login`.

    Raises:
        UserError: an invalid name, no token, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if name.count("/") != 1:
        raise UserError(f"{name}: give the repository as owner/name")
    there: Api = api or HfApi()
    try:
        there.create_repo(name, private=private, exist_ok=True)
        for path, content in ((FILE, artifact), ("README.md", card(header, name).encode())):
            there.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=name, commit_message=f"vpt: {path}")
    except HFValidationError:
        raise UserError(f"{name}: give the repository as owner/name") from None
    except (HfHubHTTPError, OSError, _network_error()) as error:
        raise UserError(
            f"{name} cannot be pushed: {' '.join(str(error).split())[:200]}; is there a token? hf auth login"
        ) from None
    return PREFIX + name


def _literal(text: str) -> str:
    r"""A text that Markdown shows as it is.

    >>> print(_literal("a*b <c>"))
    a\*b \<c\>
    """
    return re.sub(r"([\\`*_{}\[\]<>#|!~&])", r"\\\1", text)


def card(header: Mapping[str, Any], name: str) -> str:
    """Model card of an artifact in Markdown.

    >>> card({"backbone": {"name": "vit", "fingerprint": "ab" * 32}, "classes": ["cat"], "metrics": {}}, "me/x")[:3]
    '---'
    """
    backbone, classes = header["backbone"], header["classes"]
    metrics = [
        f"| {split} | {key} | {value:.4f} |"
        for split, found in header["metrics"].items()
        for key, value in found.items()
    ]
    table = ["| split | metric | value |", "| --- | --- | ---: |", *metrics, ""] if metrics else []
    shown = ", ".join(map(_literal, classes[:50])) + (f" and {len(classes) - 50} more" if len(classes) > 50 else "")
    lines = [
        "---",
        "library_name: vpt",
        "tags: [visual-prompt-tuning]",
        "---",
        f"# {name}",
        "",
        f"A visual prompt and a head for `{backbone['name']}`; the backbone itself is not included.",
        f"Its weights must be those with the fingerprint `{backbone['fingerprint']}`.",
        "",
        f"Classes: {shown}.",
        "",
        *table,
        "```python",
        "import vpt",
        "",
        f'vpt.load("{PREFIX}{name}").predict("photo.jpg")',
        "```",
        "",
    ]
    return "\n".join(lines)
