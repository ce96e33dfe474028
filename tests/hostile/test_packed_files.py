"""Packed files that somebody made up, each with the digest that belongs to it, read by `unpack` and `inspect`."""

import hashlib
import lzma
from pathlib import Path

import pytest
from hostile._in_process import ends, refuses
from onnx import TensorProto

from compressctl.packed.cursor import text, varint
from compressctl.packed.decode import Coding, lzma_filters
from compressctl.packed.ledger import Body, Entry, Ledger, StoredFile, write_ledger
from compressctl.packed.onnx_bytes import EXTERNAL, RAW, VARINTS

LIMIT = 1_000_000


def signed(content: bytes) -> bytes:
    return content + hashlib.blake2b(content, digest_size=16).digest()


def packed(head: bytes, bodies: bytes = b"", raw_size: int | None = None) -> bytes:
    squeezed = lzma.compress(head, lzma.FORMAT_RAW, filters=lzma_filters(len(head)))
    size = len(head) if raw_size is None else raw_size
    return signed(b"CCTL\1" + varint(size) + varint(len(squeezed)) + squeezed + bodies)


def ledger(
    coded: bytes = b"",
    count: int = 1000,
    *,
    size: int = 1,
    rows: int = 1,
    times: int = 1,
    **changed: object,
) -> bytes:
    """A file with one tensor of so many numbers, named so many times."""
    length = rows * count * size
    values: dict[str, object] = {"name": "w", "data_type": TensorProto.UINT8, "shape": (length,), "written_as": RAW}
    values |= {"file": 0, "start": 0, "length": length, "body": 0, "offset": 0, **changed}
    entries = (Entry(**values),) * times  # type: ignore[arg-type]
    made = Ledger((StoredFile("", length, b""),), (Body(len(coded), 0, size, rows, count),), entries)
    return packed(write_ledger(made), coded)


def named(*names: str) -> bytes:
    return packed(write_ledger(Ledger(tuple(StoredFile(name, 0, b"") for name in names), (), ())))


def repeated(value: int = 0, size: int = 1) -> bytes:
    return bytes([Coding.REPEATED]) + value.to_bytes(size, "little")


FILES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not a packed model"),
    "a start alone": (b"CCTL\1", "damaged"),
    "another version": (signed(b"CCTL\2abc"), "another version than 1"),
    "no digest": (ledger(repeated())[:-16], "its checksum is wrong"),
    "a size of ten bytes": (signed(b"CCTL\1" + b"\xff" * 10), "a number that is too long"),
    "a ledger of more than is possible": (
        signed(b"CCTL\1" + varint(1 << 40) + varint(1)),
        "at most 268435456 is possible",
    ),
    "a ledger beyond the limit": (
        packed(b"\0" * 100, raw_size=1 << 27),
        "its ledger alone would take 134,217,728 bytes",
    ),
    "a ledger that is no stream": (signed(b"CCTL\1" + varint(10) + varint(10) + bytes(10)), "LZMA"),
    "a ledger of another length": (packed(b"\0" * 100, raw_size=2000), "has not the length"),
    "an empty ledger": (packed(b""), "the ledger ends too early"),
    "no files": (packed(varint(0) * 3), "names its files wrongly"),
    "files without end": (packed(varint(1 << 60)), "at most 262144 is possible"),
    "a million tensors": (
        packed(varint(1) + text("") + varint(0) * 3 + varint(1 << 20) + bytes(1 << 21)),
        "at most 262144 is possible",
    ),
    "tensors that take the memory": (
        packed(varint(1) + text("") + varint(0) * 3 + varint(200_000) + bytes(2_000_000)),
        "its ledger would take more than",
    ),
    "a name of no text": (packed(varint(1) + varint(2) + b"\xff\xfe" + varint(0) * 4), "not UTF-8"),
    "a name of more than there is": (packed(varint(1) + varint(1 << 50)), "the ledger ends too early"),
    "two models": (named("", ""), "names its files wrongly"),
    "a file outside": (named("", "../x"), "not a file beside the model"),
    "a file of the system": (named("", "/etc/passwd"), "not a file beside the model"),
    "a file on a drive": (named("", "C:x"), "not a file beside the model"),
    "a file with backslashes": (named("", "..\\x"), "not a file beside the model"),
    "a file with a null byte": (named("", "a\0b"), "not a file beside the model"),
    "a file of a hundred thousand letters": (named("", "a:" * 50_000), "not a file beside the model"),
    "a file that is larger than allowed": (
        packed(varint(1) + text("") + varint(1 << 40) + varint(0) * 3),
        "1,099,511,627,776 bytes",
    ),
    "a rest of more than the file": (
        packed(varint(1) + text("") + varint(1) + varint(9) + varint(0) * 2),
        "more of a file than the file is long",
    ),
    "a body of more than the file": (
        packed(write_ledger(Ledger((StoredFile("", 9, bytes(9)),), (Body(0, 0, 8, 9, 9),), ()))),
        "bodies larger than the files",
    ),
    "more bodies than numbers": (
        packed(
            write_ledger(Ledger((StoredFile("", 500, bytes(500)),), (Body(2, 0, 1, 1, 1),) * 500, ())), repeated() * 500
        ),
        "more bodies than its numbers need",
    ),
    "a body of three bytes each": (ledger(repeated(), size=3), "a body of an impossible shape"),
    "a body without rows": (ledger(repeated(), rows=0), "a body of an impossible shape"),
    "a tensor outside its body": (ledger(repeated(), offset=500), "not inside its body"),
    "a tensor beyond its file": (ledger(repeated(), start=500), "reaches beyond its file"),
    "a tensor before its file": (ledger(repeated(), start=-5), "a place before the beginning"),
    "a tensor of another shape": (ledger(repeated(), shape=(7,)), "has not the size that its shape says"),
    "a tensor of 33 axes": (ledger(repeated(), shape=(1,) * 33), "at most 32 is possible"),
    "a tensor of 32 huge axes": (ledger(repeated(), shape=((1 << 62),) * 32), "has not the size that its shape says"),
    "a tensor of no type": (ledger(repeated(), data_type=99), "no type that is packed"),
    "a tensor that is written otherwise": (ledger(repeated(), written_as=EXTERNAL + 1), "at most 4 is possible"),
    "a tensor of varints, fifty times": (ledger(repeated(), times=50, written_as=VARINTS), "the same bytes"),
    "a rest that is missing": (
        packed(write_ledger(Ledger((StoredFile("", 9, bytes(5)),), (), ()))),
        "the tensors and the rest of a file are not the whole file",
    ),
    "no such coding": (ledger(bytes([99])), "there is no coding 99"),
    "codings in codings": (ledger(bytes([Coding.CODEBOOK, 1, 1, 0] * 9)), "damaged"),
    "nibbles in nibbles": (ledger(bytes([Coding.NIBBLES] * 5) + repeated()), "made of four-bit numbers"),
    "nibbles of more than four bits": (
        ledger(bytes([Coding.NIBBLES]) + repeated(200)),
        "a four-bit number is more than 15",
    ),
    "nibbles of large numbers": (ledger(bytes([Coding.NIBBLES]) + repeated(), size=4), "a coding of bytes"),
    "planes of planes": (ledger(bytes([Coding.PLANES] * 9), size=8), "nested too deeply"),
    "an index outside": (ledger(bytes([Coding.CODEBOOK, 1]) + repeated() + repeated(9)), "outside its codebook"),
    "a codebook of nothing": (ledger(bytes([Coding.CODEBOOK, 0]) + repeated()), "a coded array is empty"),
    "a codebook of more than there is": (ledger(bytes([Coding.CODEBOOK]) + varint(60_000)), "at most 1000 is possible"),
    "products of other than floats": (ledger(bytes([Coding.SCALED_CODEBOOK, 1])), "a coding of float32 numbers"),
    "symbols of nothing": (ledger(bytes([Coding.SYMBOLS])), "ends too early"),
    "symbols that end early": (ledger(bytes([Coding.SYMBOLS, 255]) + bytes(40)), "damaged"),
    "a mask without words": (
        ledger(bytes([Coding.SPARSE]) + bytes(1) + b"\0\1" + bytes(4) + b"\0"),
        "a stream of decisions",
    ),
    "a mask of more words than decisions": (
        ledger(bytes([Coding.SPARSE]) + bytes(2) + b"\1" + bytes(4) + varint(1 << 40)),
        "is possible",
    ),
    "numbers that are not there": (ledger(bytes([Coding.RAW]) + bytes(5)), "a body ends too early"),
    "more numbers than said": (ledger(bytes([Coding.RAW]) + bytes(1005)), "is longer than it says"),
    "LZMA of another length": (ledger(bytes([Coding.LZMA, 3]) + bytes(3)), "LZMA"),
    "another checksum": (ledger(repeated(1)), "a body's checksum is wrong"),
}


@pytest.mark.parametrize(("content", "says"), FILES.values(), ids=FILES)
def test_a_packed_file(content: bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.cctl").write_bytes(content)
    refuses(tmp_path, "unpack", "m.cctl", "--limit", str(LIMIT), says=says)


@pytest.mark.parametrize("limit", ["-1", "1e999GB", "nan", "", "9" * 400 + "GB", "5 parsecs"])
def test_a_limit_that_is_none(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.cctl").write_bytes(ledger(repeated()))
    refuses(tmp_path, "unpack", "m.cctl", f"--limit={limit}", says="--limit")


@pytest.mark.parametrize("command", ["inspect", "unpack"])
def test_no_command_reads_it_otherwise(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.cctl").write_bytes(FILES["nibbles in nibbles"][0])
    refuses(tmp_path, command, "m.cctl", says="made of four-bit numbers")


def test_what_is_within_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = Ledger((StoredFile("", 9, bytes(9)),), (), ())
    (tmp_path / "m.cctl").write_bytes(packed(write_ledger(made)))
    ends(tmp_path, "inspect", "m.cctl")
