"""Put the tables of benchmarks/recorded/ into the documentation, so that no figure in them is typed by hand.

python benchmarks/write_tables.py [--check]

A page holds `<!-- recorded: NAME -->`, the table, and `<!-- end -->`. `run.py` writes recorded/NAME.md.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
PAGES = sorted((HERE.parent / "docs").glob("*.md"))
_PLACE = re.compile(r"(<!-- recorded: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


def main() -> None:
    old = {page: page.read_text() for page in PAGES}
    new = {page: filled(text) for page, text in old.items()}
    changed = [page for page in PAGES if new[page] != old[page]]
    if "--check" in sys.argv[1:]:
        sys.exit(
            "".join(
                f"{page.name} is not what was recorded: run python benchmarks/write_tables.py\n" for page in changed
            )
            or 0
        )
    for page in changed:
        page.write_text(new[page])
        print(f"wrote {page}")


def filled(text: str) -> str:
    """The page with each recorded result's first table in its place, below the command that it came from."""
    return _PLACE.sub(lambda place: f"{place[1]}{_shown(place[2])}{place[4]}", text)


def _shown(name: str) -> str:
    recorded = (HERE / "recorded" / f"{name}.md").read_text()
    command, table = recorded.splitlines()[0], _TABLE.search(recorded)
    assert table is not None, f"recorded/{name}.md holds no table"
    return f"{command}\n\n{table[0]}"


if __name__ == "__main__":
    main()
