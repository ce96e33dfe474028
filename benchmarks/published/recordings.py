"""Telephone prompts spoken by people in five languages, and music, from packages of Debian: a stream with pauses between sentences.

All are wideband telephone sound, 16 kHz in G.722, which the package g722 decodes.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from published.packages import BUILD

RATE = 16000
DEBS = {
    "asterisk-core-sounds-en-g722": ("1.6.1-1", "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806"),
    "asterisk-core-sounds-es-g722": ("1.6.1-1", "e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8"),
    "asterisk-core-sounds-fr-g722": ("1.6.1-1", "7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0"),
    "asterisk-core-sounds-it-g722": ("1.6.1-1", "46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016"),
    "asterisk-core-sounds-ru-g722": ("1.6.1-1", "673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b"),
    "asterisk-moh-opsound-g722": ("2.03-1.1", "8d6b39d6f2e8feff54a042c4a25e1b72f3e2478d05ee372c92f77446fa0b1671"),
}
"""Debian package to version and SHA-256. apt must know them: `apt-get update` first."""


def fetch_recordings() -> Path:
    """The folder in which the packages are unpacked."""
    return fetch_debian(DEBS) / "usr" / "share" / "asterisk"


def fetch_debian(packages: Mapping[str, tuple[str, str]]) -> Path:
    """The root below which packages, by name their version and SHA-256, are unpacked. Raises ValueError when a file is not the pinned one."""
    into = BUILD / "debian"
    into.mkdir(parents=True, exist_ok=True)
    for name, (version, sha256) in packages.items():
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
    return into / "files"


def stream(seconds: float, seed: int = 0) -> tuple[np.ndarray, float]:
    """(samples,) float32 at 16 kHz in -1 to 1, and the share of it in which somebody speaks.

    Sentences of all languages in turn, at random; between them pauses of nothing, of noise, or of music; some sentences over noise or music
    of a tenth of their energy.
    """
    root, rng = fetch_recordings(), np.random.default_rng(seed)
    languages = sorted(path for path in (root / "sounds").iterdir() if path.is_dir())
    spoken = [
        sorted(path for path in language.rglob("*.g722") if "silence" not in path.parts) for language in languages
    ]
    music = [decoded(path) for path in sorted((root / "moh").glob("*.g722"))]
    parts: list[np.ndarray] = []
    speech = done = 0
    while done < seconds * RATE:
        files = spoken[len(parts) // 2 % len(spoken)]
        voice = decoded(files[int(rng.integers(len(files)))])
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


def decoded(path: Path) -> np.ndarray:
    from G722 import G722

    return np.asarray(G722(RATE, 64000).decode(path.read_bytes()), np.float32) / 32768
