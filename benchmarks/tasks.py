"""The tasks of published and own models, judged by what they decide: a part of it by name.

python benchmarks/tasks.py segmentation [OPTIONS]     each part's own options: python benchmarks/tasks.py PART --help
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
NO_PARTS = ("images",)
"""What the parts share."""


def main() -> None:
    sys.path.insert(0, str(HERE))
    names = sorted(path.stem.removeprefix("tasks_") for path in HERE.glob("tasks_*.py"))
    parts = [name for name in names if name not in NO_PARTS]
    if len(sys.argv) < 2 or sys.argv[1] not in parts:
        sys.exit(f"{__doc__}\nparts: {', '.join(parts)}")
    importlib.import_module(f"tasks_{sys.argv[1]}").main(sys.argv[2:])


if __name__ == "__main__":
    main()
