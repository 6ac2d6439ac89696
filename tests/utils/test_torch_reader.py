"""Files of torch.save are read as data: tensors equal what was saved, and nothing that a file names is run."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import io
import os
import pathlib
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vpt.interop.convert.checkpoint_files import read_foreign
from vpt.utils.errors import UserError
from vpt.utils.pickle_data import PickleError, parse
from vpt.utils.torch_reader import Opaque, read_torch_file


class Colour(enum.Enum):
    RED = 1


class Config(dict):
    """A mapping with attributes, as yacs and fvcore save their settings."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.__dict__["frozen"] = True


def stepped() -> tuple[torch.nn.Module, torch.optim.Optimizer, Any]:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    scheduler.step()
    return layer, optimizer, scheduler


def saved_by_trainers() -> dict[str, Any]:
    """Whatever stands beside the tensors in the checkpoints of training scripts."""
    layer, optimizer, scheduler = stepped()
    return {
        "state_dict": layer.state_dict(),
        "optimizer": optimizer.state_dict(),
        "optimizer itself": optimizer,
        "scheduler": {"successor": scheduler, **scheduler.state_dict()},
        "module": layer,
        "defaultdict": collections.defaultdict(list, {"a": [1]}),
        "counter": collections.Counter("aab"),
        "arguments": argparse.Namespace(lr=0.1, out=pathlib.Path("out")),
        "config": Config({"MODEL": Config({"NAME": "vit"})}),
        "enum": Colour.RED,
        "sets": [{1, 2}, frozenset({3})],
        "deque": collections.deque([1, 2]),
        "size": torch.Size([1, 2]),
        "random states": (np.random.get_state(), random.getstate()),  # noqa: NPY002
        "torch state": torch.get_rng_state(),
        "numpy": np.float64(93.5),
        "array": np.arange(6, dtype=">f4").reshape(2, 3),
        "when": datetime.datetime(2024, 1, 2),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "bytes": b"\x00\xff",
        "large": 2**100,
        "text": "ä",
        "nothing": None,
    }


TENSORS = {
    "parameter": torch.nn.Parameter(torch.randn(2, 3)),
    "half": torch.randn(5).half(),
    "bfloat16": torch.randn(5).bfloat16(),
    "bool": torch.tensor([True, False]),
    "complex": torch.randn(2, dtype=torch.complex64),
    "long": torch.arange(5),
    "transposed": torch.arange(12).view(3, 4).t()[1:, 1:],
    "expanded": torch.ones(1).expand(7),
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(2.5),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "before torch 1.6"])
def test_tensors_are_found_beside_whatever_trainers_save(tmp_path: Path, protocol: int, new: bool):
    whole = saved_by_trainers() | TENSORS
    torch.save(whole, tmp_path / "a.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    found = read_torch_file(tmp_path / "a.pth")
    assert list(found) == list(whole)
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor.detach()), name
        assert found[name].dtype == tensor.dtype
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(found["state_dict"][name], tensor)
    assert torch.equal(found["optimizer"]["state"][0]["momentum_buffer"], torch.ones(2, 3))
    assert found["optimizer itself"] == Opaque("torch.optim.sgd.SGD")
    assert found["scheduler"]["T_max"] == 10
    assert found["defaultdict"] == {"a": [1]}
    assert found["counter"] == {"a": 2, "b": 1}
    assert found["config"] == {"MODEL": {"NAME": "vit"}}
    assert found["sets"] == [(1, 2), (3,)]
    assert found["deque"] == [1, 2]
    assert found["size"] == (1, 2)
    assert found["numpy"] == 93.5
    assert found["array"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert torch.equal(found["torch state"], whole["torch state"])
    assert (found["bytes"], found["large"], found["text"], found["nothing"]) == (b"\x00\xff", 2**100, "ä", None)
    assert found["arguments"] == Opaque("argparse.Namespace")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f8", "f2", "i4", "bool"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_numpy_arrays_equal_numpys_own(tmp_path: Path, dtype: str, protocol: int):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    arrays = {"c": array, "f": np.asfortranarray(array), "t": array.transpose(2, 0, 1)}
    torch.save(arrays, tmp_path / "a.pth", pickle_protocol=protocol)
    found = read_foreign(tmp_path / "a.pth")
    for name, expected in arrays.items():
        assert np.array_equal(found[name].numpy(), expected)


def rewritten(path: Path, change: dict[str, bytes], compress: bool = False) -> None:
    """The zip archive with other bytes in some records."""
    with zipfile.ZipFile(path) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as new:
        for name, content in records.items():
            new.writestr(name, change.get(name.partition("/")[2], content))


def test_a_file_of_a_machine_with_the_other_byte_order(tmp_path: Path):
    torch.save({"w": torch.tensor([1.5, -2.0])}, tmp_path / "a.pth")
    rewritten(tmp_path / "a.pth", {"byteorder": b"big", "data/0": struct.pack(">2f", 1.5, -2.0)})
    assert read_torch_file(tmp_path / "a.pth")["w"].tolist() == [1.5, -2.0]


class Evil:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __call__(self) -> None: ...

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_in_a_file_is_run(tmp_path: Path, protocol: int):
    mark = tmp_path / "mark"
    calls = [
        Evil(eval, f"open({str(mark)!r}, 'w').close()"),
        Evil(os.system, f"touch {mark}"),
        Evil(getattr, Evil(__import__, "os"), "mkdir"),
        Evil(Evil(getattr, pathlib.Path(mark), "touch")),
    ]
    for call in calls:
        torch.save({"ctx": torch.ones(2), "evil": call}, tmp_path / "evil.pth", pickle_protocol=protocol)
        assert list(read_foreign(tmp_path / "evil.pth")) == ["ctx"]
        assert not mark.exists()


def test_files_that_hold_no_tensors(tmp_path: Path):
    (tmp_path / "text.pth").write_text("nothing")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"ctx": [1.0]}))
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    torch.save({"lr": 1.0, "words": np.array(["a"])}, tmp_path / "numbers.pth")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "module.pth")
    torch.save({"w": torch.ones(2)}, tmp_path / "script.pth")
    with zipfile.ZipFile(tmp_path / "script.pth", "a") as archive:
        archive.writestr("script/constants.pkl", pickle.dumps(()))
    save_file({"ctx": torch.ones(2)}, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-3])
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("photo.jpg", b"")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(UserError, match=path.name):
            read_foreign(path)
    with pytest.raises(UserError, match="no such file"):
        read_torch_file(tmp_path / "missing.pth")


def claimed(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """The pickle of a tensor that claims a size of its own choice."""

    class Claim:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, collections.OrderedDict())

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 2) if isinstance(value, Storage) else None

    file = io.BytesIO()
    Pickler(file, 2).dump({"w": Claim()})
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((2**40,), (1,), 0),
        ((2**40,), (0,), 0),
        ((2**20, 2**20), (0, 0), 0),
        ((2,), (1,), 1),
        ((2,), (1,), -1),
        ((-1,), (1,), 0),
    ],
)
def test_a_tensor_is_not_allocated_on_its_word(tmp_path: Path, size: Any, stride: Any, offset: int):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pth")
    rewritten(tmp_path / "a.pth", {"data.pkl": claimed((2,), (1,))})
    assert read_torch_file(tmp_path / "a.pth")["w"].tolist() == [1, 1]
    rewritten(tmp_path / "a.pth", {"data.pkl": claimed(size, stride, offset)})
    with pytest.raises(UserError, match=r"a\.pth is damaged.*(storage|larger)"):
        read_torch_file(tmp_path / "a.pth")


def test_a_compressed_record_could_be_larger_than_memory(tmp_path: Path):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pth")
    rewritten(tmp_path / "a.pth", {"data/0": bytes(10_000_000)}, compress=True)
    with pytest.raises(UserError, match="larger than the file"):
        read_torch_file(tmp_path / "a.pth")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before torch 1.6"])
def test_damaged_bytes_end_in_one_sentence(tmp_path: Path, new: bool):
    torch.save(
        {"w": torch.arange(6.0), "n": np.ones(2), "s": stepped()[2]},
        tmp_path / "a.pth",
        _use_new_zipfile_serialization=new,
    )
    good = (tmp_path / "a.pth").read_bytes()
    chance = np.random.default_rng(0)
    errors = []
    for place in chance.integers(0, len(good), 400):
        bad = bytearray(good)
        bad[place] ^= 1 << int(chance.integers(8))
        (tmp_path / "b.pth").write_bytes(bad[: None if place % 4 else place])
        try:
            read_torch_file(tmp_path / "b.pth")
        except UserError as error:
            errors.append(str(error))
    assert len(errors) > 100
    assert not [error for error in errors if "\n" in error]


def test_pickles_built_to_hurt_end_in_an_error():
    deep = pickle.PROTO + b"\x02" + pickle.EMPTY_TUPLE + pickle.TUPLE1 * 200_000 + pickle.STOP
    assert isinstance(parse(io.BytesIO(deep)), tuple)
    for content in (
        pickle.LONG_BINPUT + struct.pack("<I", 2**32 - 1) + pickle.STOP,  # a memo of four thousand million places
        pickle.BINUNICODE8 + struct.pack("<Q", 2**60) + b"a" + pickle.STOP,
        pickle.APPENDS + pickle.STOP,
        pickle.STOP,
        pickle.NONE,
        pickle.EMPTY_DICT + pickle.EMPTY_LIST + pickle.NONE + pickle.SETITEM + pickle.STOP,
        b"\x97" + pickle.STOP,  # a buffer outside of the pickle
    ):
        with pytest.raises(PickleError):
            parse(io.BytesIO(content))


def test_deep_and_circular_containers_end(tmp_path: Path):
    ring: list[Any] = [torch.ones(1)]
    ring.append(ring)
    deep: Any = torch.ones(1)
    for _ in range(200):
        deep = [deep]
    torch.save({"ring": ring, "deep": deep, "w": torch.ones(2)}, tmp_path / "a.pth")
    found = read_torch_file(tmp_path / "a.pth")
    assert found["ring"][1] is found["ring"]
    assert found["w"].tolist() == [1, 1]
