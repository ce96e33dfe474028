"""Recorded English sentences of five to thirty seconds with what is said in them, from packages of Debian.

Asterisk's prompts, 16 kHz, are read by one voice artist from a script that its package brings; pocketsphinx's test data are three
sentences of "Sense and Sensibility" off LibriVox.
"""

from __future__ import annotations

import gzip
import re
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from published.recordings import DEBS, RATE, decoded, fetch_debian

_ENGLISH = "asterisk-core-sounds-en-g722"
_PACKAGES = {
    _ENGLISH: DEBS[_ENGLISH],
    "asterisk-core-sounds-en": ("1.6.1-1", "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50"),
    "pocketsphinx-testdata": (
        "0.8+5prealpha+1-15",
        "eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0",
    ),
}
_SECONDS = (5, 30)
"""Whisper hears thirty seconds at once."""

_SPOKEN = {
    "*": " star ",
    "#": " pound ",
    "thru": "through",
    "umute": "unmute",
    "represenatives": "representatives",
    "www.": "www ",
}
"""How the script's signs are read, and its slips of the pen."""


@dataclass(frozen=True)
class Utterance:
    """samples: float32 from -1 to 1 at 16 kHz."""

    name: str
    text: str
    samples: np.ndarray

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE


def utterances() -> list[Utterance]:
    """All of them, by name."""
    share = fetch_debian(_PACKAGES) / "usr" / "share"
    found = [*_prompts(share), *_librivox(share / "pocketsphinx" / "test" / "data" / "librivox")]
    return sorted((one for one in found if _SECONDS[0] <= one.seconds <= _SECONDS[1]), key=lambda one: one.name)


def write(sentences: list[Utterance], folder: Path) -> None:
    """As `source: wav_folder` reads them: sounds, and transcripts.tsv beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for one in sentences:
        with wave.open(str(folder / f"{one.name}.wav"), "wb") as file:
            file.setparams((1, 2, RATE, len(one.samples), "NONE", ""))
            file.writeframes(np.clip(one.samples * 32768, -32768, 32767).astype("<i2").tobytes())
        lines.append(f"{one.name}.wav\t{one.text}\n")
    (folder / "transcripts.tsv").write_text("".join(lines))


def _prompts(share: Path) -> Iterator[Utterance]:
    script = gzip.decompress(
        (share / "doc" / "asterisk-core-sounds-en" / "core-sounds-en.txt.gz").read_bytes()
    ).decode()
    [voice] = (share / "asterisk" / "sounds").iterdir()
    for name, text in re.findall(r"^([\w/-]+):[ \t]*(.+)$", script, re.MULTILINE):
        path = voice / f"{name}.g722"
        if path.exists() and not re.search(r"\[.*\]|\(.*(silence|tone).*\)", text):
            yield Utterance(name.replace("/", "-"), _spoken(text), decoded(path))


def _spoken(text: str) -> str:
    for written, said in _SPOKEN.items():
        text = text.replace(written, said)
    return re.sub(r"\s+", " ", text).strip(" .")


def _librivox(folder: Path) -> Iterator[Utterance]:
    for text, name in re.findall(r"<s> (.*) </s> \((.*)\)", (folder / "transcription").read_text()):
        with wave.open(str(folder / f"{name}.wav")) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        yield Utterance(name, text, samples.astype(np.float32) / 32768)
