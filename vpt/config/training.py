"""Settings of training: optimiser, schedule, precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from vpt.config.base import ALWAYS_LISTED, LISTED, MANY, Section, short
from vpt.config.losses import CrossEntropyLoss, Loss
from vpt.utils.precision import Precision


class PerRole(Section):
    """A number for each role a parameter can have."""

    prompt: float = Field(
        ge=0, le=1e38, description="of prompt tokens; default where the head starts from a probe: 0.005"
    )
    pixels: float = Field(ge=0, le=1e38, description="of pixel prompts")
    head: float = Field(
        ge=0, le=1e38, description="of the head; default where it starts from a probe: 0.001, without decay"
    )
    bias: float = Field(
        ge=0,
        le=1e38,
        description="of the backbone's biases under tuning=bias; default where the head starts from a probe: 0.01",
    )
    lora: float = Field(
        ge=0,
        le=1e38,
        description="of the matrices under tuning=lora; default where the head starts from a probe: 0.003",
    )
    backbone: float = Field(ge=0, le=1e38, description="of every backbone weight under tuning=full")


class _ByRole(Section):
    """An optimiser whose rates are one number for all roles, or a number for each role that is named."""

    @model_validator(mode="before")
    @classmethod
    def _fill_roles(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        filled = dict(value)
        for name in ("lr", "weight_decay"):
            given = filled.get(name)
            if isinstance(given, int | float) and not isinstance(given, bool):
                filled[name] = dict.fromkeys(PerRole.model_fields, given)
            elif isinstance(given, Mapping):
                filled[name] = {**cls.model_fields[name].default.model_dump(), **given}
        return filled


_Beta = Annotated[float, Field(ge=0, lt=1)]
# JSON knows no tuples.
_Betas = Annotated[
    tuple[_Beta, _Beta], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
]


class AdamWConfig(_ByRole):
    """AdamW (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    lr: PerRole = PerRole(prompt=2.5e-3, pixels=1e-2, head=1e-2, bias=1e-3, lora=1e-3, backbone=5e-5)
    weight_decay: PerRole = PerRole(prompt=0.0, pixels=0.0, head=1e-2, bias=0.0, lora=0.0, backbone=1e-2)
    betas: _Betas = Field((0.9, 0.999), description="how fast the running means forget")
    eps: float = Field(1e-8, gt=0, le=1, description="added to the root of the second moment")


class SgdConfig(_ByRole):
    """SGD with momentum, as in the VPT paper."""

    kind: Literal["sgd"] = "sgd"
    lr: PerRole = PerRole(prompt=0.5, pixels=10.0, head=0.1, bias=0.05, lora=0.05, backbone=0.005)
    weight_decay: PerRole = PerRole(prompt=1e-4, pixels=0.0, head=1e-4, bias=0.0, lora=1e-4, backbone=1e-4)
    momentum: float = Field(0.9, ge=0, lt=1, description="share of the last step that is kept")


Optimizer = Annotated[AdamWConfig | SgdConfig, Field(discriminator="kind"), short("kind", "adamw")]


class AverageConfig(Section):
    """Gaussian weights over epochs counted from 1; the artifact holds the mean (Khattak et al. 2023, section 3.2.2)."""

    mean: float = Field(15.0, ge=-MANY, le=MANY, description="epoch that counts most")
    std: float = Field(1.0, gt=0, le=MANY, description="in epochs")


_Weight = Annotated[float, Field(ge=-MANY, le=MANY)]


class TrainConfig(Section):
    """How the learnable part is trained."""

    epochs: int | None = Field(
        None,
        ge=1,
        le=MANY,
        description="default: enough for 20 steps times the root of the number of training images (at least 5, at most "
        "100 epochs) where the head starts from a probe, else for 500 steps (at least 10, at most 100 epochs)",
    )
    batch_size: int = Field(
        32,
        ge=1,
        le=65_536,
        description="images per optimiser step, all accumulation passes together; default where the head starts from a "
        "probe: 16",
    )
    accumulate: int = Field(1, ge=1, le=65_536, description="passes a step is split into, to save memory")
    drop_last: bool = Field(
        False, description="leave out the last batch of an epoch if it is not full and not the only one (Dassl)"
    )
    drop_path: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="stochastic depth in the frozen backbone while training: how often the branches of the last layer "
        "are left out; it rises linearly from 0 in the first",
    )
    optimizer: Optimizer = AdamWConfig()
    recompute: bool = Field(
        False, description="gradient checkpointing: layers are computed again on the way back, for less memory"
    )
    shard: bool = Field(
        False, description="under torchrun, each process holds a slice of the frozen backbone; for one too large"
    )
    compile: Literal["auto", "none", "default", "max-autotune"] = Field(
        "auto",
        description="auto: on a GPU the pass of a ViT is recorded once as a CUDA graph and replayed; none: it is not; "
        "default, max-autotune: its layers are compiled first, in that mode of torch.compile",
    )
    schedule: Literal["cosine", "constant", "steps", "epochs"] = Field(
        "cosine",
        description="after the warm-up; steps: a tenth at each of `milestones`; epochs: the first epoch at 1e-5, then "
        "a cosine from epoch to epoch (CoOp and its successors)",
    )
    milestones: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], ALWAYS_LISTED] = Field(
        default_factory=lambda: [0.5, 0.72], max_length=1000, description="schedule=steps: shares of the run"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps spent warming up")
    loss: Loss = CrossEntropyLoss()
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of a label that is spread over all classes")
    class_weights: Annotated[
        Literal["none", "balanced"] | Annotated[list[_Weight], Field(max_length=100_000)], LISTED
    ] = Field("none", description="of the loss: none, balanced (rare classes weigh more), or a number for each class")
    clip_norm: float | None = Field(1.0, gt=0, le=1e12, description="largest gradient norm; null: no clipping")
    precision: Precision = Field("auto", description="auto: bf16 on a GPU, else fp32")
    device: str = Field("auto", max_length=40, description="auto, cpu, cuda, cuda:1, mps")
    patience: int | None = Field(
        None,
        ge=1,
        le=MANY,
        description="validations without a better score before stopping; there is one every `eval_every` epochs",
    )
    keep: Literal["best", "last"] = Field("best", description="which epoch's weights the artifact holds")
    average: AverageConfig | None = Field(None, description="mean of the weights of all epochs (PromptSRC)")
    eval_every: int | None = Field(
        None,
        ge=1,
        le=MANY,
        description="epochs between validations; default: as many as give five or six validations where the head "
        "starts from a probe, else 1",
    )
    checkpoint_minutes: float = Field(1.0, ge=0, le=1e12, description="minutes between checkpoints inside an epoch")
    seed: int = Field(0, ge=0, lt=2**32, description="of weights, order of the images, augmentation and dropout")

    @model_validator(mode="after")
    def _whole_passes(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size={self.batch_size} must be a multiple of accumulate={self.accumulate}")
        if self.average is not None and self.patience is not None:
            raise ValueError("average needs every epoch; leave out patience")
        return self
