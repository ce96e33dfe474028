"""What `compressctl zoo` must hold: each part is a script of its own, with its own --help.

python benchmarks/zoo.py published     third-party files and our own networks, three recipes by rules, judged by a script that knows nothing of us
python benchmarks/zoo.py poison        1,000 generated models, 30 of them poison, and a driver that is killed
python benchmarks/zoo.py workers       a second worker, timings beside it, Ray, a node that is killed
python benchmarks/zoo.py store         models, results and cache in a store that speaks S3, and uploads that are killed
"""

import subprocess
import sys
from pathlib import Path

PARTS = ("published", "poison", "workers", "store")


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in PARTS:
        print(__doc__)
        return int(sys.argv[1:] not in (["-h"], ["--help"]))
    script = Path(__file__).parent / f"zoo_{sys.argv[1]}.py"
    return subprocess.run([sys.executable, str(script), *sys.argv[2:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
