"""Which image files a folder holds, to which class each belongs, and which subfolders are splits of their own."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from compressctl.core.errors import UsageError
from compressctl.core.regular_files import open_regular_text
from compressctl.sources.fingerprint import existing
from compressctl.sources.params import ImageFolderParams, SplitFolders

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}

_TRAIN = ("train", "training")
_VALIDATION = ("val", "valid", "validation")
_TEST = ("test", "testing")


@dataclass(frozen=True)
class Labelled:
    path: Path
    label: str


@dataclass(frozen=True)
class Parts:
    """rest: what the splits share. validation, test: the folder's own, empty when it has none. Each sorted by path."""

    rest: list[Labelled]
    validation: list[Labelled]
    test: list[Labelled]


def find_parts(root: Path, params: ImageFolderParams, base: Path) -> Parts:
    """Every image below the folder with its label. Raises UsageError when there are none or one has no label."""
    folders = params.folders or split_folders(root)
    table = _table(params, base)
    if folders is None:
        return Parts(_labelled(root, params, table, root), [], [])
    return Parts(
        *(
            [] if name is None else _labelled(_subfolder(root, name), params, table, root)
            for name in (folders.train, folders.validation, folders.test)
        )
    )


def read_label_table(path: Path) -> dict[str, str]:
    """File name to label from a CSV with the columns file and label."""
    try:
        with open_regular_text(path, "utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            if header.count("file") != 1 or header.count("label") != 1:
                raise UsageError(
                    f"{path}:1: its columns are {', '.join(header or ['none'])}",
                    hint="it needs file and label, each once",
                )
            name, label = header.index("file"), header.index("label")
            table: dict[str, str] = {}
            for row in filter(None, rows):
                if len(row) != len(header):
                    raise UsageError(
                        f"{path}:{rows.line_num}: this line has {len(row)} values, the first names {len(header)} columns"
                    )
                if not row[label].strip():
                    raise UsageError(f"{path}:{rows.line_num}: the label is missing")
                if table.setdefault(row[name], row[label]) != row[label]:
                    raise UsageError(f"{path}:{rows.line_num}: {row[name]} has another label above")
            return table
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is not a table of labels: {error}") from error


def split_folders(root: Path) -> SplitFolders | None:
    """train with val or test, and nothing else. A single held-out folder counts as test: what is reported is unseen."""
    # Path.is_dir, unlike scandir's entries, takes a link in a circle for no folder instead of raising.
    names = {entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    train, validation, test = (next((name for name in usual if name in names), None) for usual in _USUAL)
    held_out = {name for name in (validation, test) if name is not None}
    if train is None or not held_out or names != {train, *held_out}:
        return None
    if test is None:
        return SplitFolders(train=train, test=validation)
    return SplitFolders(train=train, validation=validation, test=test)


_USUAL = (_TRAIN, _VALIDATION, _TEST)


def _subfolder(root: Path, name: str) -> Path:
    folder = root / name
    if not folder.is_dir():
        raise UsageError(f"data.folders names {name!r}, but there is no folder {folder}")
    return folder


def _table(params: ImageFolderParams, base: Path) -> dict[str, str] | None:
    if params.labels in (None, "folders", "prefix"):
        return None
    return read_label_table(existing(base / str(params.labels), what="the table of labels"))


def _labelled(folder: Path, params: ImageFolderParams, table: dict[str, str] | None, root: Path) -> list[Labelled]:
    paths = find_images(folder)
    if params.labels is None:
        return [Labelled(path, "") for path in paths]
    if table is not None:
        return [Labelled(path, _from_table(path, table, root)) for path in paths]
    if params.labels == "prefix":
        return [Labelled(path, _from_prefix(path, params.separator)) for path in paths]
    return [Labelled(path, _from_folder(path, folder)) for path in paths]


def find_images(folder: Path) -> list[Path]:
    """Every image below, sorted; hidden ones are none. Raises UsageError when there are none."""
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not paths:
        raise UsageError(f"{folder} holds no images", hint=f"their names end in {', '.join(sorted(SUFFIXES))}")
    return paths


def _from_table(path: Path, table: dict[str, str], root: Path) -> str:
    for name in (path.relative_to(root).as_posix(), path.name):
        if name in table:
            return table[name]
    raise UsageError(f"{path} has no line in the table of labels")


def _from_prefix(path: Path, separator: str) -> str:
    prefix, found, _ = path.stem.partition(separator)
    if not found or not prefix:
        raise UsageError(
            f"{path} has no class before {separator!r} in its name", hint="set data.separator, or another data.labels"
        )
    return prefix


def _from_folder(path: Path, folder: Path) -> str:
    """The first folder below; deeper ones only sort the files of a class."""
    parts = path.relative_to(folder).parts
    if len(parts) < 2:
        raise UsageError(
            f"{path} lies in no class folder", hint="one folder per class, or set data.labels to prefix or a table"
        )
    return parts[0]
