"""Pages of real sentences in many fonts, as a camera or a scanner sees them, and what stands on each line.

Sentences are those of scikit-learn's data set descriptions and NumPy's and matplotlib's docstrings, fonts those of matplotlib's package.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import sklearn
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
SENTENCES = Path(sklearn.__file__).parent / "datasets" / "descr"

TEST_FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "STIXGeneralItalic", "DejaVuSans-Oblique")
CALIBRATION_FONTS = (
    "DejaVuSans-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneralBol",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif-Bold",
)
_LINES = 8
WIDTH, HEIGHT = 736, 736


@dataclass(frozen=True)
class Page:
    """lines: what stands on it, top to bottom. is_distorted: whether it looks photographed."""

    image: Image.Image
    lines: tuple[str, ...]
    is_distorted: bool


def test_pages(count: int) -> list[Page]:
    """Every second one distorted."""
    return _pages(count, TEST_FONTS, np.random.default_rng(0), _sentences(SENTENCES))


def calibration_pages(count: int) -> list[Page]:
    """Other sentences in other fonts, distorted otherwise."""
    import numpy

    text = " ".join((getattr(numpy, name).__doc__ or "") for name in sorted(dir(numpy)) if name.islower())
    return _pages(count, CALIBRATION_FONTS, np.random.default_rng(1), list(_cut(text)))


def _pages(count: int, fonts: tuple[str, ...], rng: np.random.Generator, lines: list[str]) -> list[Page]:
    chosen = rng.permutation(len(lines))[: count * _LINES]
    pages = []
    for number in range(count):
        on_it = tuple(lines[place] for place in chosen[number * _LINES : (number + 1) * _LINES])
        page = _drawn(on_it, fonts[number % len(fonts)], rng)
        is_distorted = number % 2 == 1
        pages.append(Page(_distorted(page, rng) if is_distorted else page, on_it, is_distorted))
    return pages


def _sentences(folder: Path) -> list[str]:
    return [line for path in sorted(folder.glob("*.rst")) for line in _cut(path.read_text(encoding="utf-8"))]


def _cut(text: str) -> Iterator[str]:
    """Of 16 to 34 letters, cut between words; words alone, without tables and marks of their format."""
    line = ""
    for word in re.findall(r"(?<=[\s(])[A-Za-z][A-Za-z,.']*|[0-9]{1,4}(?=[\s,.])", text):
        if len(line) + len(word) + 1 > 34:
            if len(line) >= 16:
                yield line
            line = ""
        line = f"{line} {word}".strip()


def _drawn(lines: tuple[str, ...], font: str, rng: np.random.Generator) -> Image.Image:
    """Dark on light, or light on dark."""
    paper, ink = (245, 30) if rng.random() < 0.8 else (40, 225)
    page = Image.new("RGB", (WIDTH, HEIGHT), tuple(int(paper + shade) for shade in rng.integers(-8, 9, 3)))
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        size = int(rng.integers(24, 31))
        draw.text(
            (40 + int(rng.integers(0, 30)), 44 + number * 82),
            line,
            (ink,) * 3,
            ImageFont.truetype(str(FONTS / f"{font}.ttf"), size),
        )
    return page


def _distorted(page: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Seen from aside, out of focus, in little and uneven light, with noise, and compressed as JPEG."""
    corners = np.array([[0, 0], [0, HEIGHT], [WIDTH, HEIGHT], [WIDTH, 0]]) + rng.integers(-18, 19, (4, 2))
    page = page.transform(
        page.size, Image.Transform.QUAD, tuple(corners.reshape(-1).tolist()), Image.Resampling.BICUBIC
    )
    page = page.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.3))))
    values = np.asarray(page, np.float32)
    light = np.linspace(rng.uniform(0.55, 1), rng.uniform(0.55, 1), WIDTH)[None, :, None]
    grey = rng.uniform(0.45, 0.9)
    values = (128 + (values - 128) * grey) * light + rng.normal(0, rng.uniform(3, 11), values.shape)
    stream = io.BytesIO()
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=int(rng.integers(35, 75)))
    return Image.open(stream).convert("RGB")
