"""What `compressctl auto` must show: each part is a script of its own, with its own --help.

python benchmarks/search.py strangers     six published files without labels, one command and a folder of samples each
python benchmarks/search.py resnet20      ResNet-20 beside the recipe that people made for it
python benchmarks/search.py unseen        networks and data that no search was tried on before, beside recipes of one technique
python benchmarks/search.py efficientnet  EfficientNet-Lite0 without training, beside the searches of ONNX Runtime's tools, NNCF and Olive
"""

import subprocess
import sys
from pathlib import Path

PARTS = ("strangers", "resnet20", "unseen", "efficientnet")


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in PARTS:
        print(__doc__)
        return int(sys.argv[1:] not in (["-h"], ["--help"]))
    script = Path(__file__).parent / f"search_{sys.argv[1]}.py"
    return subprocess.run([sys.executable, str(script), *sys.argv[2:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
