"""Sound files with transcripts, or in a folder for each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compressctl.core.data import Dataset, ShapesDifferError
from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.dataset import SplitDataset
from compressctl.sources.fingerprint import existing, existing_folder, source_fingerprint
from compressctl.sources.params import WavFolderParams
from compressctl.sources.splits import choose
from compressctl.sources.text_lists import TRANSCRIPTS, read_list
from compressctl.sources.wav_file import read_wav

VERSION = 1


def load(params: WavFolderParams, sizes: SplitSizes, base: Path, seed: int) -> Dataset:
    """Inputs (n, samples) float32 from -1 to 1, (n, 1, samples) or (n, frames, samples of one); labels (n,) strings, or int64 classes.

    Files are found now and sorted by path; each is read when its batch is. Sounds of one length share a batch. Raises UsageError
    when there are none, one has no transcript, the first cannot be read, or one's rate is another.
    """
    found = _found(params, base)
    labels = None if found.labels is None else np.array(found.labels, object)
    names = None
    rate = params.sample_rate or read_wav(found.paths[0]).rate
    if labels is not None and not found.texts:
        names, labels = np.unique(labels.astype(str), return_inverse=True)

    def read(positions: np.ndarray) -> tuple[Mapping[str, np.ndarray], np.ndarray | None]:
        sounds = [_prepared(found.paths[position], params, rate) for position in positions]
        if len({sound.shape for sound in sounds}) > 1:
            raise ShapesDifferError("sounds differ in length", hint="set data.length to cut and pad them")
        return {params.input_name: np.stack(sounds)}, None if labels is None else labels[positions]

    return SplitDataset(None if names is None else tuple(names.tolist()), choose(len(found.paths), sizes, seed), read)


def fingerprint(params: WavFolderParams, base: Path) -> str:
    """Covers every sound's path below the folder, its contents and its label."""
    found = _found(params, base)
    root = base / params.path
    files = {
        f"{label}\0{path.relative_to(root).as_posix() if path.is_relative_to(root) else path}": path
        for path, label in zip(found.paths, found.labels or [""] * len(found.paths), strict=True)
    }
    return source_fingerprint("wav_folder", VERSION, params, files)


@dataclass(frozen=True)
class _Found:
    """labels: None where there are none. texts: whether they are what is spoken."""

    paths: list[Path]
    labels: list[str] | None
    texts: bool


def _found(params: WavFolderParams, base: Path) -> _Found:
    root = existing_folder(base / params.path, what="the folder of sounds")
    if params.labels is None:
        return _Found(_sounds(root), None, False)
    if params.labels == "folders":
        return _by_folder(root)
    if params.labels == "transcripts":
        lists = sorted(path for path in root.rglob(f"*{TRANSCRIPTS}") if not path.is_dir())
        if not lists:
            raise UsageError(
                f"{root} holds no transcripts", hint=f"their names end in {TRANSCRIPTS}; or name a list in data.labels"
            )
    else:
        lists = [existing(base / params.labels, what="the list of transcripts")]
    lines = [line for path in lists for line in read_list(path, ".wav")]
    for line in lines:
        existing(line.path, what=f"{line.place}: the sound")
    return _Found([line.path for line in lines], [line.text for line in lines], True)


def _sounds(root: Path) -> list[Path]:
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() == ".wav" and not path.is_dir())
    if not paths:
        raise UsageError(f"{root} holds no .wav files")
    return paths


def _by_folder(root: Path) -> _Found:
    paths = _sounds(root)
    folders = [path.relative_to(root).parts for path in paths]
    alone = next((path for path, parts in zip(paths, folders, strict=True) if len(parts) < 2), None)
    if alone is not None:
        raise UsageError(
            f"{alone} lies in no class folder", hint="one folder per class, or name the transcripts in data.labels"
        )
    return _Found(paths, [parts[0] for parts in folders], False)


def _prepared(path: Path, params: WavFolderParams, rate: int) -> np.ndarray:
    """rate: of all sounds, since a model counts samples, not seconds."""
    sound = read_wav(path)
    if sound.rate != rate:
        wanted = f"data.sample_rate is {rate}" if params.sample_rate else f"the first sound has {rate}"
        raise UsageError(
            f"{path} has {sound.rate} samples a second, {wanted}",
            hint=f"convert it, as in `ffmpeg -i in.wav -ar {rate} out.wav`",
        )
    samples: np.ndarray = sound.samples.mean(axis=1)
    if not len(samples):
        raise UsageError(f"{path} holds no samples")
    if params.length is not None:
        samples = np.pad(samples[: params.length], (0, max(0, params.length - len(samples))))
    if params.frames is not None:
        length, step = params.frames
        if len(samples) < length:
            raise UsageError(f"{path} has {len(samples)} samples, a frame {length}", hint="set data.length to pad it")
        samples = np.lib.stride_tricks.sliding_window_view(samples, length)[::step]
    return samples[None] if params.layout == "NCT" else samples
