"""A search's files: search.json, .md and .html, each whole or not there."""

from __future__ import annotations

from pathlib import Path

from compressctl.core.legible import legible, without_commands
from compressctl.core.secrets import for_others
from compressctl.core.whole_files import write_whole
from compressctl.search import as_html, as_markdown
from compressctl.search.document import Search


def write(found: Search, folder: Path) -> list[Path]:
    """Their paths. Raises MachineError, OSError."""
    told = Search.model_validate(for_others(found.model_dump()))
    texts = {
        "search.json": told.model_dump_json(indent=1) + "\n",
        "search.md": as_markdown.render(told),
        "search.html": as_html.render(told),
    }
    for name, text in texts.items():
        write_whole(folder / name, [without_commands(legible(text)).encode(errors="replace")])
    return [folder / name for name in texts]
