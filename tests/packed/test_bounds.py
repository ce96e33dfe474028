"""What a packed file may take: its limit bounds memory and time, whatever the file claims."""

import hashlib
import lzma
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from compressctl import packed
from compressctl.packed import PackedError
from compressctl.packed.cursor import Cursor, varint
from compressctl.packed.decode import Coding, decode, lzma_filters
from compressctl.packed.ledger import MAGIC, VERSION, Body, Entry, Ledger, StoredFile, write_ledger
from compressctl.packed.onnx_bytes import RAW, VARINTS

LIMIT = 10_000_000


def file_of(folder: Path, ledger: Ledger, bodies: bytes) -> Path:
    """A packed file as somebody writes it who wants it to be read."""
    head = write_ledger(ledger)
    squeezed = lzma.compress(head, lzma.FORMAT_RAW, filters=lzma_filters(len(head)))
    content = MAGIC + bytes([VERSION]) + varint(len(head)) + varint(len(squeezed)) + squeezed + bodies
    path = folder / "m.cctl"
    path.write_bytes(content + hashlib.blake2b(content, digest_size=16).digest())
    return path


def one_tensor(count: int, coded: bytes, element_size: int = 1, **changed: object) -> Ledger:
    length = count * element_size
    values: dict[str, object] = {"name": "w", "data_type": TensorProto.UINT8, "shape": (length,), "written_as": RAW}
    values |= {"file": 0, "start": 0, "length": length, "body": 0, "offset": 0, **changed}
    body = Body(len(coded), 0, element_size, 1, count)
    return Ledger((StoredFile("", length, b""),), (body,), (Entry(**values),))  # type: ignore[arg-type]


def refused(path: Path, limit: int = LIMIT) -> str:
    with pytest.raises(PackedError) as caught:
        packed.load(path, max_bytes=limit)
    return str(caught.value)


def peak(read: object) -> int:
    tracemalloc.start()
    try:
        read()  # type: ignore[operator]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_coding_that_doubles_stands_once(tmp_path: Path) -> None:
    coded = bytes([Coding.NIBBLES] * 5 + [Coding.REPEATED, 0])
    path = file_of(tmp_path, one_tensor(LIMIT, coded), coded)
    assert peak(lambda: refused(path)) < LIMIT
    assert "four-bit numbers are made of four-bit numbers" in refused(path)


@pytest.mark.parametrize("coding", ["planes", "row_codebooks", "codebook", "sparse", "raw"])
def test_memory_is_a_small_multiple_of_what_is_decoded(coding: str) -> None:
    rows, columns = 100, 20_000
    zeros = bytes([Coding.REPEATED])
    coded = {
        "planes": bytes([Coding.PLANES]) + (zeros + b"\0") * 8,
        "row_codebooks": bytes([Coding.ROW_CODEBOOKS, 2]) + zeros + bytes(8) + zeros + b"\1",
        "codebook": bytes([Coding.CODEBOOK, 2]) + zeros + bytes(8) + zeros + b"\1",
        "raw": bytes([Coding.RAW]) + bytes(8 * rows * columns),
        "sparse": bytes([Coding.SPARSE]) + bytes(9) + b"\1" + bytes([0, 0, 1, 0]) + b"\0",
    }[coding]

    def read() -> None:
        try:
            decode(Cursor(coded, "test"), (rows, columns), 8)
        except PackedError:
            assert coding == "sparse"

    assert peak(read) < 4 * 8 * rows * columns


def test_a_ledger_is_held_against_the_limit_before_it_is_unpacked(tmp_path: Path) -> None:
    ledger = Ledger((StoredFile("", 30_000_000, bytes(30_000_000)),), (), ())
    path = file_of(tmp_path, ledger, b"")
    assert peak(lambda: refused(path)) < LIMIT
    assert "its ledger alone would take 30,000,0" in refused(path)


def test_tensors_and_their_dimensions_count_as_memory(tmp_path: Path) -> None:
    entry = Entry("", TensorProto.UINT8, (), VARINTS, 0, 0, 0, 0, 0)
    many = Ledger((StoredFile("", 0, b""),), (), (entry,) * 20_000)
    path = file_of(tmp_path, many, b"")
    assert "its ledger would take more than" in refused(path)
    deep = Entry("", TensorProto.UINT8, (1,) * 32, VARINTS, 0, 0, 0, 0, 0)
    path = file_of(tmp_path, Ledger((StoredFile("", 0, b""),), (), (deep,) * 10_000), b"")
    assert "its ledger would take more than" in refused(path)
    assert packed.load(path, max_bytes=100_000_000)


def test_bodies_are_not_more_than_their_numbers_need(tmp_path: Path) -> None:
    coded = bytes([Coding.REPEATED, 0])
    bodies = (Body(2, 0, 1, 1, 1),) * 1000
    path = file_of(tmp_path, Ledger((StoredFile("", 1000, bytes(1000)),), bodies, ()), coded * 1000)
    assert "more bodies than its numbers need" in refused(path)


def test_one_range_of_a_file_is_written_once_and_overlaps_are_refused(tmp_path: Path) -> None:
    coded = bytes([Coding.REPEATED, 0])
    ledger = one_tensor(1000, coded)
    entries = tuple(Entry(str(start), TensorProto.UINT8, (900,), RAW, 0, start, 900, 0, 0) for start in range(100))
    path = file_of(tmp_path, Ledger(ledger.files, ledger.bodies, entries), coded)
    assert "tensors overlap each other" in refused(path)


def test_varints_of_several_tensors_are_not_the_same_bytes(tmp_path: Path) -> None:
    coded = bytes([Coding.REPEATED, 0])
    ledger = one_tensor(1000, coded, written_as=VARINTS, data_type=TensorProto.INT64)
    path = file_of(tmp_path, Ledger(ledger.files, ledger.bodies, ledger.entries * 50), coded)
    assert "numbers of several tensors are the same bytes" in refused(path)


def test_an_unknown_type_is_damage(tmp_path: Path) -> None:
    coded = bytes([Coding.REPEATED, 0])
    path = file_of(tmp_path, one_tensor(10, coded, data_type=99), coded)
    assert "no type that is packed" in refused(path)


def test_varints_are_read_a_part_at_a_time(tmp_path: Path) -> None:
    from compressctl.packed.read import _varints

    raw = np.tile(np.array([0x81, 0x01, 0x7F], np.uint8), 1_000_000)
    found = _varints(raw)
    assert found[:4].tolist() == [129, 127, 129, 127]
    assert len(found) == 2_000_000
    assert peak(lambda: _varints(raw)) < 20 * len(raw)
