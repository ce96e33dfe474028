"""A recipe's stages, one by one: score, file and speed after each, from the report of one run.

python benchmarks/stages.py RECIPE [--set PATH=VALUE ...] [--output FOLDER]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import compressctl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--output", type=Path, help="where the run with its report is left")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.output or Path(scratch) / "run"
        options = [part for value in asked.sets for part in ("--set", value)]
        command = [
            sys.executable,
            "-m",
            "compressctl",
            "apply",
            str(asked.recipe),
            "--output",
            str(folder),
            "--no-cache",
        ]
        code = subprocess.run([*command, *options], stdout=sys.stderr, check=False).returncode
        print(table(compressctl.open_run(folder).report))
    sys.exit(code)


def table(report: compressctl.Report) -> str:
    """A row after each stage, and one for the file packed for transport."""
    part = report.backends[0]
    lines = ["| after | score | file | speed against float (95 % interval) |", "|---|---|---|---|"]
    for point in part.waterfall:
        speed = point.speed
        shown = f"{speed.ratio:.2f}x ({speed.low:.2f} to {speed.high:.2f})" if speed else "1.00x"
        score = f"{point.score.value:.2f}" if point.score else ""
        ratio = part.baseline.total_bytes / point.total_bytes
        size = f"{point.total_bytes / 1e3:,.0f} kB" + (f", {ratio:.2f}x smaller" if ratio > 1 else "")
        lines.append(f"| {point.id} | {score} | {size} | {shown} |")
    packed = part.compressed.packed
    if packed is not None:
        lines.append(
            f"| packed for transport | as before | {packed.total_bytes:,} bytes, {packed.smaller:.1f}x smaller | |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
