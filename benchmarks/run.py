"""Run every benchmark that the data on this machine allows, and write what they print to benchmarks/results/.

python benchmarks/run.py          (see README.md beside this file for the data)
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results"
EFFICIENTNET = ROOT / "build" / "efficientnet_lite0.onnx"

# The quickstart of ImageNet: the same recipe as for ResNet-20, with other values.
IMAGENET = [
    "--set", "name=int8-cpu-imagenet",
    "--set", "model={source: onnx, path: '${env:COMPRESSCTL_EFFICIENTNET}'}",
    "--set", "data={source: image_folder, path: '${env:COMPRESSCTL_IMAGENET}', labels: prefix, resize: 256, crop: 224, "
    "interpolation: bicubic, scale: 1, mean: [127], std: [128], calibration: 300, validation: 0, test: 700}",
    "--set", "budget={accuracy_drop: 0.6, speedup: 1.45}",
]  # fmt: skip


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    _run("startup", [str(HERE / "startup.py")])
    if "COMPRESSCTL_DATA" not in os.environ:
        print("left out: ResNet-20 (COMPRESSCTL_DATA is not set)")
    else:
        _run("resnet20_int8", [str(HERE / "int8_cpu.py"), "recipes/int8-cpu.yaml"])
    if "COMPRESSCTL_IMAGENET" not in os.environ or not EFFICIENTNET.exists():
        print("left out: EfficientNet-Lite0 (COMPRESSCTL_IMAGENET is not set, or the network is not exported)")
    else:
        os.environ.setdefault("COMPRESSCTL_EFFICIENTNET", str(EFFICIENTNET))
        _run("efficientnet_lite0_int8", [str(HERE / "int8_cpu.py"), "recipes/int8-cpu.yaml", *IMAGENET])


def _run(name: str, arguments: list[str]) -> None:
    print(f"== {name}", flush=True)
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    if done.returncode == 0:
        (RESULTS / f"{name}.md").write_text(f"`python {' '.join(arguments)}`\n\n{done.stdout}")


if __name__ == "__main__":
    main()
