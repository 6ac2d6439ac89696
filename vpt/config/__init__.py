"""Configuration: typed sections, validated as a whole. A file a section; `run` puts them together, `load` reads them.

Sources are merged in this order: defaults, a YAML file, `key=value` words from the command line.
"""

from vpt.config.backbone import BackboneConfig
from vpt.config.data import DataConfig
from vpt.config.head import Head, LabelMapHead, LinearHead, MlpHead, Pool
from vpt.config.load import load_config, parse_overrides, read_yaml
from vpt.config.prompt import (
    BptPrompt,
    CvptPrompt,
    DeepPrompt,
    E2vptPrompt,
    GatedPrompt,
    NoPrompt,
    PixelPrompt,
    Prompt,
    ShallowPrompt,
    TokenPrompt,
    VaptPrompt,
    VfptPrompt,
)
from vpt.config.run import RunConfig
from vpt.config.section import Section
from vpt.config.training import AdamWConfig, Optimizer, PerRole, SgdConfig, TrainConfig
from vpt.config.tuning import BiasTuning, FrozenTuning, FullTuning, LoraTuning, Tuning

__all__ = [
    "AdamWConfig",
    "BackboneConfig",
    "BiasTuning",
    "BptPrompt",
    "CvptPrompt",
    "DataConfig",
    "DeepPrompt",
    "E2vptPrompt",
    "FrozenTuning",
    "FullTuning",
    "GatedPrompt",
    "Head",
    "LabelMapHead",
    "LinearHead",
    "LoraTuning",
    "MlpHead",
    "NoPrompt",
    "Optimizer",
    "PerRole",
    "PixelPrompt",
    "Pool",
    "Prompt",
    "RunConfig",
    "Section",
    "SgdConfig",
    "ShallowPrompt",
    "TokenPrompt",
    "TrainConfig",
    "Tuning",
    "VaptPrompt",
    "VfptPrompt",
    "load_config",
    "parse_overrides",
    "read_yaml",
]
