"""Settings of prompts: a section for each method, listed in `PROMPTS`.

A section names the builder of its module, so settings can be read without torch, and a run imports only its own method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from vpt.config.base import MANY, Sentence
from vpt.config.prompts_base import ClipPrompt, Layers, PromptSection, TokenPrompt, WithLayers, WithTokens
from vpt.config.prompts_clip import (
    ClipLoraPrompt,
    MmrlPlusPrompt,
    MmrlPrompt,
    ProgradPrompt,
    TaskresPrompt,
    TcpPrompt,
)
from vpt.config.prompts_image import Sa2vpPrompt, ShipPrompt, TcpaPrompt, ViaptPrompt
from vpt.config.registry import Registry

WORDS = "words whose embeddings initialise the context; null: random initialisation"


class NoPrompt(PromptSection):
    """No prompt: the input of the head is the backbone's own features (linear probe)."""

    kind: Literal["none"] = "none"


class _VptTokens(WithTokens):
    any_widths: ClassVar[bool] = True
    project: int | None = Field(
        None, ge=1, le=65_536, description="bottleneck width: tokens have it and are projected by one linear layer"
    )
    init: Literal["uniform", "sample", "mean", "max", "kmeans", "vipamin"] = Field(
        "uniform",
        description="initialisation: uniform (VPT); sample, mean, max, kmeans: patch tokens of training images (SPT); "
        "vipamin",
    )
    nearest: int = Field(8, ge=1, le=MANY, description="init=vipamin: patches averaged for each prompt")
    expand: float = Field(
        0.5, ge=0, le=1, description="init=vipamin: weight of the component orthogonal to the frozen features"
    )
    after: Literal["carry", "drop", "insert"] = Field(
        "carry",
        description="in layers after a prompted one: carry its prompt outputs, drop them, or insert the tokens again",
    )

    @property
    def needs_images(self) -> bool:
        """Whether the tokens are initialised from training images."""
        return self.init != "uniform" or super().needs_images

    @model_validator(mode="after")
    def _start_fits(self) -> _VptTokens:
        if self.init != "uniform" and self.project is not None:
            raise ValueError(f"init={self.init} needs tokens of the backbone's width; leave out prompt.project")
        return self


class ShallowPrompt(_VptTokens):
    """Tokens inserted before the first layer and kept in all others (VPT-Shallow, Jia et al. 2022, section 3.2)."""

    kind: Literal["shallow"] = "shallow"
    make: ClassVar[str] = "vpt.prompts.visual.vpt:build_shallow"


class DeepPrompt(_VptTokens, WithLayers):
    """New tokens inserted before every prompted layer (VPT-Deep, Jia et al. 2022, section 3.2)."""

    kind: Literal["deep"] = "deep"
    make: ClassVar[str] = "vpt.prompts.visual.vpt:build_deep"
    shared: bool = Field(False, description="one set of tokens for every prompted layer")


class VfptPrompt(WithTokens, WithLayers):
    """VPT-Deep with a fraction of its tokens Fourier-transformed (VFPT, Zeng et al. 2024)."""

    kind: Literal["vfpt"] = "vfpt"
    make: ClassVar[str] = "vpt.prompts.visual.vfpt:FourierPrompts.from_config"
    fourier: float = Field(0.5, ge=0, le=1, description="fraction of the tokens that are transformed")


class E2vptPrompt(WithTokens, WithLayers):
    """VPT-Deep with key-value prompts and optional pruning after a first round of training (E2VPT, Han et al. 2023)."""

    kind: Literal["e2vpt"] = "e2vpt"
    make: ClassVar[str] = "vpt.prompts.visual.e2vpt:EffectivePrompts.from_config"
    kv_tokens: int = Field(5, ge=1, le=10_000, description="key-value prompts per prompted layer")
    share_kv: bool = Field(True, description="use one tensor as keys and values")
    prune_tokens: float = Field(0.0, ge=0, lt=1, description="fraction of tokens pruned; at least one is kept")
    prune_segments: float = Field(
        0.0, ge=0, le=0.75, description="fraction of the 16 segments of every token pruned; at least four are kept"
    )


class CvptPrompt(WithTokens, WithLayers):
    """Cross-attention to prompts after self-attention (CVPT, Huang et al. 2024)."""

    kind: Literal["cvpt"] = "cvpt"
    make: ClassVar[str] = "vpt.prompts.visual.cvpt:CrossPrompts.from_config"


class VaptPrompt(WithTokens):
    """Prompts computed from the image's own patches (VAPT, Le et al. 2025)."""

    kind: Literal["vapt"] = "vapt"
    make: ClassVar[str] = "vpt.prompts.visual.vapt:AdaptivePrompts.from_config"
    kernel: int = Field(2, ge=1, le=64, description="side of the shared convolution, in patches")
    bottleneck: int = Field(8, ge=1, le=65_536, description="width of the projector shared by all layers")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout on the computed prompts")


class GatedPrompt(WithTokens):
    """Shallow prompts with a gate after every layer and learnable temperatures (Yoo et al. 2023)."""

    kind: Literal["gated"] = "gated"
    make: ClassVar[str] = "vpt.prompts.visual.gated:GatedPrompts.from_config"
    gate: float = Field(5.0, ge=-MANY, le=MANY, description="gates start at a logit of minus this value")
    temperature: bool = Field(True, description="learn an attention temperature for every layer")


class BptPrompt(WithTokens, WithLayers):
    """Prompts as a product of two low-rank matrices (BPT, Wang et al. 2025)."""

    kind: Literal["bpt"] = "bpt"
    make: ClassVar[str] = "vpt.prompts.visual.bpt:BilinearPrompts.from_config"
    tokens: int = Field(100, ge=1, le=10_000, description="prompt tokens per prompted layer")
    rank: int = Field(75, ge=1, le=65_536, description="rank: number of columns of both matrices")
    init: Literal["uniform", "whitening"] = Field(
        "uniform",
        description="initialisation of the second matrix: Xavier uniform (the paper's main setting), whitening",
    )
    layers: Layers = Field("first:1", description="'all', 'first:N', 'last:N' or a list, counted from 0")

    @property
    def needs_images(self) -> bool:
        """Whether the second matrix is initialised from training images."""
        return self.init != "uniform" or super().needs_images


class DavptPrompt(WithTokens):
    """VPT-Deep with tokens that stand for groups of classes, by a metric loss (DA-VPT, Ren et al. 2025)."""

    kind: Literal["davpt"] = "davpt"
    make: ClassVar[str] = "vpt.prompts.visual.davpt:DistributionPrompts"
    init_images: ClassVar[int] = 512
    layers: Layers = Field("all", description="'all', 'first:N', 'last:N' or a list, counted from 0")
    guided: Layers = Field("last:1", description="layers whose tokens stand for groups of classes, as in layers")
    guided_tokens: int = Field(
        10, ge=1, le=10_000, description="tokens of guided layers that stand for groups; at most all"
    )
    patch_weight: float = Field(0.01, ge=0, le=MANY, description="loss weight between tokens and the mean patch token")
    class_weight: float = Field(0.01, ge=0, le=MANY, description="loss weight between tokens and the class token")
    scale: float = Field(32.0, gt=0, le=1000, description="scale of the metric loss")
    margin: float = Field(0.1, ge=0, le=2, description="margin of the metric loss")
    form: Literal["released", "paper"] = Field(
        "released", description="of the metric loss: as in the released code, whose weights these are, or in the paper"
    )
    value_bias: bool = Field(False, description="train biases of the values in every layer (DA-VPT+)")

    @property
    def needs_classes(self) -> bool:
        """Tokens stand for groups of classes."""
        return True

    @property
    def needs_images(self) -> bool:
        """Classes are grouped by training images."""
        return True


class VqtPrompt(WithTokens):
    """Query-only tokens that read every layer of an unchanged backbone (VQT, Tu et al. 2023)."""

    kind: Literal["vqt"] = "vqt"
    make: ClassVar[str] = "vpt.prompts.visual.vqt:QueryPrompts"
    adds_features: ClassVar[bool] = True
    layers: Layers = Field("all", description="'all', 'first:N', 'last:N' or a list, counted from 0")
    tokens: int = Field(1, ge=1, le=1000, description="query tokens per layer; the head reads all of their outputs")
    keep_features: float = Field(1.0, gt=0, le=1, description="fraction of features that a head fitted later keeps")
    feature_penalty: float = Field(1e-4, ge=0, le=MANY, description="group penalty of the head that ranks features")


class ProvptPrompt(WithTokens):
    """VPT-Deep whose tokens move between layers during training (PRO-VPT, Shang et al. 2025)."""

    kind: Literal["provpt"] = "provpt"
    make: ClassVar[str] = "vpt.prompts.visual.provpt:RelocatedPrompts"
    layers: Layers = Field("all", description="'all', 'first:N', 'last:N' or a list, counted from 0")
    policy: Literal["ppo", "thompson"] = Field(
        "ppo", description="chooses the layer that gets a token: proximal policy optimisation, or Thompson sampling"
    )


class AdapterPrompt(TokenPrompt):
    """No tokens, but a bottleneck beside or after the MLP of every layer (AdaptFormer, Chen et al. 2022)."""

    kind: Literal["adapter"] = "adapter"
    make: ClassVar[str] = "vpt.prompts.visual.adapter:AdapterPrompts"
    layers: Layers = Field("all", description="'all', 'first:N', 'last:N' or a list, counted from 0")
    rank: int = Field(8, ge=1, le=65_536, description="width of the bottleneck")
    place: Literal["beside", "after"] = Field(
        "beside", description="beside the MLP (AdaptFormer), or after it (the adapter of VPT's paper)"
    )
    scale: float | None = Field(
        None, ge=-MANY, le=MANY, description="factor of its output; default: 0.1 beside the MLP, 1 after it"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout inside the bottleneck")


class PixelPrompt(PromptSection):
    """Learnable pixels added to the image, for any backbone (Bahng et al. 2022 and after)."""

    kind: Literal["pixel"] = "pixel"
    make: ClassVar[str] = "vpt.prompts.pixel.prompt:PixelPrompts"
    shape: Literal["pad", "patch", "random_patch", "full", "lowrank"] = Field(
        "pad",
        description="a frame, a patch in the corner, one at a random place, the whole image, or the whole image as a "
        "product of two matrices for each colour (LoR-VP, Jin et al. 2025)",
    )
    size: int = Field(30, ge=1, le=4096, description="width of the frame or side of the patch in pixels")
    rank: int = Field(4, ge=1, le=4096, description="shape=lowrank: rank of the product")
    shrink: bool = Field(False, description="shape=pad: shrink the image to fit inside the frame")
    learn_scale: bool = Field(False, description="with shrink: learn the image's size inside the frame (AutoVP)")
    space: Literal["raw", "normalised"] = Field(
        "raw", description="add the prompt to pixels from 0 to 1 (raw), or after normalisation"
    )
    squash: Literal["none", "sigmoid", "clamp"] = Field(
        "none", description="none; sigmoid of the prompt; clamp the prompted image to valid pixels"
    )
    init: Literal["zeros", "normal"] = Field("zeros", description="initialisation: zeros, or normal (standard normal)")

    @model_validator(mode="after")
    def _fits(self) -> PixelPrompt:
        if self.shrink and self.shape != "pad":
            raise ValueError(f"shrink puts the image inside a frame; use shape=pad, not shape={self.shape}")
        if self.learn_scale and not self.shrink:
            raise ValueError("learn_scale learns the size of a shrunk image; set shrink=true")
        if self.shape == "lowrank" and self.init != "zeros":
            raise ValueError("shape=lowrank starts from zero; leave out init")
        return self


class _Words(ClipPrompt):
    words: Sentence | None = Field(None, description=WORDS)


class CoopPrompt(_Words):
    """Learned context in the text of a CLIP's class names (CoOp, Zhou et al. 2022)."""

    kind: Literal["coop"] = "coop"
    make: ClassVar[str] = "vpt.prompts.clip.learners:Coop"
    tokens: int = Field(16, ge=1, le=64, description="context tokens M")
    position: Literal["end", "middle", "front"] = Field("end", description="position of the class name")
    class_specific: bool = Field(False, description="a separate context for every class")

    @property
    def has_own_classes(self) -> bool:
        """Whether every class has a context."""
        return self.class_specific


class CocoopPrompt(_Words):
    """A context that depends on the image (CoCoOp, Zhou et al. 2022)."""

    kind: Literal["cocoop"] = "cocoop"
    make: ClassVar[str] = "vpt.prompts.clip.learners:Cocoop"
    tokens: int = Field(4, ge=1, le=64, description="context tokens M")
    words: Sentence | None = Field("a photo of a", description=WORDS)
    chunk: int = Field(4, ge=1, le=256, description="images whose texts are computed at once; limits memory")


class KgcoopPrompt(_Words):
    """CoOp regularised towards the text features of a fixed template (KgCoOp, Yao et al. 2023)."""

    kind: Literal["kgcoop"] = "kgcoop"
    make: ClassVar[str] = "vpt.prompts.clip.learners:Kgcoop"
    objective: ClassVar[str] = "vpt.training.regularizers:knowledge_guided"
    tokens: int = Field(4, ge=1, le=64, description="context tokens M")
    words: Sentence | None = Field("a photo of a", description=WORDS)
    weight: float = Field(
        8.0, ge=0, le=MANY, description="loss weight of one minus the mean cosine to the fixed text features"
    )


class IvlpPrompt(_Words):
    """Independent deep prompts in CLIP's image and text towers (IVLP)."""

    kind: Literal["ivlp"] = "ivlp"
    make: ClassVar[str] = "vpt.prompts.clip.learners:Ivlp"
    tokens: int = Field(4, ge=0, le=1000, description="prompt tokens of the image tower; 0: none")
    depth: int = Field(9, ge=1, le=1000, description="prompted layers of the image tower, the first ones")
    text_tokens: int = Field(4, ge=0, le=64, description="context tokens of the text tower; 0: none")
    text_depth: int = Field(9, ge=1, le=1000, description="prompted layers of the text tower, the first ones")
    words: Sentence | None = Field("a photo of a", description=WORDS)

    @property
    def replaces_templates(self) -> bool:
        """Only if the text tower has prompts."""
        return bool(self.text_tokens)

    @model_validator(mode="after")
    def _some(self) -> IvlpPrompt:
        if not self.tokens and not self.text_tokens:
            raise ValueError("tokens and text_tokens are both 0; give one of them")
        return self


class MaplePrompt(_Words):
    """Deep text prompts, and image prompts that are linear projections of them (MaPLe, Khattak et al. 2023)."""

    kind: Literal["maple"] = "maple"
    make: ClassVar[str] = "vpt.prompts.clip.learners:Maple"
    tokens: int = Field(2, ge=1, le=64, description="prompt tokens of each tower")
    depth: int = Field(9, ge=1, le=1000, description="prompted layers of each tower, the first ones")
    words: Sentence | None = Field("a photo of a", description=WORDS)


class PromptsrcPrompt(IvlpPrompt):
    """IVLP regularised towards the frozen model's features and scores (PromptSRC, Khattak et al. 2023)."""

    kind: Literal["promptsrc"] = "promptsrc"  # type: ignore[assignment]
    objective: ClassVar[str] = "vpt.training.regularizers:self_regulating"
    source_templates: ClassVar[int] = 60  # text features are regularised towards their mean
    image_weight: float = Field(
        10.0, ge=0, le=MANY, description="loss weight of the mean absolute difference of image features"
    )
    text_weight: float = Field(
        25.0, ge=0, le=MANY, description="loss weight of the mean absolute difference of text features"
    )
    score_weight: float = Field(1.0, ge=0, le=MANY, description="loss weight of the KL divergence of scores")

    @property
    def replaces_templates(self) -> bool:
        """Always: without text prompts the texts use the method's own templates."""
        return True


class TptPrompt(_Words):
    """A context tuned on views of every test image, without training (TPT, Shu et al. 2022)."""

    kind: Literal["tpt"] = "tpt"
    make: ClassVar[str] = "vpt.prompts.clip.learners:Tpt"
    tokens: int = Field(4, ge=1, le=64, description="context tokens M")
    words: Sentence | None = Field("a photo of a", description=WORDS)
    views: int = Field(64, ge=2, le=512, description="views of an image, including the unaugmented one")
    share: float = Field(0.1, gt=0, le=1, description="fraction of views used, the most confident ones")
    lr: float = Field(5e-3, gt=0, le=MANY, description="learning rate, restarted for each image")
    steps: int = Field(1, ge=1, le=100, description="AdamW steps for each image")
    augmix: bool = Field(False, description="augment views by AugMix (as in the paper, except on ImageNet)")


PROMPTS: Registry[PromptSection] = Registry(
    "prompt",
    "vpt.prompts",
    PromptSection,
    [
        NoPrompt,
        ShallowPrompt,
        DeepPrompt,
        VfptPrompt,
        E2vptPrompt,
        CvptPrompt,
        VaptPrompt,
        GatedPrompt,
        BptPrompt,
        DavptPrompt,
        VqtPrompt,
        ProvptPrompt,
        TcpaPrompt,
        ViaptPrompt,
        ShipPrompt,
        Sa2vpPrompt,
        AdapterPrompt,
        PixelPrompt,
        CoopPrompt,
        CocoopPrompt,
        KgcoopPrompt,
        IvlpPrompt,
        MaplePrompt,
        PromptsrcPrompt,
        TptPrompt,
        TaskresPrompt,
        ClipLoraPrompt,
        ProgradPrompt,
        TcpPrompt,
        MmrlPrompt,
        MmrlPlusPrompt,
    ],
)

if TYPE_CHECKING:
    Prompt = PromptSection
else:
    Prompt = PROMPTS.annotation("deep")
