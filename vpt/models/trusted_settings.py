"""Settings for building the model of an untrusted artifact: no file is opened because the artifact names it.

Built-in networks of a library are created by name. A weight file, a repository, a folder or a template file is only
used if the user names it, or has trained on that backbone before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpt.backbones.builtin_names import is_address
from vpt.backbones.known_backbones import recall
from vpt.config import BackboneConfig, Head, RunConfig, names_a_file
from vpt.models.artifact import Artifact
from vpt.prompts.clip.templates import read_templates
from vpt.utils.errors import FileError, UserError


@dataclass(frozen=True)
class Named:
    """Backbone, weights and templates named by the user; None for those of the artifact.

    Args:
        backbone: name of the network, or a repository or folder.
        weights: weight file of the backbone.
        templates: as the setting head.templates, including files.
    """

    backbone: str | None = None
    weights: str | Path | None = None
    templates: str | Path | Sequence[str] | None = None


NOTHING = Named()


def settings_for(artifact: Artifact, named: Named = NOTHING) -> RunConfig:
    """Trusted settings for building the model of an artifact.

    Raises:
        FileError: the artifact names a file, a folder or a repository, but the user does not.
        UserError: something named by the user does not exist.
    """
    return artifact.config.with_(backbone=backbone_of(artifact, named), head=head_of(artifact, named))


def head_of(artifact: Artifact, named: Named = NOTHING) -> Head:
    """Trusted settings of the head of an artifact, with the texts of its templates.

    Raises:
        FileError: the artifact names a template file, but the user does not.
        UserError: templates named by the user do not exist, or the head does not use templates.
    """
    head = artifact.config.head
    templates = getattr(head, "templates", None)
    if named.templates is not None:
        if templates is None:
            raise UserError(f"{artifact.path} has a head that does not use templates; leave them out")
        given = str(named.templates) if isinstance(named.templates, Path) else named.templates
        return artifact.config.with_({"head.templates": list(read_templates(given))}).head
    if templates is not None and names_a_file(templates):
        raise FileError(
            artifact.path,
            "names a template file, but files named by an artifact are not opened; specify it: "
            "vpt predict --templates FILE, or train again to store the texts in the artifact",
        )
    return head


def backbone_of(artifact: Artifact, named: Named = NOTHING) -> BackboneConfig:
    """Trusted settings of the backbone of an artifact, at the image size that it was trained for.

    Raises:
        FileError: the artifact names a weight file, a folder or a repository, but the user does not.
        UserError: the weight file named by the user does not exist.
    """
    wanted = artifact.config.backbone
    changes: dict[str, Any] = {}
    if not artifact.config.head.complete:  # a complete detector resizes images itself
        changes["backbone.image_size"] = artifact.preprocess.size
    own = recall(artifact.backbone["fingerprint"])
    if named.backbone is not None:
        changes |= {"backbone.name": named.backbone, "backbone.weights": None}
    elif is_address(wanted.name):
        if own is None:
            what = (
                "was trained on a backbone from a repository, a folder or a plug-in, which is not loaded because an "
                "artifact names it; if you trust it, specify it: --backbone"
            )
            raise FileError(artifact.path, f"{what} NAME", f"{artifact.path} {what} {wanted.name}")
        changes["backbone.name"] = own.name
    if named.weights is not None:
        file = Path(named.weights)
        if not file.is_file():
            raise UserError(f"the backbone's weights are not at {file}; specify their file: --weights FILE")
        changes["backbone.weights"] = file
    elif wanted.weights is not None and named.backbone is None:
        if own is None or own.weights is None or not own.weights.is_file():
            raise FileError(
                artifact.path,
                "was trained on a backbone with a separate weight file, but files named by an artifact are not "
                "opened; specify it: --weights FILE",
            )
        changes["backbone.weights"] = own.weights
    return artifact.config.with_(changes).backbone
