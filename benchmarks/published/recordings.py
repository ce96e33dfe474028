"""Telephone prompts spoken by people in five languages, and music, from packages of Debian: a stream with pauses between sentences.

All were recorded for telephones, at 8 kHz; for models of 16 kHz they are resampled, so that nothing stands above 4 kHz.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np

from published.packages import BUILD

RATE = 8000
DEBS = {
    "asterisk-core-sounds-en-wav": ("1.6.1-1", "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d"),
    "asterisk-core-sounds-es-wav": ("1.6.1-1", "9283a09a6d56fccdcc2bcfe86c48f0f844289cfbd46a3184d8785a6f7f569903"),
    "asterisk-core-sounds-fr-wav": ("1.6.1-1", "8d4e1bc32ed5ba7fbda40841ca1825ed20cc6232724a473c90f8bb0e53e6073e"),
    "asterisk-core-sounds-it-wav": ("1.6.1-1", "5a26638089e134b8ac39363fe249c5c93c50cd8bfdc9b2499ae61ec4a35e2fcb"),
    "asterisk-core-sounds-ru-wav": ("1.6.1-1", "ccbfaebfa450b7a9ddf644ae0f3d1e9017d5df7c0aebe816e946345589d38201"),
    "asterisk-moh-opsound-wav": ("2.03-1.1", "8f9d808a729d305c2d3343993f21ca5e6829e411682618dc8ea7aa8bc24a566c"),
}
"""Debian package to version and SHA-256. apt must know them: `apt-get update` first."""


def fetch_recordings() -> Path:
    """The folder in which the packages are unpacked. Raises ValueError when a file is not the pinned one."""
    into = BUILD / "debian"
    into.mkdir(parents=True, exist_ok=True)
    for name, (version, sha256) in DEBS.items():
        done = into / f"{name}.done"
        if done.exists():
            continue
        print(f"fetching {name} {version}", file=sys.stderr, flush=True)
        subprocess.run(
            ["apt-get", "download", "-qq", f"{name}={version}"], cwd=into, check=True, stderr=subprocess.DEVNULL
        )
        [archive] = into.glob(f"{name}_*.deb")
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != sha256:
            raise ValueError(f"{archive.name} has SHA-256 {found}, pinned is {sha256}")
        subprocess.run(["dpkg-deb", "--extract", archive.name, "files"], cwd=into, check=True)
        archive.unlink()
        done.touch()
    return into / "files" / "usr" / "share" / "asterisk"


def stream(seconds: float, seed: int = 0) -> tuple[np.ndarray, float]:
    """(samples,) float32 at 8 kHz in -1 to 1, and the share of it in which somebody speaks.

    Sentences of all languages in turn, at random; between them pauses of nothing, of noise, or of music; some sentences over noise or music
    of a tenth of their energy.
    """
    root, rng = fetch_recordings(), np.random.default_rng(seed)
    languages = sorted(path for path in (root / "sounds").iterdir() if path.is_dir())
    spoken = [sorted(path for path in language.rglob("*.wav") if "silence" not in path.parts) for language in languages]
    music = [_samples(path) for path in sorted((root / "moh").glob("*.wav"))]
    parts: list[np.ndarray] = []
    speech = done = 0
    while done < seconds * RATE:
        files = spoken[len(parts) // 2 % len(spoken)]
        voice = _samples(files[int(rng.integers(len(files)))])
        if not RATE <= len(voice) <= 8 * RATE:
            continue
        level = float(np.sqrt(np.mean(voice**2)))
        sentence = voice + np.float32(np.sqrt(0.1)) * _background(len(voice), level, music, rng)
        pause = _background(int(rng.uniform(0.5, 5) * RATE), level, music, rng)
        parts += [sentence, pause]
        speech, done = speech + len(voice), done + len(voice) + len(pause)
    whole = np.concatenate(parts)[: int(seconds * RATE)]
    return np.clip(whole, -1, 1).astype(np.float32), speech / done


def _background(length: int, level: float, music: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Nothing, white noise or music, each as often, at the level of speech."""
    kind = int(rng.integers(3))
    if kind == 0:
        return np.zeros(length, np.float32)
    if kind == 1:
        return (level * rng.standard_normal(length)).astype(np.float32)
    piece = music[int(rng.integers(len(music)))]
    start = int(rng.integers(len(piece) - length))
    part = piece[start : start + length]
    return np.asarray(part * level / max(float(np.sqrt(np.mean(part**2))), 1e-4), np.float32)


def _samples(path: Path) -> np.ndarray:
    with wave.open(str(path)) as opened:
        assert (opened.getframerate(), opened.getsampwidth(), opened.getnchannels()) == (RATE, 2, 1), path
        return np.frombuffer(opened.readframes(opened.getnframes()), np.int16).astype(np.float32) / 32768
