"""vpt: visual prompt tuning for frozen vision transformers.

    import vpt

    result = vpt.train(data="photos", epochs=20)
    for found in vpt.load(result.artifact).predict("new/*.jpg"):
        print(found.image, found.top, found.score)

Public names are loaded when they are first used, so that `import vpt` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vpt.config import RunConfig, load_config
    from vpt.inference.add_class import add_class
    from vpt.inference.bank.bank import Bank
    from vpt.inference.classification import Classification
    from vpt.inference.evaluate import evaluate
    from vpt.inference.predictor import Predictor, load
    from vpt.inference.regression import NumberResult
    from vpt.inference.results import Detections
    from vpt.inference.segmentation import Segmentation
    from vpt.models.combine import average
    from vpt.models.wrap import load_prompt, wrap
    from vpt.models.wrapped import Wrapped
    from vpt.report.build import write_report
    from vpt.training.run import resume, train
    from vpt.training.run_folder import TrainResult
    from vpt.training.train_together import train_together
    from vpt.utils.errors import UserError

_HOME = {
    "Bank": "vpt.inference.bank.bank",
    "Classification": "vpt.inference.classification",
    "Detections": "vpt.inference.results",
    "NumberResult": "vpt.inference.regression",
    "Predictor": "vpt.inference.predictor",
    "RunConfig": "vpt.config",
    "Segmentation": "vpt.inference.segmentation",
    "TrainResult": "vpt.training.run_folder",
    "UserError": "vpt.utils.errors",
    "Wrapped": "vpt.models.wrapped",
    "add_class": "vpt.inference.add_class",
    "average": "vpt.models.combine",
    "evaluate": "vpt.inference.evaluate",
    "load": "vpt.inference.predictor",
    "load_config": "vpt.config",
    "load_prompt": "vpt.models.wrap",
    "resume": "vpt.training.run",
    "train": "vpt.training.run",
    "train_together": "vpt.training.train_together",
    "wrap": "vpt.models.wrap",
    "write_report": "vpt.report.build",
}
__all__ = [
    "Bank",
    "Classification",
    "Detections",
    "NumberResult",
    "Predictor",
    "RunConfig",
    "Segmentation",
    "TrainResult",
    "UserError",
    "Wrapped",
    "add_class",
    "average",
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
        from vpt.utils.version import own_version

        return own_version()
    if name not in _HOME:
        raise AttributeError(f"module 'vpt' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
