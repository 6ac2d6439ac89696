"""By which settings an artifact's model is built: nothing is opened because the artifact names it.

An artifact may be a stranger's. A network that a library has built in is taken by its name; a weight file, a
repository, a folder or a file of templates only where the user names it, or has trained on that backbone before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpt.backbones.builtin_names import is_address
from vpt.backbones.known_backbones import recall
from vpt.config import BackboneConfig, Head, NativeHead, RunConfig, names_a_file
from vpt.models.artifact import Artifact
from vpt.prompts.clip.templates import read_templates
from vpt.utils.errors import FileError, UserError


@dataclass(frozen=True)
class Named:
    """What the user names himself; None where he leaves it to the artifact.

    Args:
        backbone: name of the network, an address of a repository or a folder too.
        weights: its weight file.
        templates: as the setting head.templates, a file too.
    """

    backbone: str | None = None
    weights: str | Path | None = None
    templates: str | Path | Sequence[str] | None = None


NOTHING = Named()


def settings_for(artifact: Artifact, named: Named = NOTHING) -> RunConfig:
    """The settings by which an artifact's model may be built.

    Raises:
        FileError: the artifact names a file, a folder or a repository, and the user does not.
        UserError: what the user names does not exist.
    """
    return artifact.config.with_(backbone=backbone_of(artifact, named), head=head_of(artifact, named))


def head_of(artifact: Artifact, named: Named = NOTHING) -> Head:
    """The settings of an artifact's head, with texts where it reads texts.

    Raises:
        FileError: the artifact names a file of templates, and the user does not.
        UserError: templates that the user names do not exist, or the head reads none.
    """
    head = artifact.config.head
    templates = getattr(head, "templates", None)
    if named.templates is not None:
        if templates is None:
            raise UserError(f"{artifact.path} has a head that reads no templates; leave them out")
        given = str(named.templates) if isinstance(named.templates, Path) else named.templates
        return artifact.config.with_({"head.templates": list(read_templates(given))}).head
    if templates is not None and names_a_file(templates):
        raise FileError(
            artifact.path,
            "names a file of templates, and no file is opened on an artifact's word; give it yourself: "
            "vpt predict --templates FILE, or train again, and the artifact holds the texts",
        )
    return head


def backbone_of(artifact: Artifact, named: Named = NOTHING) -> BackboneConfig:
    """The backbone on which an artifact may be loaded, at the size of image that it was trained for.

    Raises:
        FileError: the artifact names a weight file, a folder or a repository, and the user does not.
        UserError: the weight file that the user names does not exist.
    """
    wanted = artifact.config.backbone
    changes: dict[str, Any] = {}
    if not isinstance(artifact.config.head, NativeHead):  # a whole detector resizes its images itself
        changes["backbone.image_size"] = artifact.preprocess.size
    own = recall(artifact.backbone["fingerprint"])
    if named.backbone is not None:
        changes |= {"backbone.name": named.backbone, "backbone.weights": None}
    elif is_address(wanted.name):
        if own is None:
            what = (
                "was trained on a backbone from a repository, a folder or a plug-in, and none is opened on an "
                "artifact's word; if you trust it, name it yourself: --backbone"
            )
            raise FileError(artifact.path, f"{what} NAME", f"{artifact.path} {what} {wanted.name}")
        changes["backbone.name"] = own.name
    if named.weights is not None:
        file = Path(named.weights)
        if not file.is_file():
            raise UserError(f"the backbone's weights are not at {file}; name their file with --weights FILE")
        changes["backbone.weights"] = file
    elif wanted.weights is not None and named.backbone is None:
        if own is None or own.weights is None or not own.weights.is_file():
            raise FileError(
                artifact.path,
                "was trained on a backbone whose weights are in a file of their own, and no file is opened on an "
                "artifact's word; say where it is: --weights FILE",
            )
        changes["backbone.weights"] = own.weights
    return artifact.config.with_(changes).backbone
