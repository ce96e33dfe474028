"""How long `compressctl --help` and `validate` take against importing typer, pydantic, yaml and rich.

python benchmarks/startup.py [--runs 15]

Whole processes, interleaved; the ratio is the median of the ratios round by round.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMANDS = {
    "import the libraries": ["-c", "import typer, pydantic, yaml, rich"],
    "compressctl --help": ["-m", "compressctl.cli.main", "--help"],
    "compressctl validate": ["-m", "compressctl.cli.main", "validate", str(ROOT / "recipes" / "quickstart.yaml")],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for round_ in range(runs + 1):
        for name, arguments in COMMANDS.items():
            taken = _time(arguments)
            if round_:  # the first round warms the disk
                seconds[name].append(taken)
    base = seconds["import the libraries"]
    print("| command | median | against the import |\n|---|---|---|")
    for name, times in seconds.items():
        ratio = statistics.median(time_ / reference for time_, reference in zip(times, base, strict=True))
        print(f"| {name} | {statistics.median(times) * 1000:.0f} ms | {ratio:.2f}x |")


def _time(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
