"""Run every benchmark that the data on this machine allows, and write what they print to benchmarks/results/.

python benchmarks/run.py          (see README.md beside this file for the data)
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results"
EFFICIENTNET = ROOT / "build" / "efficientnet_lite0.onnx"

# The quickstart of ImageNet: the same recipe as for ResNet-20, with other values.
IMAGENET = [
    "--set", "name=int8-cpu-imagenet",
    "--set", "model={source: onnx, path: '${env:COMPRESSCTL_EFFICIENTNET}'}",
    "--set", "data={source: image_folder, path: '${env:COMPRESSCTL_IMAGENET}', labels: prefix, resize: 256, center_crop: 224, "
    "interpolation: bicubic, scale: 1, mean: [127], std: [128], calibration: 300, validation: 0, test: 700}",
    "--set", "budget={accuracy_drop: 0.6, speedup: 1.45}",
]  # fmt: skip


DIGITS = {"attention": "Attention", "concat": "Concat"}
"""Networks of benchmarks/networks.py: a small vision transformer and a small DenseNet."""


def digits(name: str) -> list[str]:
    """The quickstart on one of those networks instead of the built-in one."""
    return [
        "recipes/quickstart.yaml",
        *("--set", f"name={name}"),
        *("--set", f"model={{source: python, factory: '../benchmarks/networks.py:{DIGITS[name]}', "
          f"weights: ../build/{name}.safetensors, input_shape: [1, 8, 8]}}"),
        *("--set", "stages=[{id: int8, use: quantize.static}]"),
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
    if find_spec("nncf") is None or find_spec("openvino") is None:
        print("left out: OpenVINO beside NNCF (run: pip install '.[nncf]')")
    else:
        _beside_nncf()


def _beside_nncf() -> None:
    script = str(HERE / "openvino_int8.py")
    if "COMPRESSCTL_DATA" in os.environ:
        _run("openvino_resnet20", [script, "recipes/int8-cpu.yaml"])
    if "COMPRESSCTL_EFFICIENTNET" in os.environ:
        _run("openvino_efficientnet_lite0", [script, "recipes/int8-cpu.yaml", *IMAGENET])
    if not all((ROOT / "build" / f"{name}.safetensors").exists() for name in DIGITS):
        subprocess.run([sys.executable, str(HERE / "networks.py"), "build"], cwd=ROOT, check=True)
    for name in DIGITS:
        _run(f"openvino_{name}", [script, *digits(name)])


def _run(name: str, arguments: list[str]) -> None:
    print(f"== {name}", flush=True)
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    if done.returncode == 0:
        (RESULTS / f"{name}.md").write_text(f"`python {' '.join(arguments)}`\n\n{done.stdout}")


if __name__ == "__main__":
    main()
