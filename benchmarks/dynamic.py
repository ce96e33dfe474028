"""What computing only what an input needs must show: each part is a script of its own, with its own --help.

python benchmarks/dynamic.py exits     ResNet-20 with early exits, in float and in INT8, beside the best static files
python benchmarks/dynamic.py blocks    ResNet-20 whose blocks are skipped by gates, beside networks that lack blocks for good
python benchmarks/dynamic.py experts   a wide perceptron of which a quarter of the hidden units is computed
python benchmarks/dynamic.py tokens    MiniLM on texts of 100 tokens or more, and a vision transformer of 196 tokens
"""

import subprocess
import sys
from pathlib import Path

PARTS = ("exits", "blocks", "experts", "tokens")


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in PARTS:
        print(__doc__)
        return int(sys.argv[1:] not in (["-h"], ["--help"]))
    script = Path(__file__).parent / f"dynamic_{sys.argv[1]}.py"
    return subprocess.run([sys.executable, str(script), *sys.argv[2:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
