"""Data that hold something else than they say: archives, tables, images, recorded calls."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile._in_process import refused, stored
from onnx import ModelProto, StringStringEntryProto, TensorProto, helper
from PIL import Image

from compressctl.core.source import SplitSizes
from compressctl.sources import csv_table, image_folder, mask_folder, npz, onnx_test_data, requests, sentence_pairs
from compressctl.sources.images import Preparation, decode_all
from compressctl.sources.params import (
    CsvParams,
    ImageFolderParams,
    MaskFolderParams,
    NpzParams,
    OnnxTestDataParams,
    RequestsParams,
    SentencePairsParams,
)
from compressctl.tasks.alphabet import tokens_of

SIZES = SplitSizes(calibration=1, validation=1, test=1)
LABELS = io.BytesIO()
np.save(LABELS, np.arange(20) % 3)


def header(text: str, body: bytes = bytes(240), version: bytes = b"\1\0") -> bytes:
    """An array in NumPy's format with that header."""
    content = text.encode("latin1")
    content += b" " * (-(len(content) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(content)) + content + body


def says(descr: str, shape: str, order: str = "False") -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}")


ARRAYS: dict[str, tuple[bytes, str]] = {
    "gigabytes": (says("'<f4'", "(4294967296,)"), "17,179,869,184 bytes, and 240 are stored"),
    "more than an integer": (says("'<f4'", "(9223372036854775808, 3)"), "is not all there"),
    "a product that overflows": (says("'<f8'", "(4294967296, 4294967296)"), "is not all there"),
    "a negative size": (says("'<f4'", "(-20, 3)"), "is not all there"),
    "two negative sizes": (says("'<f4'", "(-20, -3)"), "is not all there"),
    "fewer bytes than stored": (says("'<f4'", "(10, 3)"), "120 bytes, and 240 are stored"),
    "an unclosed header": (header("{'descr': '<f4', 'shape': (20, 3"), "cannot be read"),
    "a header of brackets": (header("(" * 5000 + ")" * 5000), "cannot be read"),
    "a header that calls": (header("__import__('os').system('id')"), "cannot be read"),
    "a header of a key too many": (
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (20, 3), 'x': 1}"),
        "cannot be read",
    ),
    "Python objects": (says("'|O'", "(1,)"), "holds Python objects, which are never read"),
    "objects inside fields": (says("[('a', '|O')]", "(1,)"), "holds Python objects, which are never read"),
    "fields": (says("[('a', '<f4'), ('b', '<f4'), ('c', '<f4')]", "(20,)"), "does not hold samples of numbers"),
    "text": (says("'<U3'", "(20,)"), "does not hold samples of numbers"),
    "text of no width": (says("'<U0'", "(20,)"), "is not all there"),
    "times": (says("'<M8[s]'", "(30,)"), "does not hold samples of numbers"),
    "complex numbers": (says("'<c8'", "(30,)"), "does not hold samples of numbers"),
    "a type of a billion bytes": (says("'|V1000000000'", "(1,)"), "is not all there"),
    "no type": (says("'nothing'", "(20, 3)"), "cannot be read"),
    "a single number": (
        header("{'descr': '<f4', 'fortran_order': False, 'shape': ()}", bytes(4)),
        "does not hold samples",
    ),
    "another version": (header("{}", version=b"\3\0"), "cannot be read"),
    "no version": (header("{}", version=b"\xff\xff"), "cannot be read"),
    "no array": (b"some text", "cannot be read"),
    "nothing": (b"", "cannot be read"),
    "too few samples": (says("'<f4'", "(1, 60)"), "20 labels for 1 samples"),
}


@pytest.mark.parametrize(("array", "words"), ARRAYS.values(), ids=ARRAYS)
def test_an_array_in_an_archive(array: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(stored(inputs=array, labels=LABELS.getvalue()))
    refused(lambda: npz.load(NpzParams(path="d.npz"), SIZES, tmp_path, 0), words)


def damaged(change: Callable[[bytes], bytes]) -> bytes:
    return change(stored(inputs=says("'<f4'", "(20, 3)"), labels=LABELS.getvalue()))


def encrypted(content: bytes) -> bytes:
    at = content.index(b"PK\1\2") + 8
    return content[:at] + bytes([content[at] | 1]) + content[at + 1 :]


def compressed_otherwise(content: bytes) -> bytes:
    at = content.index(b"PK\1\2") + 10
    return content[:at] + b"\x63\0" + content[at + 2 :]


def grown(content: bytes) -> bytes:
    """The directory says that a member takes four gigabytes when it is unpacked."""
    at = content.index(b"PK\1\2") + 24
    return content[:at] + b"\xff\xff\xff\xfe" + content[at + 4 :]


ARCHIVES: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "is not an .npz file"),
    "no archive": (b"hello", "is not an .npz file"),
    "a pickle": (b"\x80\x04cos\nsystem\n", "is not an .npz file"),
    "a single array": (says("'<f4'", "(20, 3)"), "is a single array"),
    "the end of an archive": (b"PK\5\6" + bytes(18), "has no array 'inputs'"),
    "cut in half": (damaged(lambda content: content[: len(content) // 2]), "is not an .npz file"),
    "one bit of an array": (damaged(lambda content: content[:300] + b"\1" + content[301:]), "cannot be read"),
    "encrypted": (damaged(encrypted), "cannot be read"),
    "another compression": (damaged(compressed_otherwise), "cannot be read"),
    "a member that says gigabytes": (damaged(grown), "array 'inputs'"),
    "a directory out of place": (damaged(lambda content: content.replace(b"PK\1\2", b"PK\1\1")), "is not an .npz file"),
}


@pytest.mark.parametrize(("content", "words"), ARCHIVES.values(), ids=ARCHIVES)
def test_an_archive(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    refused(lambda: npz.load(NpzParams(path="d.npz"), SIZES, tmp_path, 0), words)
    (tmp_path / "calls").mkdir()
    (tmp_path / "calls" / "a.npz").write_bytes(content)
    refused(lambda: requests.load(RequestsParams(path="calls"), SIZES, tmp_path, 0), "a.npz")


def test_a_bomb_is_held_against_its_header(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inputs.npy", says("'<f4'", "(20, 3)") + bytes(100_000_000))
    (tmp_path / "d.npz").write_bytes(stream.getvalue())
    refused(lambda: npz.load(NpzParams(path="d.npz"), SIZES, tmp_path, 0), "240 bytes, and 100,000,240 are stored")


TABLES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is empty: its first line names the columns"),
    "a header alone": (b"a,y\n", "no rows"),
    "a label alone": (b"y\n1\n2\n", "no columns beside the label"),
    "two columns of one name": (b"a,a,y\n1,2,0\n3,4,1\n", "two columns are called 'a'"),
    "two labels": (b"a,y,y\n1,0,1\n2,1,0\n", "two columns are called 'y'"),
    "an empty label": (b"a,y\n1,0\n2,\n3,1\n", ":3: column 'y': the label is missing"),
    "a label of blanks": (b"a,y\n1,  \n2,1\n", "the label is missing"),
    "a line too short": (b"a,b,y\n1,2,0\n1,0\n", "this line has 2 values"),
    "a line too long": (b"a,y\n1,0\n1,2,3\n", "this line has 3 values"),
    "no number": (b"a,y\n1,0\nx,1\n", "'x' is not a number"),
    "not a number": (b"a,y\n1,0\nnan,1\n", "'nan' is not a number"),
    "infinity": (b"a,y\n1,0\n1e999,1\n", "is not a number"),
    "a missing value": (b"a,y\n1,0\n,1\n", "the value is missing"),
    "not UTF-8": (b"a,y\n\xff\xfe,1\n", "is not a table"),
    "UTF-16": ("a,y\n1,2\n".encode("utf-16"), "is not a table"),
    "a field of a megabyte": (b"a,y\n" + b"1" * 1_000_000 + b",1\n", "is not a table"),
    "null bytes": (b"a,y\n\0\0\0,1\n", "is not a number"),
    "quotes that never close": (b'a,y\n"1,0\n2,1\n', "this line has 1 values"),
    "a header of 100,000 columns": (b"a," * 100_000 + b"y\n1\n", "two columns are called 'a'"),
    "a long header without a label": (
        ",".join(f"c{n}" for n in range(20_000)).encode() + b"\n1\n",
        "there is no column 'y'",
    ),
}


@pytest.mark.parametrize(("table", "words"), TABLES.values(), ids=TABLES)
def test_a_table(table: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(table)
    refused(lambda: csv_table.load(CsvParams(path="t.csv", label="y"), SIZES, tmp_path, 0), words)


LABEL_TABLES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "its columns are none"),
    "other columns": (b"name,class\n0.png,a\n", "it needs file and label"),
    "a column twice": (b"file,label,label\n0.png,a,b\n", "each once"),
    "a line too short": (b"file,label\n0.png\n", "this line has 1 values"),
    "a line too long": (b"file,label\n0.png,a,b\n", "this line has 3 values"),
    "no label": (b"file,label\n0.png,\n", "the label is missing"),
    "two labels for one image": (b"file,label\n0.png,a\n0.png,b\n", "has another label above"),
    "no line for an image": (b"file,label\n0.png,a\n", "has no line"),
    "a class of twelve digits": (b"file,label\n0.png,0\n1.png,999999999999\n", "classes are allowed"),
    "not UTF-8": (b"file,label\n\xff,a\n", "is not a table of labels"),
}


@pytest.mark.parametrize(("table", "words"), LABEL_TABLES.values(), ids=LABEL_TABLES)
def test_a_table_of_labels(table: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("0.png", "1.png"):
        (tmp_path / "images" / name).write_bytes(encoded("PNG"))
    (tmp_path / "l.csv").write_bytes(table)
    refused(lambda: image_folder.load(ImageFolderParams(path="images", labels="l.csv"), SIZES, tmp_path, 0), words)


def test_class_names_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "0.png").write_bytes(encoded("PNG"))
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe")
    params = ImageFolderParams(path="images", classes="c.txt")
    refused(lambda: image_folder.load(params, SIZES, tmp_path, 0), "is not UTF-8 text")


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save(stream, kind)
    return stream.getvalue()


def gif(width: int, height: int) -> bytes:
    sizes = struct.pack("<HH", width, height)
    return b"GIF87a" + sizes + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0" + sizes + b"\0\x02\x02D\x01\0;"


IMAGES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not an image"),
    "text": (b"<svg/>", "is not an image"),
    "169 million pixels in 40 bytes": (gif(8810, 19156), "more than the 67,108,864 pixels"),
    "4 billion pixels in 40 bytes": (gif(65535, 65535), "is not an image"),
    "a strip that grows when it is resized": (b"P5 60000 1 255\n" + bytes(60_000), "resized, is 256x15360000"),
    "a PNG that ends early": (encoded("PNG")[:-30], "is not an image"),
    "a PNG with a wrong sum": (encoded("PNG").replace(b"IDAT", b"IDAX"), "is not an image"),
    "a JPEG of its head": (encoded("JPEG")[:40], "is not an image"),
    "a BMP of negative height": (encoded("BMP")[:22] + struct.pack("<i", -(1 << 31)) + encoded("BMP")[26:], "image"),
    "a TIFF that leads to itself": (b"II*\0\x08\0\0\0\x01\0\0\1\4\0\1\0\0\0\1\0\0\0\x08\0\0\0", "is not an image"),
    "a PPM of words": (b"P6 a b c\n", "is not an image"),
    "a PPM of a thousand digits": (b"P6 " + b"9" * 1000 + b" 1 255\n", "is not an image"),
    "a WEBP of its head": (encoded("WEBP")[:24], "is not an image"),
}


@pytest.mark.parametrize(("content", "words"), IMAGES.values(), ids=IMAGES)
def test_an_image(content: bytes, words: str) -> None:
    refused(lambda: decode_all([content], ["it"], Preparation(resize=256)), words)


TENSORS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "holds no tensor"),
    "text": (b"hello", "holds no tensor"),
    "another type than there is": (b"\x10\x63J\x04\0\0\0\0", "holds no tensor"),
    "fewer numbers than its shape": (
        TensorProto(dims=[1 << 40], data_type=1, raw_data=bytes(4)).SerializeToString(),
        "holds no tensor",
    ),
    "a negative shape": (
        TensorProto(dims=[-1], data_type=1, raw_data=bytes(4)).SerializeToString(),
        "does not say which input",
    ),
    "numbers elsewhere": (
        TensorProto(name="x", dims=[1], data_type=1, data_location=1).SerializeToString(),
        "holds no tensor",
    ),
    "text in it": (
        helper.make_tensor("x", TensorProto.STRING, [1], [b"a"]).SerializeToString(),
        "not an array of numbers",
    ),
}


@pytest.mark.parametrize(("content", "words"), TENSORS.values(), ids=TENSORS)
def test_a_tensor_of_test_data(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "test_data_set_0").mkdir()
    (tmp_path / "test_data_set_0" / "input_0.pb").write_bytes(content)
    sizes = SplitSizes(calibration=0, validation=0, test=1)
    refused(lambda: onnx_test_data.load(OnnxTestDataParams(path="."), sizes, tmp_path, 0), words)


PAIRS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "there is no column 'a'"),
    "a header alone": (b"a\tb\ty\n", "holds no pairs"),
    "no label": (b"a\tb\nx\ty\n", "there is no column 'y'"),
    "two labels": (b"a\tb\ty\ty\nx\ty\t1\t2\n", "two columns are called 'y'"),
    "a line too short": (b"a\tb\ty\nx\n", "it has 1 columns, not 3"),
    "a label of infinity": (b"a\tb\ty\nx\tz\t1e999\n", "is not a number"),
    "not UTF-8": (b"a\tb\ty\n\xff\tz\t1\n", "is not a table"),
    "a field of a megabyte": (b"a\tb\ty\n" + b"x" * 1_000_000 + b"\tz\t1\n", "is not a table"),
}


@pytest.mark.parametrize(("table", "words"), PAIRS.values(), ids=PAIRS)
def test_a_table_of_pairs(table: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_bytes(table)
    columns = {"first": "a", "second": "b", "label": "y"}
    params = SentencePairsParams(path="p.tsv", tokenizer="t.json", columns=columns)
    refused(lambda: sentence_pairs.load(params, SIZES, tmp_path, 0), words)


def pixels(kind: str, mode: str, value: int = 1, size: tuple[int, int] = (7, 9)) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, value).save(stream, kind)
    return stream.getvalue()


MASKS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not an image"),
    "text": (b"0 1 1 0", "is not an image"),
    "colours": (pixels("PNG", "RGB"), "holds colours (RGB)"),
    "colours with alpha": (pixels("PNG", "RGBA"), "holds colours (RGBA)"),
    "fractions": (pixels("TIFF", "F"), "holds colours (F)"),
    "another size": (pixels("PNG", "L", size=(8, 9)), "where its image is 9x7"),
    "lying down": (pixels("PNG", "L", size=(9, 7)), "where its image is 9x7"),
    "a negative class": (pixels("TIFF", "I", -1), "a class is below 65536"),
    "a class of 32 bits": (pixels("TIFF", "I", (1 << 31) - 1), "a class is below 65536"),
    "a class without a name": (pixels("PNG", "L", 77), "pixels of class 77, and 2 classes have names"),
    "169 million pixels in 40 bytes": (gif(8810, 19156), "more than the 67,108,864 pixels"),
    "cut in half": (pixels("PNG", "L")[:40], "is not an image"),
}


@pytest.mark.parametrize(("content", "words"), MASKS.values(), ids=MASKS)
def test_a_mask(content: bytes, words: str, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "images" / "0.png").write_bytes(encoded("PNG"))
    (tmp_path / "masks" / "0.png").write_bytes(content)
    (tmp_path / "c.txt").write_text("road\nsky\n")
    params = MaskFolderParams(path="images", masks="masks", classes="c.txt")
    sizes = SplitSizes(calibration=0, validation=0, test=1)
    refused(lambda: next(mask_folder.load(params, sizes, tmp_path, 0).split("test").batches(1)), words)


def test_a_pixel_that_has_no_class(tmp_path: Path) -> None:
    for folder, content in (("images", encoded("PNG")), ("masks", pixels("PNG", "L", 3))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.png").write_bytes(content)
    params = MaskFolderParams(path="images", masks="masks", values={"0": 0})
    sizes = SplitSizes(calibration=0, validation=0, test=1)
    words = "has pixels of 3, which data.values gives no class"
    refused(lambda: next(mask_folder.load(params, sizes, tmp_path, 0).split("test").batches(1)), words)


def test_a_brush_that_says_that_it_is_gigabytes(tmp_path: Path) -> None:
    """No image's format: Pillow reads as many bytes as it says before anything else."""
    brush = struct.pack(">IIIII4sI", 1 << 31, 2, 4, 4, 1, b"GIMP", 10)
    refused(lambda: decode_all([brush], ["b"], Preparation()), "is not an image that Pillow can read")


def test_two_masks_of_one_image(tmp_path: Path) -> None:
    for name in ("images/0.png", "masks/0.png", "masks/0.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(pixels("PNG", "L"))
    refused(
        lambda: mask_folder.load(MaskFolderParams(path="images", masks="masks"), SIZES, tmp_path, 0),
        "are masks of one image",
    )


VOCABULARIES: dict[str, tuple[str, bytes, str]] = {
    "letters of nothing": ("a.txt", b"", "holds 0 letters"),
    "a letter of 100,000 characters": (
        "a.txt",
        b"a\n" + b"x" * 100_000,
        "letter 1 has 100,000 characters; 256 are read",
    ),
    "a token of a million characters": ("v.json", b'{"' + b"x" * 1_000_000 + b'": 0}', "letter 0 has 1,000,000"),
    "letters in Latin-1": ("a.txt", b"\xe4\n\xf6\n", "is no UTF-8 text"),
    "letters in UTF-16": ("a.txt", "a\nb\n".encode("utf-16"), "is no UTF-8 text"),
    "more letters than there are": ("a.txt", b"\n" * (3 << 20), "3,145,728 letters"),
    "no JSON": ("v.json", b"hello", "is no JSON"),
    "brackets": ("v.json", b"[" * 200_000, "is no JSON"),
    "a number of 5,000 digits": ("v.json", b'{"a": ' + b"9" * 5000 + b"}", "is no JSON"),
    "a number for 2^40 tokens": ("v.json", b'{"a": 1099511627776}', "is no vocabulary"),
    "a negative number": ("v.json", b'{"a": -1}', "is no vocabulary"),
    "true for a number": ("v.json", b'{"a": true}', "is no vocabulary"),
    "a list of numbers": ("v.json", b"[1, 2]", "is no vocabulary"),
    "half of a surrogate pair": ("v.json", b'["a", "\\ud800"]', "is no JSON"),
    "an empty list": ("v.json", b"[]", "is no vocabulary"),
    "no model": ("m.onnx", b"hello", "is not an ONNX model"),
    "metadata of no text": (
        "m.onnx",
        ModelProto(metadata_props=[StringStringEntryProto(key="character", value="~")])
        .SerializeToString()
        .replace(b"~", b"\xff"),
        "hold no alphabet",
    ),
}


@pytest.mark.parametrize(("name", "content", "words"), VOCABULARIES.values(), ids=VOCABULARIES)
def test_letters_of_a_recogniser(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    refused(lambda: tokens_of(name, tmp_path), words)
