"""Where a dataset of the library datasets lies, and what names its content. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from compressctl.core.errors import UsageError
from compressctl.sources.fingerprint import contents_fingerprint, existing_folder, hash_file
from compressctl.sources.huggingface.folder import is_on_the_hub, pinned
from compressctl.sources.params import HfDatasetParams
from compressctl.sources.tokenizing import tokenizer_files

VERSION = 1

_SETTINGS = ".huggingface.yaml"
"""Says what README.md may say: which files are which configuration."""
_LEFT_BY_OTHERS = ("cache-*.arrow", "*.lock")
"""What the library puts into a folder that it works on."""


def fingerprint(params: HfDatasetParams, base: Path) -> str:
    """Covers every file of a folder, and the tokenizer. Brings nothing: a commit on the Hub never changes."""
    contents = dict(contents_of(params, base))
    if params.tokenize is not None:
        files = tokenizer_files(params.tokenize.tokenizer, base)
        contents |= {name: hash_file(path) for name, path in files.items()}
    return contents_fingerprint("hf_dataset", VERSION, params, contents)


def contents_of(params: HfDatasetParams, base: Path) -> Mapping[str, str]:
    """What decides the dataset: the SHA-256 of each file by its path below the folder, or the commit."""
    folder = folder_of(params, base)
    if folder is None:
        return {"commit": commit_of(params)}
    return {f"data/{path.relative_to(folder).as_posix()}": hash_file(path) for path in files_of(folder)}


def commit_of(params: HfDatasetParams) -> str:
    return pinned(params.path, params.revision, "dataset", "data.revision")


def folder_of(params: HfDatasetParams, base: Path) -> Path | None:
    """None for an id of the Hub. Raises UsageError where there is neither, and for an id without its commit."""
    if is_on_the_hub(params.path, base):
        commit_of(params)
        return None
    folder = base / params.path
    try:
        existing_folder(folder, what="the dataset's folder")
    except UsageError as error:
        error.hint = "paths start from the recipe's folder; an id of the Hub is org/name, and needs data.revision"
        raise
    if params.revision is not None:
        raise UsageError(
            f"{folder} is a folder, and data.revision names a commit on the Hub", hint="leave data.revision out"
        )
    return folder


def files_of(folder: Path) -> list[Path]:
    """Those that a dataset may be of, sorted. Raises UsageError where there are none."""
    found = [path for path in folder.rglob("*") if _counts(path.relative_to(folder)) and not path.is_dir()]
    if not found:
        raise UsageError(
            f"{folder} holds no files",
            hint="data.path names the folder that save_to_disk wrote, or one of Parquet, JSON or CSV files",
        )
    return sorted(found)


def _counts(path: Path) -> bool:
    is_hidden = any(part.startswith(".") for part in path.parts) and path.parts != (_SETTINGS,)
    return not is_hidden and not any(fnmatchcase(path.name, pattern) for pattern in _LEFT_BY_OTHERS)
