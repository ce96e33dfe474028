"""What searched networks and trained files must show: each part is a script of its own, with its own --help.

python benchmarks/architecture.py published   files of which no training code is at hand: half their arithmetic pruned, distilled from themselves, INT8
python benchmarks/architecture.py resnet20    five subnetworks of one supernet beside the same networks trained alone
python benchmarks/architecture.py vit         three of a vision transformer: channels, heads, blocks, tokens
"""

import subprocess
import sys
from pathlib import Path

PARTS = {
    "published": ["architecture_published.py"],
    "resnet20": ["architecture_supernet.py", "resnet20"],
    "vit": ["architecture_supernet.py", "vit"],
}


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in PARTS:
        print(__doc__)
        return int(sys.argv[1:] not in (["-h"], ["--help"]))
    script, *network = PARTS[sys.argv[1]]
    command = [sys.executable, str(Path(__file__).parent / script), *network, *sys.argv[2:]]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
