"""RunConfig: everything a run depends on, typed and validated as a whole.

Sources are merged in this order: defaults, a YAML file, `key=value` words from the command line. All mistakes
are reported at once, each with the nearest name that exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from vpt.errors import UserError, nearest


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values cannot change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


def _short(key: str, default: str | None = None) -> BeforeValidator:
    """Let a bare word stand for a section (`prompt=deep` is `prompt.kind=deep`), and a section lack its kind."""

    def expand(value: Any) -> Any:
        if isinstance(value, str):
            return {key: value}
        if default is not None and isinstance(value, Mapping):
            return {key: default, **value}
        return value

    return BeforeValidator(expand)


class BackboneConfig(Section):
    """Which frozen network, with which weights."""

    name: str = Field("vpt_nano", description="timm name, 'open_clip:ARCH', or 'vpt_nano' (embedded)")
    pretrained: bool | str = Field(
        True, description="true: the library's weights; a tag: that open_clip set; false: random weights"
    )
    weights: Path | None = Field(None, description="local .safetensors or .pth file, loaded strictly")
    image_size: int | None = Field(None, ge=1, le=8192, description="pixels; default: the backbone's own")
    seed: int = Field(0, ge=0, description="seed of random weights (pretrained=false)")


class NoPrompt(Section):
    """No prompt: the head reads the backbone's own features (linear probe)."""

    kind: Literal["none"] = "none"


class TokenPrompt(Section):
    """What shallow and deep token prompts share (VPT, Jia et al. 2022, section 3)."""

    tokens: int = Field(10, ge=1, le=10_000, description="prompt tokens per prompted layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on prompt values, a mask for each image")
    project: int | None = Field(None, ge=1, description="bottleneck width: tokens live there, one linear map out")
    init: Literal["uniform", "sample", "mean", "max", "kmeans"] = Field(
        "uniform",
        description="uniform (VPT), or patch tokens of the training images (SPT): see prompts/init.py",
    )
    after: Literal["carry", "drop", "insert"] = Field(
        "carry",
        description="layers past a prompted one: carry its prompt outputs, drop them, or insert again",
    )


class ShallowPrompt(TokenPrompt):
    """Tokens enter before the first layer and are carried on (VPT-Shallow, section 3.2)."""

    kind: Literal["shallow"] = "shallow"


class DeepPrompt(TokenPrompt):
    """Fresh tokens before every prompted layer (VPT-Deep, section 3.2)."""

    kind: Literal["deep"] = "deep"
    layers: str | list[int] = Field("all", description="'all', 'first:N', 'last:N' or a list, counted from 0")
    shared: bool = Field(False, description="one set of tokens for every prompted layer")


Prompt = Annotated[NoPrompt | ShallowPrompt | DeepPrompt, Field(discriminator="kind"), _short("kind", "deep")]


class FrozenTuning(Section):
    """No backbone weight moves."""

    kind: Literal["frozen"] = "frozen"


class BiasTuning(Section):
    """Every bias of the backbone learns (BitFit, Ben Zaken et al. 2022)."""

    kind: Literal["bias"] = "bias"


class LoraTuning(Section):
    """Low-rank updates of linear layers (Hu et al. 2022), by the peft library."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: list[str] = Field(
        default_factory=lambda: ["qkv", "q_proj", "k_proj", "v_proj", "out_proj", "proj"],
        min_length=1,
        description="endings of the names of linear layers inside the blocks",
    )


class FullTuning(Section):
    """Every weight learns."""

    kind: Literal["full"] = "full"


Tuning = Annotated[
    FrozenTuning | BiasTuning | LoraTuning | FullTuning, Field(discriminator="kind"), _short("kind", "frozen")
]


class LinearHead(Section):
    """One linear layer."""

    kind: Literal["linear"] = "linear"
    dropout: float = Field(0.0, ge=0, lt=1)
    pool: Literal["native", "cls", "avg", "prompts", "all"] = Field(
        "native",
        description="what the head reads: the backbone's own pooling, CLS, mean of patches, of prompts, of both",
    )


class MlpHead(LinearHead):
    """Hidden layers with GELU, then a linear layer."""

    kind: Literal["mlp"] = "mlp"  # type: ignore[assignment]
    hidden: list[Annotated[int, Field(ge=1)]] = Field(default_factory=lambda: [512], min_length=1)


Head = Annotated[LinearHead | MlpHead, Field(discriminator="kind"), _short("kind", "linear")]


class DataConfig(Section):
    """Where images and labels come from, and how they become tensors."""

    path: str = Field("digits", description="class folders, a CSV file, 'torchvision:NAME', or 'digits' (embedded)")
    val: str | None = Field(None, description="validation folder or CSV; default: found beside or split off")
    test: str | None = Field(None, description="test folder or CSV; never used for choosing anything")
    root: str = Field("data", description="where torchvision data sets lie")
    download: bool = Field(False, description="let torchvision download")
    val_fraction: float = Field(0.1, gt=0, lt=1, description="share split off for validation when there is none")
    shots: int | None = Field(None, ge=1, description="training images per class (k-shot)")
    split_seed: int = Field(0, ge=0)
    separator: str = Field("|", min_length=1, description="between several labels in a CSV cell")
    augment: str = Field("light", description="none, light, standard, strong, or an albumentations YAML file")
    resize: Literal["crop", "squash", "pad"] = Field("crop", description="how a photo becomes a square")
    crop_pct: float | None = Field(
        None, gt=0, le=1, description="share kept by the centre crop; default: the backbone's"
    )
    workers: int | None = Field(None, ge=0, le=256, description="loader processes; default: from the machine")
    cache: bool = Field(False, description="keep decoded images in RAM")
    on_bad: Literal["error", "skip"] = Field("error", description="unreadable files: stop with a list, or leave out")
    max_pixels: int = Field(100_000_000, ge=1, description="larger images are refused as decompression bombs")


class PerRole(Section):
    """A number for each role a parameter can have."""

    prompt: float = Field(ge=0)
    head: float = Field(ge=0)
    bias: float = Field(ge=0, description="backbone biases under tuning=bias")
    lora: float = Field(ge=0)
    backbone: float = Field(ge=0, description="every backbone weight under tuning=full")


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


class AdamWConfig(_ByRole):
    """AdamW (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    lr: PerRole = PerRole(prompt=5e-3, head=1e-2, bias=1e-3, lora=1e-3, backbone=5e-5)
    weight_decay: PerRole = PerRole(prompt=0.0, head=1e-2, bias=0.0, lora=0.0, backbone=1e-2)
    betas: tuple[float, float] = (0.9, 0.999)


class SgdConfig(_ByRole):
    """SGD with momentum, as in the VPT paper."""

    kind: Literal["sgd"] = "sgd"
    lr: PerRole = PerRole(prompt=0.5, head=0.1, bias=0.05, lora=0.05, backbone=0.005)
    weight_decay: PerRole = PerRole(prompt=1e-4, head=1e-4, bias=0.0, lora=1e-4, backbone=1e-4)
    momentum: float = Field(0.9, ge=0, lt=1)


Optimizer = Annotated[AdamWConfig | SgdConfig, Field(discriminator="kind"), _short("kind", "adamw")]


class TrainConfig(Section):
    """How the learnable part is trained."""

    epochs: int | None = Field(None, ge=1, description="default: enough for 1,000 steps, at least 10, at most 100")
    batch_size: int = Field(32, ge=1, description="images per optimiser step, all accumulation passes together")
    accumulate: int = Field(1, ge=1, description="passes a step is split into, to save memory")
    optimizer: Optimizer = AdamWConfig()
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps spent warming up")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] | list[float] = "none"
    clip_norm: float | None = Field(1.0, gt=0, description="largest gradient norm; null: no clipping")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", description="auto: bf16 on a GPU, else fp32")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    patience: int | None = Field(None, ge=1, description="epochs without a better validation score before stopping")
    keep: Literal["best", "last"] = Field("best", description="which epoch's weights the artifact holds")
    eval_every: int = Field(1, ge=1, description="epochs between validations")
    checkpoint_minutes: float = Field(1.0, ge=0, description="minutes between checkpoints inside an epoch")
    seed: int = Field(0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _whole_passes(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size={self.batch_size} must be a multiple of accumulate={self.accumulate}")
        return self


class RunConfig(Section):
    """A whole run.

    >>> RunConfig.model_validate({"prompt": "shallow"}).prompt.tokens
    10
    """

    task: Literal["classification"] = "classification"
    backbone: Annotated[BackboneConfig, _short("name")] = BackboneConfig()
    prompt: Prompt = DeepPrompt()
    tuning: Tuning = FrozenTuning()
    head: Head = LinearHead()
    data: Annotated[DataConfig, _short("path")] = DataConfig()
    train: TrainConfig = TrainConfig()
    out: Path = Field(Path("runs"), description="folder that holds run folders")
    name: str | None = Field(None, description="name of the run folder; default: made from the settings")
    compare: list[str] = Field(
        default_factory=list,
        description="other prompt kinds trained after this one with the same data, for a table",
    )


def load_config(
    file: str | Path | None = None, overrides: Sequence[str] = (), base: Mapping[str, Any] | None = None
) -> RunConfig:
    """Merge defaults, `base`, the YAML `file` and `key=value` words into one validated RunConfig.

    Raises:
        UserError: a file that cannot be read, or one line for every mistake found.

    >>> load_config(overrides=["prompt=shallow", "prompt.tokens=5"]).prompt
    ShallowPrompt(tokens=5, dropout=0.0, project=None, init='uniform', after='carry', kind='shallow')
    """
    tree: dict[str, Any] = dict(base or {})
    if file is not None:
        tree = _merge(tree, read_yaml(file))
    tree = _merge(tree, parse_overrides(overrides))
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise UserError("\n".join(_explain(error))) from None


def read_yaml(file: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; UserError when it is missing or something else."""
    try:
        value = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise UserError(f"cannot read the config {file}: {reason}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{file} must hold 'key: value' lines, found {type(value).__name__}")
    return value


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Turn `a.b=1` words into a nested mapping; values are read as YAML.

    >>> parse_overrides(["train.epochs=3", "prompt=deep", "prompt.layers=[0, 1]"])
    {'train': {'epochs': 3}, 'prompt': {'kind': 'deep', 'layers': [0, 1]}}
    """
    tree: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"'{word}' is not of the form key=value, as in train.epochs=10")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        if isinstance(value, str) and _is_number(value):
            value = float(value)  # YAML 1.1 reads 1e-3 as text
        branch: dict[str, Any] = {}
        leaf = branch
        *parents, last = key.split(".")
        for parent in parents:
            leaf[parent] = leaf = {}
        leaf[last] = value
        tree = _merge(tree, branch)
    return tree


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.lower().strip("+-") not in ("nan", "inf", "infinity")


_SHORTHAND = {
    "backbone": "name",
    "data": "path",
    "prompt": "kind",
    "tuning": "kind",
    "head": "kind",
    "optimizer": "kind",
}


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge. Where `kind` changes, settings of the old kind that the new one lacks are dropped."""
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        if key in _SHORTHAND:
            before, value = ({_SHORTHAND[key]: item} if isinstance(item, str) else item for item in (before, value))
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            if "kind" in value and value["kind"] != before.get("kind"):
                known = _fields_of_kind(key, value["kind"])
                before = {name: item for name, item in before.items() if name in known}
            merged[key] = _merge(before, value)
        else:
            merged[key] = value
    return merged


def _unions() -> dict[str, tuple[type[Section], ...]]:
    return {
        name: get_args(get_args(alias)[0])
        for name, alias in {"prompt": Prompt, "tuning": Tuning, "head": Head, "optimizer": Optimizer}.items()
    }


def _fields_of_kind(section: str, kind: Any) -> set[str]:
    # A learning rate that suits one optimiser is wrong for the other, so an optimiser keeps nothing.
    if section == "optimizer":
        return set()
    for model in _unions().get(section, ()):
        if model.model_fields["kind"].default == kind:
            return set(model.model_fields)
    return set()


def _explain(error: ValidationError) -> Iterator[str]:
    """One line for each mistake, in the user's own key names."""
    for item in error.errors():
        path = [str(part) for part in item["loc"]]
        key = ".".join(part for index, part in enumerate(path) if not _is_tag(path, index))
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            yield f"unknown key '{key}'{nearest(path[-1], _known_keys(path))}"
        elif item["type"] == "union_tag_invalid":
            expected = item["ctx"]["expected_tags"].replace("'", "")
            given = str(item["ctx"]["tag"])
            yield f"{key}.kind={given} does not exist{nearest(given, expected.split(', '))}; known: {expected}"
        else:
            given = item["input"]
            shown = f"={given}" if isinstance(given, str | int | float | bool | list) else ""
            yield f"{key}{shown}: {text[0].lower()}{text[1:]}"


def _is_tag(path: list[str], index: int) -> bool:
    """pydantic puts the chosen kind into the location: prompt, deep, tokens."""
    return (
        index > 0
        and path[index - 1] in _unions()
        and path[index] in {model.model_fields["kind"].default for model in _unions()[path[index - 1]]}
    )


def _known_keys(path: list[str]) -> set[str]:
    fields: Any = RunConfig
    for index, part in enumerate(path[:-1]):
        if _is_tag(path, index):
            fields = next(m for m in _unions()[path[index - 1]] if m.model_fields["kind"].default == part)
        elif part in _unions():
            continue
        elif part in ("lr", "weight_decay"):
            fields = PerRole
        else:
            annotation = fields.model_fields[part].annotation
            fields = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else fields
    return set(fields.model_fields)
