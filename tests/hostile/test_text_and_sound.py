"""Lists of texts, sound files and JSON lines that hold something else than they say."""

import os
import struct
from pathlib import Path

import pytest
from hostile._in_process import refused
from PIL import Image
from pydantic import ValidationError

from compressctl.core.source import SplitSizes
from compressctl.sources import jsonl, text_images, wav_folder
from compressctl.sources.params import JsonlParams, TextImagesParams, WavFolderParams

SIZES = SplitSizes(calibration=0, validation=0, test=1)


def read(dataset: object) -> None:
    for name in ("train", "test"):
        for _ in dataset.split(name).batches(4):  # type: ignore[attr-defined]
            pass


LISTS: dict[str, tuple[str, bytes, str]] = {
    "nothing": ("l.txt", b"", "names no files"),
    "blank lines": ("l.txt", b"\n  \n\n", "names no files"),
    "no tab": ("l.txt", b"a.png one\n", ":1: there is no tab between"),
    "a text without a file": ("l.txt", b"a.png\tx\n\tone\n", ":2: there is no tab between"),
    "a file twice": ("l.txt", b"a.png\tx\na.png\ty\n", ":2: a.png is named above, too"),
    "no such file": ("l.txt", b"b.png\tx\n", "b.png does not exist"),
    "a null byte": ("l.txt", b"a\0.png\tx\n", "it names no file"),
    "a name too long": ("l.txt", b"a" * 5000 + b"\tx\n", "cannot be read"),
    "a folder": ("l.txt", b"folder\tx\n", "is not a file"),
    "a device": ("l.txt", b"/dev/zero\tx\n", "is a device"),
    "a pipe": ("l.txt", b"pipe\tx\n", "is a pipe"),
    "not UTF-8": ("l.txt", b"\xff\xfe\tx\n", "is not a list of files and texts"),
    "no picture": ("l.txt", b"l.txt\tx\n", "is not an image"),
    "other columns": ("l.csv", b"a,b\n1,2\n", "its columns are a, b"),
    "a column twice": ("l.csv", b"file,text,text\na.png,1,2\n", "each once"),
    "a line too short": ("l.csv", b"file,text\na.png\n", "this line has 1 values"),
    "a field of a megabyte": ("l.csv", b"file,text\na.png," + b"x" * 1_000_000 + b"\n", "is not a list"),
    "no JSON": ("l.jsonl", b"a.png\tx\n", "it is no JSON"),
    "a list": ("l.jsonl", b'["a.png", "x"]\n', "it is no JSON object"),
    "a number for a text": ("l.jsonl", b'{"file": "a.png", "text": 3}\n', "it names no file and text"),
    "brackets in brackets": ("l.jsonl", b"[" * 200_000 + b"\n", "it is no JSON"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (9, 7)).save(tmp_path / "a.png")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize(("name", "content", "words"), LISTS.values(), ids=LISTS)
def test_a_list_of_pictures(name: str, content: bytes, words: str, folder: Path) -> None:
    (folder / name).write_bytes(content)
    refused(lambda: read(text_images.load(TextImagesParams(path=name), SIZES, folder, 0)), words)


def test_a_picture_that_grows_when_it_is_resized(folder: Path) -> None:
    (folder / "a.pgm").write_bytes(b"P5 60000 1 255\n" + bytes(60_000))
    (folder / "l.txt").write_text("a.pgm\tx\n")
    refused(
        lambda: read(text_images.load(TextImagesParams(path="l.txt", height=48), SIZES, folder, 0)),
        "resized, is 48x2880000",
    )


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(body) if size is None else size) + body


def form(kind: int = 1, channels: int = 1, rate: int = 8000, bits: int = 16, block: int | None = None) -> bytes:
    block = channels * bits // 8 if block is None else block
    return chunk(b"fmt ", struct.pack("<HHIIHH", kind, channels, rate, (rate * block) % 2**32, block, bits))


def riff(*chunks: bytes) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


SOUND = chunk(b"data", bytes(64))
SOUNDS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not a WAV file"),
    "text": (b"hello there, this is text", "is not a WAV file"),
    "another RIFF file": (riff().replace(b"WAVE", b"AVI "), "is not a WAV file"),
    "no chunks": (riff(), "holds no sound"),
    "no sound": (riff(form()), "holds no sound"),
    "no format": (riff(SOUND), "does not say how its sound is written"),
    "a format of four bytes": (riff(chunk(b"fmt ", bytes(4)), SOUND), "does not say how its sound is written"),
    "an ending in the middle": (riff(form(), chunk(b"data", bytes(64), 4000)), "ends early: 64 bytes"),
    "compressed sound": (riff(form(kind=0x55), SOUND), "format 85"),
    "bits that there are not": (riff(form(bits=12), SOUND), "format 1 in 12 bits"),
    "no channels": (riff(form(channels=0), SOUND), "says 0 channels"),
    "no rate": (riff(form(rate=0), SOUND), "at 0 samples"),
    "a block of another size": (riff(form(block=7), SOUND), "in 7 bytes"),
    "65,535 channels": (riff(form(channels=65535, block=1), SOUND), "says 65535 channels"),
    "not a number": (riff(form(kind=3, bits=32), chunk(b"data", struct.pack("<f", float("nan")))), "no numbers"),
    "a number beyond 32 bits": (riff(form(kind=3, bits=64), chunk(b"data", struct.pack("<d", 1e300))), "no numbers"),
    "no samples": (riff(form(), chunk(b"data", b"")), "holds no samples"),
    "half a sample": (riff(form(), chunk(b"data", b"\1")), "holds no samples"),
    "a chunk of four gigabytes": (riff(chunk(b"junk", b"", 0xFFFF_FFFF), form(), SOUND), "holds no sound"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("content", "words"), SOUNDS.values(), ids=SOUNDS)
def test_a_sound(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.wav").write_bytes(content)
    refused(lambda: read(wav_folder.load(WavFolderParams(path=".", labels="folders"), SIZES, tmp_path, 0)), words)


def test_frames_that_multiply_sounds() -> None:
    with pytest.raises(
        ValidationError, match=r"would stand in 4,096 frames, 64 are allowed; take a step of 64 or more"
    ):
        WavFolderParams(path=".", length=48_000, frames=(4096, 1))
    assert WavFolderParams(path=".", frames=(4096, 64)).frames
    with pytest.raises(ValidationError, match="less than or equal to 67108864"):
        WavFolderParams(path=".", length=2_000_000_000)


def test_sounds_that_are_not_there(tmp_path: Path) -> None:
    def load(labels: str) -> None:
        wav_folder.load(WavFolderParams(path=".", labels=labels), SIZES, tmp_path, 0)

    refused(lambda: load("folders"), "holds no .wav files")
    refused(lambda: load("transcripts"), "holds no transcripts")
    (tmp_path / "a.trans.txt").write_text("/ hello\n")
    refused(lambda: load("transcripts"), "a.trans.txt:1: it names no file")
    (tmp_path / "a.trans.txt").write_text("1-2 hello\n")
    refused(lambda: load("transcripts"), "1-2.wav does not exist")
    (tmp_path / "a.wav").write_bytes(riff(form(), SOUND))
    refused(lambda: load("folders"), "lies in no class folder")


ROWS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "holds no lines"),
    "no JSON": (b"{x: 1}\n", ":1: it is no JSON"),
    "two objects on a line": (b'{"x": 1} {"x": 2}\n', ":1: it is no JSON"),
    "a number": (b"3\n", "it is no JSON object"),
    "brackets in brackets": (b'{"x": ' + b"[" * 200_000 + b"\n", "it is no JSON"),
    "lists in lists": (b'{"x": ' + b"[" * 40 + b"1" + b"]" * 40 + b', "y": 1}\n', "is no number"),
    "not UTF-8": (b'{"x": "\xff"}\n', "it is no JSON"),
    "infinity": (b'{"x": Infinity, "y": 1}\n', "Infinity is no number"),
    "not a number": (b'{"x": NaN, "y": 1}\n', "NaN is no number"),
    "a number of five thousand digits": (b'{"x": ' + b"9" * 5000 + b', "y": 1}\n', "it is no JSON"),
    "a number beyond 64 bits": (b'{"x": 99999999999999999999999, "y": 1}\n', "is no number"),
    "a text for a number": (b'{"x": "a", "y": 1}\n', ":1: 'x' is no number"),
    "an object for a number": (b'{"x": {"a": 1}, "y": 1}\n', "is no number"),
    "nothing for a number": (b'{"x": null, "y": 1}\n', "is no number"),
    "lists of two lengths in one": (b'{"x": [[1], [1, 2]], "y": 1}\n', "is no number"),
    "no label": (b'{"x": 1, "y": 1}\n{"x": 1}\n', ":2: there is no field 'y'"),
    "a negative class": (b'{"x": 1, "y": -3}\n', "negative class"),
    "labels of two lengths": (b'{"x": 1, "y": [1]}\n{"x": 1, "y": [1, 2]}\n', ":2: its label"),
    "a number that 64 bits hold without a sign": (
        b'{"x": 18446744073709551615, "y": 1}\n',
        ":1: 'x' holds a number that is",
    ),
    "a number beyond 32-bit floats": (b'{"x": 1e300, "y": 1}\n', "a number that is too large"),
    "a number beyond floats": (b'{"x": [1, -1e999], "y": 1}\n', "a number that is too large"),
    "an empty class": (b'{"x": 1, "y": "a"}\n{"x": 1, "y": " "}\n', ":2: the label is missing"),
    "half of a surrogate pair for a class": (b'{"x": 1, "y": "\\ud800"}\n', "it is no JSON"),
    "labels of two kinds": (b'{"x": 1, "y": 1}\n{"x": 1, "y": "a"}\n', ":2: 'y' is no number"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("content", "words"), ROWS.values(), ids=ROWS)
def test_json_lines(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(content)
    params = JsonlParams(path="d.jsonl", inputs=("x",), label="y")
    refused(lambda: read(jsonl.load(params, SIZES, tmp_path, 0)), words)
