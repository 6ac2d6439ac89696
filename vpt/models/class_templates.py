"""The sentences in which a CLIP run names its classes: of its settings, its data set, or a file next to the data.

Every run asks for them, so what only CLIP needs is imported when it is needed.
"""

from __future__ import annotations

from vpt.config import ClipPrompt, RunConfig, ZeroShotHead
from vpt.data.datasets.dassl import template_of
from vpt.data.datasets.webdataset import own_templates


def templates_of(config: RunConfig) -> tuple[str, ...]:
    """The templates of a run: those in its settings, or the default template of its data set."""
    from vpt.prompts.clip.templates import read_templates

    assert isinstance(config.head, ZeroShotHead)
    own = template_of(config.data.path) if config.head.templates == "auto" else None
    return (own,) if own is not None else read_templates(config.head.templates)


def with_own_templates(config: RunConfig) -> RunConfig:
    """The settings with the texts of a templates file next to the data, for `head.templates=auto`. An artifact contains
    them, so that no file is opened because its header names the data.

    Raises:
        UserError: a file that cannot be read.

    >>> with_own_templates(RunConfig()) == RunConfig()
    True
    """
    head, prompt = config.head, config.prompt
    if not isinstance(head, ZeroShotHead) or head.templates != "auto":
        return config
    if isinstance(prompt, ClipPrompt) and prompt.replaces_templates:
        return config
    from vpt.prompts.clip.templates import read_templates

    file = own_templates(config.data.path)
    return config if file is None else config.with_({"head.templates": list(read_templates(str(file)))})
