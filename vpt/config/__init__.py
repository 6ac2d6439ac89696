"""Configuration: typed sections, validated as a whole. Each section has a file; `run` combines them.

Sources are merged in this order: defaults, a YAML file, `key=value` words from the command line.
"""

from vpt.config.backbone import BackboneConfig
from vpt.config.base import Section
from vpt.config.data import DataConfig
from vpt.config.heads import (
    FeatureHead,
    Head,
    KnnHead,
    LabelMapHead,
    LinearHead,
    MemoryHead,
    MlpHead,
    OrdinalHead,
    Pool,
    PrototypeHead,
    RegressionHead,
    TipHead,
    ZeroShotHead,
)
from vpt.config.heads_base import HeadSection
from vpt.config.heads_detection import BoxHead, FasterHead, FcosHead, NativeHead, OwlHead, PyramidHead, RetinaHead
from vpt.config.heads_segmentation import FpnMaskHead, LinearMaskHead, MaskHead, QueryMaskHead
from vpt.config.losses import CoralLoss, CrossEntropyLoss, Loss, LossSection
from vpt.config.overrides import full_words, given_keys, key_of, load_config, parse_overrides, read_yaml
from vpt.config.plugins import use_plugin
from vpt.config.prompts import (
    AdapterPrompt,
    BptPrompt,
    CocoopPrompt,
    CoopPrompt,
    CvptPrompt,
    DavptPrompt,
    DeepPrompt,
    E2vptPrompt,
    GatedPrompt,
    IvlpPrompt,
    KgcoopPrompt,
    MaplePrompt,
    NoPrompt,
    PixelPrompt,
    Prompt,
    PromptsrcPrompt,
    ProvptPrompt,
    ShallowPrompt,
    TptPrompt,
    VaptPrompt,
    VfptPrompt,
    VqtPrompt,
)
from vpt.config.prompts_base import ClipPrompt, PromptSection, TokenPrompt
from vpt.config.prompts_image import TcpaPrompt
from vpt.config.run import RunConfig
from vpt.config.templates import names_a_file
from vpt.config.training import AdamWConfig, Optimizer, PerRole, SgdConfig, TrainConfig
from vpt.config.tuning import BiasTuning, FrozenTuning, FullTuning, LoraTuning, Tuning
from vpt.config.words import read_value, split_values, word

__all__ = [
    "AdamWConfig",
    "AdapterPrompt",
    "BackboneConfig",
    "BiasTuning",
    "BoxHead",
    "BptPrompt",
    "ClipPrompt",
    "CocoopPrompt",
    "CoopPrompt",
    "CoralLoss",
    "CrossEntropyLoss",
    "CvptPrompt",
    "DataConfig",
    "DavptPrompt",
    "DeepPrompt",
    "E2vptPrompt",
    "FasterHead",
    "FcosHead",
    "FeatureHead",
    "FpnMaskHead",
    "FrozenTuning",
    "FullTuning",
    "GatedPrompt",
    "Head",
    "HeadSection",
    "IvlpPrompt",
    "KgcoopPrompt",
    "KnnHead",
    "LabelMapHead",
    "LinearHead",
    "LinearMaskHead",
    "LoraTuning",
    "Loss",
    "LossSection",
    "MaplePrompt",
    "MaskHead",
    "MemoryHead",
    "MlpHead",
    "NativeHead",
    "NoPrompt",
    "Optimizer",
    "OrdinalHead",
    "OwlHead",
    "PerRole",
    "PixelPrompt",
    "Pool",
    "Prompt",
    "PromptSection",
    "PromptsrcPrompt",
    "PrototypeHead",
    "ProvptPrompt",
    "PyramidHead",
    "QueryMaskHead",
    "RegressionHead",
    "RetinaHead",
    "RunConfig",
    "Section",
    "SgdConfig",
    "ShallowPrompt",
    "TcpaPrompt",
    "TipHead",
    "TokenPrompt",
    "TptPrompt",
    "TrainConfig",
    "Tuning",
    "VaptPrompt",
    "VfptPrompt",
    "VqtPrompt",
    "ZeroShotHead",
    "full_words",
    "given_keys",
    "key_of",
    "load_config",
    "names_a_file",
    "parse_overrides",
    "read_value",
    "read_yaml",
    "split_values",
    "use_plugin",
    "word",
]
