"""Weights and structure files that fit no network, claim what they do not hold, or name what they may not."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile._in_process import refused

torch = pytest.importorskip("torch")
nn = torch.nn

from compressctl.sources.checkpoint import load_weights  # noqa: E402
from compressctl.sources.structure.files import STRUCTURE, WEIGHTS, read_network, write_network  # noqa: E402


def network() -> Any:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()


def safetensors(header: str | bytes, body: bytes = bytes(64), length: int | None = None) -> bytes:
    content = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(content) if length is None else length) + content + body


def one(dtype: str = "F32", shape: str = "[3,4]", offsets: str = "[0,48]") -> bytes:
    return safetensors(f'{{"0.weight":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}')


HEADERS: dict[str, bytes] = {
    "nothing": b"",
    "a length alone": struct.pack("<Q", 10),
    "a header of exabytes": safetensors("{}", length=1 << 62),
    "a header of all the numbers there are": safetensors("{}", length=(1 << 64) - 1),
    "a header beyond the file": safetensors("{}", length=5000),
    "no JSON": safetensors("hello"),
    "no text": safetensors(b"\xff\xfe\xfd\xfc"),
    "a list": safetensors("[]"),
    "brackets": safetensors("[" * 100_000),
    "a name twice": safetensors(
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "no such type": one(dtype="F99"),
    "a type of bits": one(dtype="I4", shape="[96]"),
    "a negative shape": one(shape="[-3,-4]"),
    "a shape that overflows": one(shape="[4294967296,4294967296]"),
    "a shape of another size": one(shape="[3,5]"),
    "offsets backwards": one(offsets="[48,0]"),
    "offsets beyond the file": one(offsets="[0,4800000000]"),
    "offsets in between": one(offsets="[4,52]"),
    "offsets of nothing": one(offsets="[]"),
    "a hole": safetensors(
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}'
    ),
    "two at one place": safetensors(
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "more numbers than tensors": one(),
    "a pickle": b"\x80\x04cos\nsystem\nq\0.",
    "metadata of numbers": safetensors('{"__metadata__":{"a":1}}', b""),
    "no tensors": safetensors("{}", b""),
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
def test_a_safetensors_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    refused(lambda: load_weights(network(), tmp_path / "w.safetensors"), "w.safetensors")


PICKLES: dict[str, bytes] = {
    "nothing": b"",
    "a call": b"cos\nsystem\n(S'id'\ntR.",
    "a call in a newer protocol": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.",
    "a loop of memos": b"\x80\x02" + b"]q\0h\0a" * 1000 + b".",
    "a number": b"\x80\x04K\x05.",
    "a length of exabytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "an archive of nothing": b"PK\5\6" + bytes(18),
    "text": b"hello",
}


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
def test_a_checkpoint(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    refused(lambda: load_weights(network(), tmp_path / "w.pt"), "w.pt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], bytes]:
    """The description and the weights of a network whose first layers are narrower."""
    folder = tmp_path_factory.mktemp("whole")
    changed = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2))).eval()
    write_network(changed, network(), folder)
    return json.loads((folder / STRUCTURE).read_text()), (folder / WEIGHTS).read_bytes()


def everywhere(value: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    """Every mapping changed, the inner ones first."""
    if isinstance(value, dict):
        value = {key: everywhere(below, change) for key, below in value.items()}
        change(value)
    elif isinstance(value, list):
        value = [everywhere(below, change) for below in value]
    return value


def numbers(to: Any) -> Callable[[Any], Any]:
    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(below) for key, below in value.items()}
        if isinstance(value, list):
            return [changed(below) for below in value]
        return to if type(value) is int else value

    return changed


def strings(to: str) -> Callable[[Any], Any]:
    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(below) for key, below in value.items()}
        if isinstance(value, list):
            return [changed(below) for below in value]
        return to if isinstance(value, str) else value

    return changed


DESCRIPTIONS: dict[str, Callable[[Any], Any]] = {
    "a list": lambda whole: [whole],
    "text": lambda whole: "network",
    "nothing": lambda whole: {},
    "null": lambda whole: None,
    "a key that there is not": lambda whole: {**whole, "extra": 1},
    "negative numbers": numbers(-1),
    "numbers that no memory holds": numbers(1 << 40),
    "numbers beyond 64 bits": numbers(1 << 70),
    "numbers that are text": numbers("1"),
    "numbers that are lists": numbers([1]),
    "numbers that are null": numbers(None),
    "a function for every name": strings("os.system"),
    "a module of Python's": strings("builtins.exec"),
    "a dunder for every name": strings("__class__"),
    "empty names": strings(""),
    "names of 100,000 letters": strings("x" * 100_000),
    "names with dots": strings("0.0.0.0.weight"),
    "empty mappings": lambda whole: {key: {} if isinstance(value, dict) else value for key, value in whole.items()},
    "mappings that are lists": lambda whole: {
        key: [] if isinstance(value, dict) else value for key, value in whole.items()
    },
    "lists that are mappings": lambda whole: (
        {key: {"a": 1} if isinstance(value, list) else value for key, value in whole.items()} | {"format": 0}
    ),
}


@pytest.mark.parametrize("change", DESCRIPTIONS.values(), ids=DESCRIPTIONS)
def test_a_description(change: Callable[[Any], Any], whole: tuple[dict[str, Any], bytes], tmp_path: Path) -> None:
    (tmp_path / STRUCTURE).write_text(json.dumps(change(whole[0])))
    (tmp_path / WEIGHTS).write_bytes(whole[1])
    refused(lambda: read_network(network(), tmp_path / WEIGHTS, tmp_path / STRUCTURE), str(tmp_path))


TEXTS: dict[str, bytes] = {
    "no text": b"\xff\xfe",
    "brackets": b"[" * 100_000,
    "a number of a million digits": b"9" * 1_000_000,
    "not a number": b"NaN",
    "cut off": b'{"modules": {',
    "half of a surrogate pair": b'"\\ud800"',
}


@pytest.mark.parametrize("content", TEXTS.values(), ids=TEXTS)
def test_a_description_that_is_none(content: bytes, whole: tuple[dict[str, Any], bytes], tmp_path: Path) -> None:
    (tmp_path / STRUCTURE).write_bytes(content)
    (tmp_path / WEIGHTS).write_bytes(whole[1])
    refused(lambda: read_network(network(), tmp_path / WEIGHTS, tmp_path / STRUCTURE), STRUCTURE)
