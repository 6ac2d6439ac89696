"""vpt: visual prompt tuning for frozen vision transformers.

    import vpt

    result = vpt.train(vpt.load_config(overrides=["data=photos", "prompt=deep"]))
    for found in vpt.load(result.artifact).predict("new/*.jpg"):
        print(found.image, found.top, found.score)

Public names are loaded when they are first used, so that `import vpt` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vpt.bank.bank import Bank
    from vpt.config import RunConfig, load_config
    from vpt.errors import UserError
    from vpt.evaluation import evaluate
    from vpt.predict import Predictor, load
    from vpt.report.build import write_report
    from vpt.results import Classification, Detections
    from vpt.run import resume, train
    from vpt.runfolder import TrainResult
    from vpt.together import train_together
    from vpt.wrapped import Wrapped, load_prompt, wrap

_HOME = {
    "Bank": "vpt.bank.bank",
    "Classification": "vpt.results",
    "Detections": "vpt.results",
    "Predictor": "vpt.predict",
    "RunConfig": "vpt.config",
    "TrainResult": "vpt.runfolder",
    "UserError": "vpt.errors",
    "Wrapped": "vpt.wrapped",
    "evaluate": "vpt.evaluation",
    "load": "vpt.predict",
    "load_config": "vpt.config",
    "load_prompt": "vpt.wrapped",
    "resume": "vpt.run",
    "train": "vpt.run",
    "train_together": "vpt.together",
    "wrap": "vpt.wrapped",
    "write_report": "vpt.report.build",
}
__all__ = [
    "Bank",
    "Classification",
    "Detections",
    "Predictor",
    "RunConfig",
    "TrainResult",
    "UserError",
    "Wrapped",
    "evaluate",
    "load",
    "load_config",
    "load_prompt",
    "resume",
    "train",
    "train_together",
    "wrap",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from vpt.version import own_version

        return own_version()
    if name not in _HOME:
        raise AttributeError(f"module 'vpt' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
