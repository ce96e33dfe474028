"""What searched networks and trained files must show: each part is a script of its own, with its own --help.

python benchmarks/architecture.py published   files of which no training code is at hand: half their arithmetic pruned, distilled from themselves, INT8
python benchmarks/architecture.py resnet20    five subnetworks of one supernet beside the same networks trained alone
"""

import subprocess
import sys
from pathlib import Path

PARTS = ("published", "resnet20")


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in PARTS:
        print(__doc__)
        return int(sys.argv[1:] not in (["-h"], ["--help"]))
    script = Path(__file__).parent / f"architecture_{sys.argv[1]}.py"
    return subprocess.run([sys.executable, str(script), *sys.argv[2:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
