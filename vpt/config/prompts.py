"""Settings of prompts: a section for each method, and `PROMPTS`, which lists them.

A section names what builds its module, so that settings are read without torch and a run imports its own method alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from vpt.config.base import LISTED, MANY, Section, Sentence
from vpt.config.registry import KindSection, Registry
from vpt.utils.plugins import imported

# 'all', 'first:N', 'last:N' or numbers of layers
Layers = Annotated[
    Annotated[str, Field(max_length=40)]
    | Annotated[list[Annotated[int, Field(ge=-1000, le=1000)]], Field(max_length=1000)],
    LISTED,
]
WORDS = "context starts from the embeddings of these words; null: from random numbers"


class PromptSection(KindSection):
    """Base of the settings of every prompt."""

    @property
    def needs_images(self) -> bool:
        """Whether `initialize` of the prompt takes training images."""
        return False


class TokenPrompt(PromptSection):
    """Base of the settings of token prompts: `build(shape)` makes the `TokenPrompts` for a backbone of this shape."""

    def build(self, shape: Any) -> Any:
        """The `vpt.prompts.base.TokenPrompts` for a backbone.

        Args:
            shape: of the backbone, a `vpt.prompts.base.Shape`.
        """
        return super().build(shape)


class ClipPrompt(PromptSection):
    """Base of the settings of prompts among the words of a CLIP's class names.

    `make` names a class with `build` and `skeleton`; one of yours may override both methods here instead.
    """

    source_templates: ClassVar[int] = 0  # of CLIP's eighty, that the head's fixed texts are made of; 0: head.templates

    def build(self, backbone: Any, classes: Any) -> Any:
        """The `vpt.prompts.clip.learners.Learner` for a CLIP.

        Args:
            backbone: with its text tower.
            classes: names of the classes.
        """
        return imported(f"{self.make}.build")(self, backbone, classes)

    def skeleton(self, backbone: Any, classes: Any) -> Any:
        """A `Learner` whose parameters have the names and shapes of those that `build` makes, for the meta device."""
        return imported(f"{self.make}.skeleton")(self, backbone, classes)

    @property
    def replaces_templates(self) -> bool:
        """Whether texts are made of a learned context, so that `head.templates` does nothing."""
        return True


class NoPrompt(PromptSection):
    """No prompt: the head reads the backbone's own features (linear probe)."""

    kind: Literal["none"] = "none"


class _Tokens(TokenPrompt):
    tokens: int = Field(10, ge=1, le=10_000, description="prompt tokens per prompted layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on prompt values, a mask for each image")


class _Layers(Section):
    layers: Layers = Field("all", description="'all', 'first:N', 'last:N' or a list, counted from 0")


class _VptTokens(_Tokens):
    project: int | None = Field(
        None, ge=1, le=65_536, description="bottleneck width: tokens live there, one linear map out"
    )
    init: Literal["uniform", "sample", "mean", "max", "kmeans", "vipamin"] = Field(
        "uniform",
        description="uniform (VPT); sample, mean, max, kmeans: patch tokens of the training images (SPT); vipamin",
    )
    nearest: int = Field(8, ge=1, le=MANY, description="init=vipamin: patches averaged for a prompt")
    expand: float = Field(0.5, ge=0, le=1, description="init=vipamin: share that leaves the space in use")
    after: Literal["carry", "drop", "insert"] = Field(
        "carry",
        description="layers past a prompted one: carry its prompt outputs, drop them, or insert again",
    )

    @property
    def needs_images(self) -> bool:
        """Whether the tokens start from training images."""
        return self.init != "uniform"

    @model_validator(mode="after")
    def _start_fits(self) -> _VptTokens:
        if self.init != "uniform" and self.project is not None:
            raise ValueError(f"init={self.init} takes tokens of the backbone's width; leave out prompt.project")
        return self


class ShallowPrompt(_VptTokens):
    """Tokens enter before the first layer and are carried on (VPT-Shallow, Jia et al. 2022, section 3.2)."""

    kind: Literal["shallow"] = "shallow"
    make: ClassVar[str] = "vpt.prompts.visual.vpt:build_shallow"


class DeepPrompt(_VptTokens, _Layers):
    """Fresh tokens before every prompted layer (VPT-Deep, Jia et al. 2022, section 3.2)."""

    kind: Literal["deep"] = "deep"
    make: ClassVar[str] = "vpt.prompts.visual.vpt:build_deep"
    shared: bool = Field(False, description="one set of tokens for every prompted layer")


class VfptPrompt(_Tokens, _Layers):
    """VPT-Deep with a share of its tokens Fourier-transformed (VFPT, Zeng et al. 2024)."""

    kind: Literal["vfpt"] = "vfpt"
    make: ClassVar[str] = "vpt.prompts.visual.vfpt:FourierPrompts.from_config"
    fourier: float = Field(0.5, ge=0, le=1, description="share of the tokens that are transformed")


class E2vptPrompt(_Tokens, _Layers):
    """VPT-Deep with key-value prompts, pruned after a first round of training if asked (E2VPT, Han et al. 2023)."""

    kind: Literal["e2vpt"] = "e2vpt"
    make: ClassVar[str] = "vpt.prompts.visual.e2vpt:EffectivePrompts.from_config"
    kv_tokens: int = Field(5, ge=1, le=10_000, description="key-value prompts per prompted layer")
    share_kv: bool = Field(True, description="one tensor serves as keys and as values")
    prune_tokens: float = Field(0.0, ge=0, lt=1, description="share of tokens pruned; at least one stays")
    prune_segments: float = Field(
        0.0, ge=0, le=0.75, description="share of the 16 segments of every token pruned; at least four stay"
    )


class CvptPrompt(_Tokens, _Layers):
    """Cross-attention to prompts after self-attention (CVPT, Huang et al. 2024)."""

    kind: Literal["cvpt"] = "cvpt"
    make: ClassVar[str] = "vpt.prompts.visual.cvpt:CrossPrompts.from_config"


class VaptPrompt(_Tokens):
    """Prompts made from the image's own patches (VAPT, Le et al. 2025)."""

    kind: Literal["vapt"] = "vapt"
    make: ClassVar[str] = "vpt.prompts.visual.vapt:AdaptivePrompts.from_config"
    kernel: int = Field(2, ge=1, le=64, description="side of the shared convolution, in patches")
    bottleneck: int = Field(8, ge=1, le=65_536, description="width of the projector that all layers share")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout on the prompts that are made")


class GatedPrompt(_Tokens):
    """Shallow prompts with a gate behind every layer and learnable temperatures (Yoo et al. 2023)."""

    kind: Literal["gated"] = "gated"
    make: ClassVar[str] = "vpt.prompts.visual.gated:GatedPrompts.from_config"
    gate: float = Field(5.0, ge=-MANY, le=MANY, description="minus the gates' logit at the start")
    temperature: bool = Field(True, description="learn an attention temperature for every layer")


class BptPrompt(_Tokens, _Layers):
    """Prompts as a product of two thin matrices (BPT, Wang et al. 2025)."""

    kind: Literal["bpt"] = "bpt"
    make: ClassVar[str] = "vpt.prompts.visual.bpt:BilinearPrompts.from_config"
    tokens: int = Field(100, ge=1, le=10_000, description="prompt tokens per prompted layer")
    rank: int = Field(75, ge=1, le=65_536, description="columns of either matrix")
    init: Literal["uniform", "whitening"] = Field(
        "uniform",
        description="initialisation of the second matrix: Xavier uniform (the paper's main setting), whitening",
    )
    layers: Layers = Field("first:1", description="'all', 'first:N', 'last:N' or a list, counted from 0")

    @property
    def needs_images(self) -> bool:
        """Whether the second matrix starts from training images."""
        return self.init != "uniform"


class PixelPrompt(PromptSection):
    """Learnable pixels added to the image, for any backbone (Bahng et al. 2022 and after)."""

    kind: Literal["pixel"] = "pixel"
    make: ClassVar[str] = "vpt.prompts.pixel.prompt:PixelPrompts"
    shape: Literal["pad", "patch", "random_patch", "full"] = Field(
        "pad", description="a frame, a patch in the corner, one at a random place, or the whole image"
    )
    size: int = Field(30, ge=1, le=4096, description="width of the frame or side of the patch, in pixels")
    shrink: bool = Field(False, description="shape=pad: the image is shrunk to stand inside the frame")
    learn_scale: bool = Field(False, description="with shrink: the image's size inside the frame is learned (AutoVP)")
    space: Literal["raw", "normalised"] = Field("raw", description="added to pixels from 0 to 1, or after normalising")
    squash: Literal["none", "sigmoid", "clamp"] = Field(
        "none", description="none; sigmoid of the prompt; or the prompted image is clamped to valid pixels"
    )
    init: Literal["zeros", "normal"] = Field("zeros", description="normal: standard normal numbers")

    @model_validator(mode="after")
    def _fits(self) -> PixelPrompt:
        if self.shrink and self.shape != "pad":
            raise ValueError(f"shrink puts the image inside a frame; use shape=pad, not shape={self.shape}")
        if self.learn_scale and not self.shrink:
            raise ValueError("learn_scale learns the size of a shrunk image; set shrink=true")
        return self


class _Words(ClipPrompt):
    words: Sentence | None = Field(None, description=WORDS)


class CoopPrompt(_Words):
    """Learned context among the words of a CLIP's class names (CoOp, Zhou et al. 2022)."""

    kind: Literal["coop"] = "coop"
    make: ClassVar[str] = "vpt.prompts.clip.learners:Coop"
    tokens: int = Field(16, ge=1, le=64, description="context tokens M")
    position: Literal["end", "middle", "front"] = Field("end", description="where the class name stands")
    class_specific: bool = Field(False, description="a context of its own for every class")


class CocoopPrompt(_Words):
    """A context that depends on the image (CoCoOp, Zhou et al. 2022)."""

    kind: Literal["cocoop"] = "cocoop"
    make: ClassVar[str] = "vpt.prompts.clip.learners:Cocoop"
    tokens: int = Field(4, ge=1, le=64, description="context tokens M")
    words: Sentence | None = Field("a photo of a", description=WORDS)
    chunk: int = Field(4, ge=1, le=256, description="images whose texts are computed at a time; bounds memory")


class KgcoopPrompt(_Words):
    """CoOp held near the text features of a fixed template (KgCoOp, Yao et al. 2023)."""

    kind: Literal["kgcoop"] = "kgcoop"
    make: ClassVar[str] = "vpt.prompts.clip.learners:Kgcoop"
    tokens: int = Field(4, ge=1, le=64, description="context tokens M")
    words: Sentence | None = Field("a photo of a", description=WORDS)
    weight: float = Field(8.0, ge=0, le=MANY, description="of one minus the mean cosine to the fixed text features")


class IvlpPrompt(_Words):
    """Deep prompts in CLIP's image tower and in its text tower, independent of each other (IVLP)."""

    kind: Literal["ivlp"] = "ivlp"
    make: ClassVar[str] = "vpt.prompts.clip.learners:Ivlp"
    tokens: int = Field(4, ge=0, le=1000, description="prompt tokens of the image tower; 0: none")
    depth: int = Field(9, ge=1, le=1000, description="prompted layers of the image tower, the first ones")
    text_tokens: int = Field(4, ge=0, le=64, description="context tokens of the text tower; 0: none")
    text_depth: int = Field(9, ge=1, le=1000, description="prompted layers of the text tower, the first ones")
    words: Sentence | None = Field("a photo of a", description=WORDS)

    @property
    def replaces_templates(self) -> bool:
        """Only where the text tower has prompts."""
        return bool(self.text_tokens)

    @model_validator(mode="after")
    def _some(self) -> IvlpPrompt:
        if not self.tokens and not self.text_tokens:
            raise ValueError("tokens and text_tokens are both 0; give one of them")
        return self


class MaplePrompt(_Words):
    """Deep text prompts, and image prompts that are linear maps of them (MaPLe, Khattak et al. 2023)."""

    kind: Literal["maple"] = "maple"
    make: ClassVar[str] = "vpt.prompts.clip.learners:Maple"
    tokens: int = Field(2, ge=1, le=64, description="tokens of either tower")
    depth: int = Field(9, ge=1, le=1000, description="prompted layers of either tower, the first ones")
    words: Sentence | None = Field("a photo of a", description=WORDS)


class PromptsrcPrompt(IvlpPrompt):
    """IVLP held near the frozen model's features and scores (PromptSRC, Khattak et al. 2023)."""

    kind: Literal["promptsrc"] = "promptsrc"  # type: ignore[assignment]
    source_templates: ClassVar[int] = 60  # to whose mean it holds its text features
    image_weight: float = Field(10.0, ge=0, le=MANY, description="of the mean absolute difference of image features")
    text_weight: float = Field(25.0, ge=0, le=MANY, description="of the mean absolute difference of text features")
    score_weight: float = Field(1.0, ge=0, le=MANY, description="of the divergence of scores")

    @property
    def replaces_templates(self) -> bool:
        """Always: without text prompts the texts are those of its own templates."""
        return True


class TptPrompt(_Words):
    """The context is tuned on views of every test image; nothing is trained before (TPT, Shu et al. 2022)."""

    kind: Literal["tpt"] = "tpt"
    make: ClassVar[str] = "vpt.prompts.clip.learners:Tpt"
    tokens: int = Field(4, ge=1, le=64, description="context tokens M")
    words: Sentence | None = Field("a photo of a", description=WORDS)
    views: int = Field(64, ge=2, le=512, description="views of an image, the plain one included")
    share: float = Field(0.1, gt=0, le=1, description="share of views, the surest ones, that count")
    lr: float = Field(5e-3, gt=0, le=MANY, description="learning rate, for each image anew")
    steps: int = Field(1, ge=1, le=100, description="AdamW steps for each image")
    augmix: bool = Field(False, description="mix the views with mild changes (the paper's way on all but ImageNet)")


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
        PixelPrompt,
        CoopPrompt,
        CocoopPrompt,
        KgcoopPrompt,
        IvlpPrompt,
        MaplePrompt,
        PromptsrcPrompt,
        TptPrompt,
    ],
)

if TYPE_CHECKING:
    Prompt = PromptSection
else:
    Prompt = PROMPTS.annotation("deep")
