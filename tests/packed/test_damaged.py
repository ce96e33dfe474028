"""Whatever happened to a packed file, reading it ends with one clear error, and soon."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from support.every_tensor import every_kind, model_of, stored

from compressctl import packed
from compressctl.core.errors import ExitCode
from compressctl.packed import PackedError
from compressctl.packed.cursor import Cursor
from compressctl.packed.decode import Coding, decode
from compressctl.packed.encode import encode
from compressctl.packed.ledger import DIGEST_BYTES, read_ledger, write_ledger
from compressctl.packed.onnx_bytes import tensor_places
from compressctl.packed.pack import pack

MANY = settings(max_examples=80)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(0)
    sparse = np.where(rng.random((40, 60)) < 0.1, rng.integers(1, 4, (40, 60)), 0).astype(np.float32)
    pack(stored(model_of([*every_kind(), numpy_helper.from_array(sparse, "sparse")]), folder), folder / "m.cctl")
    return (folder / "m.cctl").read_bytes()


def read(damaged: bytes, folder: Path) -> str:
    """ "fine", or the error."""
    (folder / "m.cctl").write_bytes(damaged)
    try:
        packed.load(folder / "m.cctl", max_bytes=1 << 22)
    except PackedError as error:
        return str(error) if "m.cctl" in error.message else "an error without the file's name"
    return "fine"


def signed(changed: bytes) -> bytes:
    """As somebody would write it who wants it to be read: with the checksum that belongs to it."""
    start = changed[:-DIGEST_BYTES]
    return start + hashlib.blake2b(start, digest_size=DIGEST_BYTES).digest()


@MANY
@given(data=st.data())
def test_a_cut_off_file_is_an_error(content: bytes, data: st.DataObject, tmp_path: Path) -> None:
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    assert read(cut, tmp_path).startswith(str(tmp_path / "m.cctl"))


@MANY
@given(data=st.data())
def test_a_flipped_bit_is_an_error(content: bytes, data: st.DataObject, tmp_path: Path) -> None:
    position, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    changed = bytearray(content)
    changed[position] ^= 1 << bit
    assert read(bytes(changed), tmp_path) != "fine"


@MANY
@given(data=st.data())
def test_bytes_changed_on_purpose_are_an_error_or_change_nothing(
    content: bytes, data: st.DataObject, tmp_path: Path
) -> None:
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(5, len(content) - DIGEST_BYTES - 1))] = data.draw(st.integers(0, 255))
    found = read(signed(bytes(changed)), tmp_path)
    assert found == "fine" or found.startswith(str(tmp_path / "m.cctl"))


@MANY
@given(noise=st.binary(max_size=300))
def test_noise_is_an_error(noise: bytes, tmp_path: Path) -> None:
    assert read(noise, tmp_path) != "fine"
    assert read(signed(b"CCTL\x01" + noise + bytes(DIGEST_BYTES)), tmp_path) != "fine"


@settings(max_examples=300)
@given(noise=st.binary(min_size=1, max_size=200), rows=st.integers(1, 70), columns=st.integers(1, 70), data=st.data())
def test_noise_as_a_body_is_an_error_or_an_array(noise: bytes, rows: int, columns: int, data: st.DataObject) -> None:
    tag, size = data.draw(st.integers(0, 11)), data.draw(st.sampled_from([1, 2, 4, 8]))
    try:
        found = decode(Cursor(bytes([tag]) + noise, "test"), (rows, columns), size)
    except PackedError:
        return
    assert found.shape == (rows, columns)


FEW = np.where(np.random.default_rng(0).random((10, 20)) < 0.3, np.uint32(7), np.uint32(0))
FEW[0, :5] = [9, 11, 13, 15, 17]
SCALED = (
    np.random.default_rng(1).choice(np.float32([0, 0, 0, 0.3, -1.1]), (20, 40)) * np.linspace(0.7, 1.3, 20)[:, None]
)


@cache
def coded_body(is_float: bool) -> tuple[np.ndarray, bytes]:
    values = SCALED.astype(np.float32).view(np.uint32) if is_float else FEW
    return values, encode(values, is_float)


@settings(max_examples=200)
@given(data=st.data())
def test_a_changed_body_is_an_error_or_an_array(data: st.DataObject) -> None:
    is_float = data.draw(st.booleans())
    values, body = coded_body(is_float)
    coded = bytearray(body)
    assert coded[0] == (Coding.SCALED_CODEBOOK if is_float else Coding.CODEBOOK)
    coded[data.draw(st.integers(0, len(coded) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode(Cursor(bytes(coded), "test"), values.shape, 4)
    except PackedError:
        return
    assert found.shape == values.shape


@settings(max_examples=300)
@given(noise=st.binary(max_size=200))
def test_noise_as_a_ledger_is_an_error(noise: bytes) -> None:
    with pytest.raises(PackedError):
        read_ledger(b"\x01" + noise, 1 << 30)


@settings(max_examples=200)
@given(noise=st.binary(max_size=200))
def test_noise_as_a_model_is_an_error_or_has_no_tensor_outside(noise: bytes) -> None:
    try:
        places = tensor_places(memoryview(noise), Path("model.onnx"))
    except PackedError:
        return
    assert all(place.start + place.length <= len(noise) or place.location for place in places)


def test_the_ledger_comes_back(tmp_path: Path) -> None:
    ledger = pack(stored(model_of(every_kind()), tmp_path), tmp_path / "m.cctl")
    assert read_ledger(write_ledger(ledger), 1 << 30) == ledger


def test_nothing_is_written_from_a_damaged_file(content: bytes, tmp_path: Path) -> None:
    changed = bytearray(content)
    changed[-DIGEST_BYTES - 30] ^= 1
    (tmp_path / "m.cctl").write_bytes(signed(bytes(changed)))
    with pytest.raises(PackedError):
        packed.unpack(tmp_path / "m.cctl", tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.cctl"]


def test_it_is_an_error_of_usage_for_a_shell() -> None:
    assert PackedError.exit_code is ExitCode.USAGE


def test_a_newer_version_says_so(content: bytes, tmp_path: Path) -> None:
    assert "version" in read(content[:4] + b"\x02" + content[5:], tmp_path)
