"""The prompted model: what learns, what stays, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from tests.helpers.vit_families import CLASSES
from vpt.backbones.factory import load_backbone
from vpt.config import BackboneConfig, RunConfig, load_config
from vpt.inference.load_model import load_model
from vpt.models.artifact import artifact_bytes, read_artifact, save_artifact
from vpt.models.classifier import PromptedModel, build_model
from vpt.models.trusted_settings import Named
from vpt.training.memory_estimate import estimate
from vpt.training.optimizer import build_optimizer
from vpt.training.tasks.classification import Classification
from vpt.utils.device import autocast
from vpt.utils.errors import UserError

TINY = ["backbone=vit_tiny_patch16_224", "backbone.pretrained=false", "backbone.image_size=32"]


def build(*words: str, classes: int = 3) -> PromptedModel:
    config = load_config(overrides=[*TINY, *words])
    return build_model(config, load_backbone(config.backbone), CLASSES[:classes])


def images(count: int = 4, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("words", "roles"),
    [
        (["prompt=deep"], {"prompt", "head"}),
        (["prompt=shallow", "head=mlp"], {"prompt", "head"}),
        (["prompt=none"], {"head"}),
        (["prompt=none", "tuning=bias"], {"head", "bias"}),
        (["prompt=none", "tuning=lora"], {"head", "lora"}),
        (["prompt=none", "tuning=full"], {"head", "backbone"}),
        (["prompt=deep", "tuning=bias"], {"prompt", "head", "bias"}),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_only_what_is_declared_moves(words: list[str], roles: set[str]):
    model = build(*words).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    declared = {name for name, _, _ in model.trainable()}
    assert {role for _, role, _ in model.trainable()} == roles
    optimizer = build_optimizer(model, RunConfig().train.optimizer)
    for _ in range(2):
        model(images()).logsumexp(1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved <= declared
    # Position embeddings of full tuning and the like all learn; biases that cancel (keys) may stay.
    assert len(moved) > 0.9 * len(declared)


@pytest.mark.parametrize("words", [["prompt=deep"], ["prompt=deep", "head.pool=all"], ["prompt=shallow"]])
def test_constants_change_nothing(words: list[str]):
    model = build(*words).eval()
    with torch.inference_mode():
        assert torch.equal(model(images()), model(images(), model.constants()))


def test_gradients_do_not_reach_below_the_first_prompt():
    """Layers under the first prompt hold no gradient graph: what enters it needs none."""
    model = build("prompt.layers=last:2").train()
    seen = []
    block = model.backbone.net.blocks
    for index in (8, 10):
        block[index].mlp.register_forward_hook(lambda _m, _i, out: seen.append(out.requires_grad))
    model(images())
    assert seen == [False, True]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["head.pool=prompts", "prompt=none"], "reads prompt tokens, but there are none"),
        (["head.pool=all", "prompt=shallow", "prompt.after=drop"], "the prompt leaves none there (prompt.after=drop"),
        (["prompt.init=sample", "prompt.project=8"], "leave out prompt.project"),
        (["prompt.layers=first:13"], "N from 1 to 12"),
        (["prompt=none", "tuning=lora", "tuning.targets=[nothing]"], "matches no linear layer"),
        (["backbone=vit_base_patch16_siglip_224", "head.pool=cls"], "has no class token"),
        (["backbone=resnet10t"], "does not support token prompts: ResNet is not a vision transformer"),
        (["backbone=convnext_atto"], "ConvNeXt is not"),
        (["backbone=vit_dwee_patch16_reg1_gap_256"], "DiffAttention"),
        (["backbone=vit_tny_patch16_224"], "did you mean 'vit_tiny_patch16_224'"),
        (["backbone.image_size=100"], "use 96 or 112"),
        (["backbone=open_clip:ViT-B-33"], "did you mean 'ViT-B-32'"),
        (["backbone=open_clip:ViT-B-32", "backbone.pretrained=lion400m_e32"], "did you mean 'laion400m_e32'"),
        (["backbone.weights=/nowhere/a.safetensors"], "there is no such file"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_cannot_be_is_refused_in_one_sentence(words: list[str], sentence: str):
    with pytest.raises(UserError) as caught:
        build(*words)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tuning", ["frozen", "full"])
def test_a_convolutional_net_takes_a_head_or_full_tuning(tuning: str):
    model = build("backbone=resnet10t", "prompt=none", f"tuning={tuning}").train()
    before = {name: tensor.clone() for name, tensor in model.backbone.net.named_buffers()}
    model(images()).sum().backward()
    changed = any(not torch.equal(tensor, before[name]) for name, tensor in model.backbone.net.named_buffers())
    assert changed == (tuning == "full")  # batch statistics are the task's own only when everything learns
    assert ("backbone.net.bn1.running_mean" in model.owned_state()) == (tuning == "full")


def test_without_a_network_pretrained_weights_are_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch):
    def offline(*_args: object, **_kwargs: object) -> None:
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"Could not download the weights of .*backbone\.weights=FILE.*vpt_nano"):
        load_backbone(BackboneConfig(name="vit_tiny_patch16_224"))


class TestLocalWeights:
    """A file of one's own is loaded strictly, whatever wraps it, and at any image size."""

    def save(self, path: Path, wrap: str | None = None, classes: int = 0) -> torch.nn.Module:
        torch.manual_seed(7)
        net = timm.create_model("vit_tiny_patch16_224", num_classes=classes)
        state = net.state_dict()
        if path.suffix == ".safetensors":
            safetensors.torch.save_file({name: value.half() for name, value in state.items()}, path)
        else:
            torch.save({wrap: state} if wrap else state, path)
        return net

    @pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
    def test_loads(self, tmp_path: Path, name: str):
        net = self.save(tmp_path / name, wrap="state_dict", classes=5)
        config = BackboneConfig(name="vit_tiny_patch16_224", weights=tmp_path / name)
        backbone = load_backbone(config)
        theirs = net.state_dict()
        for key, value in backbone.net.state_dict().items():
            torch.testing.assert_close(value, theirs[key], atol=1e-3, rtol=1e-3)
        assert backbone.net.pos_embed.dtype == torch.float32

    def test_the_position_embedding_is_resampled(self, tmp_path: Path):
        self.save(tmp_path / "a.pth")
        small, usual = (
            load_backbone(BackboneConfig(name="vit_tiny_patch16_224", weights=tmp_path / "a.pth", image_size=size))
            for size in (96, None)
        )
        assert small.net.pos_embed.shape[1] == 37
        assert small.fingerprint == usual.fingerprint

    def test_a_file_of_another_architecture_is_refused_with_the_difference(self, tmp_path: Path):
        self.save(tmp_path / "a.pth")
        with pytest.raises(UserError, match=r"does not fit vit_small.*shape of .*cls_token \(1, 1, 192\), not"):
            load_backbone(BackboneConfig(name="vit_small_patch16_224", weights=tmp_path / "a.pth"))

    def test_a_pickle_with_code_is_not_run(self, tmp_path: Path):
        class Trap:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return (Path.touch, (tmp_path / "sprung",))

        torch.save({"state_dict": Trap()}, tmp_path / "a.pth")
        with pytest.raises(UserError, match=r"whole object \(computed\).*save its weights"):
            load_backbone(BackboneConfig(name="vit_tiny_patch16_224", weights=tmp_path / "a.pth"))
        assert not (tmp_path / "sprung").exists()


class TestArtifact:
    words = (*TINY, "prompt.tokens=4")

    def saved(self, tmp_path: Path, *words: str) -> tuple[PromptedModel, Path]:
        config = load_config(overrides=[*self.words, *words])
        model = build_model(config, load_backbone(config.backbone), CLASSES[:3]).eval()
        with torch.no_grad():
            for _, _, parameter in model.trainable():
                parameter.add_(torch.randn_like(parameter))
        path = save_artifact(tmp_path / "artifact.safetensors", model, config, ["a", "b", "c"])
        return model, path

    @pytest.mark.parametrize(
        "words", [[], ["prompt=none", "tuning=lora"], ["backbone=resnet10t", "prompt=none", "tuning=full"]]
    )
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_round_trip_is_exact(self, tmp_path: Path, words: list[str]):
        model, path = self.saved(tmp_path, *words)
        loaded, artifact = load_model(tmp_path, device="cpu")
        assert artifact.classes == ("a", "b", "c")
        with torch.inference_mode():
            assert torch.equal(loaded(images()), model(images()))
        assert abs(path.stat().st_size - artifact_bytes(model)) < 0.1 * path.stat().st_size + 4096

    def test_another_backbone_is_refused_with_both_names(self, tmp_path: Path):
        _, path = self.saved(tmp_path)
        small = load_config(base=read_artifact(path).config.model_dump(), overrides=["backbone=vit_small_patch16_224"])
        with pytest.raises(UserError, match=r"trained on backbone vit_tiny_patch16_224.*not on vit_small_patch16_224"):
            load_model(path, device="cpu", config=small)

    def test_other_weights_of_the_same_name_are_refused(self, tmp_path: Path):
        _, path = self.saved(tmp_path)
        TestLocalWeights().save(tmp_path / "other.pth")
        with pytest.raises(UserError, match="use the backbone it was trained on"):
            load_model(path, device="cpu", named=Named(weights=tmp_path / "other.pth"))

    def test_what_is_no_artifact_is_named(self, tmp_path: Path):
        with pytest.raises(UserError, match="no such run folder or artifact"):
            read_artifact(tmp_path / "missing")
        with pytest.raises(UserError, match=r"contains no artifact\.safetensors"):
            read_artifact(tmp_path)

    def test_vit_small_deep_ten_tokens_ten_classes_is_under_300_kB(self, tmp_path: Path):
        words = ["backbone=vit_small_patch16_224", "backbone.pretrained=false", "prompt=deep", "prompt.tokens=10"]
        config = load_config(overrides=words)
        model = build_model(config, load_backbone(config.backbone), CLASSES[:10])
        path = save_artifact(tmp_path / "a.safetensors", model, config, [f"class {i}" for i in range(10)])
        assert path.stat().st_size < 300_000


@pytest.mark.parametrize("words", [["prompt=deep"], ["prompt=none", "tuning=full"], ["prompt=none"]])
def test_the_memory_told_beforehand_is_what_autograd_keeps(words: list[str]):
    """Extrapolated from passes of one and two images, against a count over the whole batch."""
    model = build(*words)
    task, cpu = Classification(), torch.device("cpu")
    told = estimate(model, 2, 7, lambda count: task.trial(model, count, cpu), autocast("fp32", cpu))
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        torch.nn.functional.cross_entropy(model(images(7)), torch.zeros(7, dtype=torch.long))
    counted = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert abs(told.activations - counted) <= 0.02 * counted + 4096
    assert told.learning == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_images_of_another_kind_are_refused():
    model = build()
    with pytest.raises(ValueError, match="must be uint8"):
        model(torch.zeros(1, 3, 32, 32))
