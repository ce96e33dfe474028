"""Lists of files and the text of each: a table, JSON lines, PaddleOCR's lines, LibriSpeech's transcripts."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compressctl.core.errors import UsageError
from compressctl.core.regular_files import open_regular_text
from compressctl.sources.json_lines import json_rows

TRANSCRIPTS = ".trans.txt"
_FILE, _TEXT = (
    ("file", "path", "image", "audio", "audio_filepath", "filename"),
    ("text", "label", "transcript", "sentence"),
)


@dataclass(frozen=True)
class Texted:
    """A file, and what stands or is spoken in it. place: of its line."""

    path: Path
    text: str
    place: str


def read_list(path: Path, suffix: str = "") -> list[Texted]:
    """By the list's own suffix: .csv with a header, .jsonl, .trans.txt (`ID text`), anything else `path<tab>text`.

    Files are named from the list's folder. suffix: of files that are named without one. Raises UsageError with file:line for what is
    no such line, and for a file that is named twice.
    """
    try:
        found = [
            Texted(_named(path, name, suffix, place), text, place) for name, text, place in _pairs(path) if name or text
        ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is not a list of files and texts: {error}") from error
    if not found:
        raise UsageError(
            f"{path} names no files", hint="each line names a file and its text, as in `line_1.png<tab>some text`"
        )
    seen: dict[Path, Texted] = {}
    for entry in found:
        if seen.setdefault(entry.path, entry) is not entry:
            raise UsageError(f"{entry.place}: {entry.path.name} is named above, too ({seen[entry.path].place})")
    return found


def _pairs(path: Path) -> Iterator[tuple[str, str, str]]:
    """File, text and place of each line."""
    if path.suffix == ".jsonl":
        yield from _of_json(path)
    elif path.suffix == ".csv":
        yield from _of_csv(path)
    else:
        separator = " " if path.name.endswith(TRANSCRIPTS) else "\t"
        with open_regular_text(path, "utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                name, found, text = line.rstrip("\r\n").partition(separator)
                place = f"{path}:{number}"
                if line.strip() and (not found or not name):
                    what = "blank" if separator == " " else "tab"
                    raise UsageError(f"{place}: there is no {what} between a file and its text")
                if line.strip() and (
                    number > 1 or (name, text) not in [(file, text) for file in _FILE for text in _TEXT]
                ):
                    yield name, text, place


def _of_json(path: Path) -> Iterator[tuple[str, str, str]]:
    for row, place in json_rows(path):
        name, text = (next((row[key] for key in keys if key in row), None) for keys in (_FILE, _TEXT))
        if not isinstance(name, str) or not isinstance(text, str):
            raise UsageError(
                f"{place}: it names no file and text", hint=f'as in {{"{_FILE[0]}": "a.png", "{_TEXT[0]}": "..."}}'
            )
        yield name, text, place


def _of_csv(path: Path) -> Iterator[tuple[str, str, str]]:
    with open_regular_text(path, "utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        header = [name.strip() for name in next(rows, [])]
        columns = [[name for name in names if name in header] for names in (_FILE, _TEXT)]
        if any(not names or header.count(names[0]) > 1 for names in columns):
            raise UsageError(
                f"{path}:1: its columns are {', '.join(header[:20]) or 'none'}",
                hint=f"one is called {' or '.join(_FILE)}, one {' or '.join(_TEXT)}, each once",
            )
        places = [header.index(names[0]) for names in columns]
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise UsageError(
                    f"{path}:{rows.line_num}: this line has {len(row)} values, the first names {len(header)} columns"
                )
            yield row[places[0]], row[places[1]], f"{path}:{rows.line_num}"


def _named(path: Path, name: str, suffix: str, place: str) -> Path:
    """Below the list's folder, or where an absolute path leads."""
    if not Path(name).name.strip() or "\0" in name:
        raise UsageError(f"{place}: it names no file")
    found = path.parent / name
    return found.with_name(found.name + suffix) if suffix and not found.suffix else found
