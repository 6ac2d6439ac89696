"""Settings of training: optimiser, schedule, precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from vpt.config.base import ALWAYS_LISTED, LISTED, MANY, Section, short
from vpt.config.losses import CrossEntropyLoss, Loss
from vpt.utils.precision import Precision


class PerRole(Section):
    """A value for each role of a parameter."""

    prompt: float = Field(
        ge=0, le=1e38, description="for prompt tokens; default if the head is initialised by a probe: 0.005"
    )
    pixels: float = Field(ge=0, le=1e38, description="for pixel prompts")
    head: float = Field(
        ge=0, le=1e38, description="for the head; default if it is initialised by a probe: 0.001, without decay"
    )
    bias: float = Field(
        ge=0,
        le=1e38,
        description="for the backbone's biases with tuning=bias; default if the head is initialised by a probe: 0.01",
    )
    lora: float = Field(
        ge=0,
        le=1e38,
        description="for the matrices of tuning=lora; default if the head is initialised by a probe: 0.003",
    )
    backbone: float = Field(ge=0, le=1e38, description="for all backbone weights with tuning=full")


class _ByRole(Section):
    """An optimiser with one learning rate and weight decay for all roles, or a value for each role."""

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
# JSON has no tuples.
_Betas = Annotated[
    tuple[_Beta, _Beta], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
]


class AdamWConfig(_ByRole):
    """AdamW (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    lr: PerRole = PerRole(prompt=2.5e-3, pixels=1e-2, head=1e-2, bias=1e-3, lora=1e-3, backbone=5e-5)
    weight_decay: PerRole = PerRole(prompt=0.0, pixels=0.0, head=1e-2, bias=0.0, lora=0.0, backbone=1e-2)
    betas: _Betas = Field((0.9, 0.999), description="decay rates of the running averages")
    eps: float = Field(1e-8, gt=0, le=1, description="added to the denominator for numerical stability")


class SgdConfig(_ByRole):
    """SGD with momentum, as in the VPT paper."""

    kind: Literal["sgd"] = "sgd"
    lr: PerRole = PerRole(prompt=0.5, pixels=10.0, head=0.1, bias=0.05, lora=0.05, backbone=0.005)
    weight_decay: PerRole = PerRole(prompt=1e-4, pixels=0.0, head=1e-4, bias=0.0, lora=1e-4, backbone=1e-4)
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum factor")


Optimizer = Annotated[AdamWConfig | SgdConfig, Field(discriminator="kind"), short("kind", "adamw")]


class AverageConfig(Section):
    """Gaussian weights over epochs, counted from 1; the artifact has the mean (Khattak et al. 2023, section 3.2.2)."""

    mean: float = Field(15.0, ge=-MANY, le=MANY, description="epoch with the largest weight")
    std: float = Field(1.0, gt=0, le=MANY, description="standard deviation in epochs")


_Weight = Annotated[float, Field(ge=-MANY, le=MANY)]


class TrainConfig(Section):
    """Settings of the optimisation."""

    epochs: int | None = Field(
        None,
        ge=1,
        le=MANY,
        description="default: enough for 20 steps times the square root of the number of training images (5 to 100 "
        "epochs) if the head is initialised by a probe, else for 500 steps (10 to 100 epochs)",
    )
    batch_size: Annotated[int, Field(ge=1, le=65_536)] | Literal["auto"] = Field(
        32,
        description="images per optimiser step, over all accumulation passes; default if the head is initialised by a "
        "probe: 16; auto: by trial passes before training, as many as fit into memory (on a CPU only while more save "
        "time per image); the number is stored with the run",
    )
    accumulate: int = Field(
        1, ge=1, le=65_536, description="gradient accumulation: passes per optimiser step, to save memory"
    )
    drop_last: bool = Field(
        False, description="drop the last batch of an epoch if it is incomplete and not the only one (Dassl)"
    )
    drop_path: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="stochastic depth in the frozen backbone during training: drop rate of the last layer; it rises "
        "linearly from 0 in the first",
    )
    optimizer: Optimizer = AdamWConfig()
    recompute: bool = Field(
        False, description="activation checkpointing: recompute layers in the backward pass to save memory"
    )
    shard: bool = Field(
        False, description="with torchrun, shard the frozen backbone across processes, if it is too large for one GPU"
    )
    compile: Literal["auto", "none", "default", "max-autotune"] = Field(
        "auto",
        description="auto: on a GPU, record the forward and backward pass of a ViT once as a CUDA graph and replay it; "
        "none: do not; default, max-autotune: compile its layers first, in that mode of torch.compile",
    )
    schedule: Literal["cosine", "constant", "steps", "epochs"] = Field(
        "cosine",
        description="learning rate after the warm-up; steps: divided by 10 at each of `milestones`; epochs: the first "
        "epoch at 1e-5, then a cosine updated once per epoch (CoOp and its successors)",
    )
    milestones: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], ALWAYS_LISTED] = Field(
        default_factory=lambda: [0.5, 0.72], max_length=1000, description="schedule=steps: as fractions of the run"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="fraction of all steps used for warm-up")
    loss: Loss = CrossEntropyLoss()
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="fraction of each label that is spread over all classes"
    )
    class_weights: Annotated[
        Literal["none", "balanced"] | Annotated[list[_Weight], Field(max_length=100_000)], LISTED
    ] = Field(
        "none",
        description="class weights of the loss: none, balanced (rare classes weigh more), or a number for each class",
    )
    clip_norm: float | None = Field(1.0, gt=0, le=1e12, description="maximum gradient norm; null: no clipping")
    precision: Precision = Field("auto", description="auto: bf16 on a GPU, or a CPU with AMX or AVX512-BF16; else fp32")
    device: str = Field("auto", max_length=40, description="auto, cpu, cuda, cuda:1, mps")
    patience: int | None = Field(
        None,
        ge=1,
        le=MANY,
        description="early stopping: validations without improvement; there is one every `eval_every` epochs",
    )
    keep: Literal["best", "last"] = Field("best", description="which epoch's weights the artifact stores")
    average: AverageConfig | None = Field(None, description="weighted mean of the weights of all epochs (PromptSRC)")
    eval_every: int | None = Field(
        None,
        ge=1,
        le=MANY,
        description="epochs between validations; default: a fifth of the epochs, rounded down, if the head is "
        "initialised by a probe, else 1",
    )
    checkpoint_minutes: float = Field(1.0, ge=0, le=1e12, description="minutes between checkpoints within an epoch")
    seed: int = Field(
        0, ge=0, lt=2**32, description="seed of initialisation, order of the images, augmentation and dropout"
    )

    prompt_from: str | None = Field(
        None,
        max_length=1000,
        description="run folder or artifact whose prompt is trained further on this task; null: a new prompt",
    )

    @model_validator(mode="after")
    def _whole_passes(self) -> TrainConfig:
        if isinstance(self.batch_size, int) and self.batch_size % self.accumulate:
            raise ValueError(f"batch_size={self.batch_size} must be a multiple of accumulate={self.accumulate}")
        if self.average is not None and self.patience is not None:
            raise ValueError("average needs every epoch; leave out patience")
        return self
