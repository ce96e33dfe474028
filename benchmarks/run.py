"""Run benchmarks and record what they print in benchmarks/recorded/, from where write_tables.py puts it into the documentation.

python benchmarks/run.py [NAME ...]          (see README.md beside this file for the data; without a name: what takes minutes)
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
RECORDED = HERE / "recorded"
DATA, IMAGENET, MINILM = "COMPRESSCTL_DATA", "COMPRESSCTL_IMAGENET", "COMPRESSCTL_MINILM"
WHISPER = "COMPRESSCTL_WHISPER"
EFFICIENTNET = "build/efficientnet_lite0.onnx"


@dataclass(frozen=True)
class Benchmark:
    """arguments: of python. variables: of the environment, which name its data. files: what must have been made before. minutes:
    whether it is run when no name is asked for; the others take up to hours."""

    arguments: list[str]
    variables: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    minutes: bool = False

    @property
    def missing(self) -> list[str]:
        unset = [f"{name} is not set" for name in self.variables if name not in os.environ]
        return [*unset, *(f"{name} is not there" for name in self.files if not (ROOT / name).exists())]


def _stages(recipe: str) -> Benchmark:
    return Benchmark(["benchmarks/stages.py", f"recipes/{recipe}.yaml"], (DATA,))


# The quickstart of ImageNet: the same recipe as for ResNet-20, with other values.
_ON_IMAGENET = [
    "recipes/int8-cpu.yaml",
    "--set", "name=int8-cpu-imagenet",
    "--set", f"model={{source: onnx, path: ../{EFFICIENTNET}}}",
    "--set", "data={source: image_folder, path: '${env:COMPRESSCTL_IMAGENET}', labels: prefix, resize: 256, center_crop: 224, "
    "interpolation: bicubic, scale: 1, mean: [127], std: [128], calibration: 300, validation: 0, test: 700}",
    "--set", "budget={accuracy_drop: 0.6, speedup: 1.45}",
]  # fmt: skip


def _on_digits(name: str, network: str) -> Benchmark:
    """The quickstart on a network of networks.py (a small vision transformer, a small DenseNet) instead of the built-in one."""
    arguments = [
        "benchmarks/openvino_int8.py",
        "recipes/quickstart.yaml",
        *("--set", f"name={name}"),
        *("--set", f"model={{source: python, factory: '../benchmarks/networks.py:{network}', "
          f"weights: ../build/{name}.safetensors, input_shape: [1, 8, 8]}}"),
        *("--set", "stages=[{id: int8, use: quantize.static}]"),
    ]  # fmt: skip
    return Benchmark(arguments, (), (f"build/{name}.safetensors",), minutes=True)


BENCHMARKS = {
    "startup": Benchmark(["benchmarks/startup.py"], minutes=True),
    "kills": Benchmark(["benchmarks/kills.py"], minutes=True),
    "states": Benchmark(["benchmarks/states.py"]),
    "resnet20_int8": Benchmark(["benchmarks/int8_cpu.py", "recipes/int8-cpu.yaml"], (DATA,), minutes=True),
    "efficientnet_lite0_int8": Benchmark(
        ["benchmarks/int8_cpu.py", *_ON_IMAGENET], (IMAGENET,), (EFFICIENTNET,), minutes=True
    ),
    "openvino_resnet20": Benchmark(["benchmarks/openvino_int8.py", "recipes/int8-cpu.yaml"], (DATA,), minutes=True),
    "openvino_efficientnet_lite0": Benchmark(
        ["benchmarks/openvino_int8.py", *_ON_IMAGENET], (IMAGENET,), (EFFICIENTNET,), minutes=True
    ),
    "openvino_attention": _on_digits("attention", "Attention"),
    "openvino_concat": _on_digits("concat", "Concat"),
    "never_slower": Benchmark(["benchmarks/never_slower.py", "--backend", "onnxruntime"]),
    "placement": Benchmark(["benchmarks/placement.py"]),
    "small_resnet20": _stages("small-resnet20"),
    "binary_resnet20": _stages("binary-resnet20"),
    "qat_resnet20": _stages("qat-resnet20"),
    "share_resnet20": _stages("share-resnet20"),
    "factorize_resnet20": _stages("factorize-resnet20"),
    "prune_channels": Benchmark(["benchmarks/prune_channels.py", "--ways", "1", "3"], (DATA,)),
    "deep_compression": Benchmark(["benchmarks/deep_compression.py"], (DATA,)),
    "four_bits": Benchmark(["benchmarks/four_bits.py"], (DATA,)),
    "distillation": Benchmark(
        ["benchmarks/distillation.py", "recipes/distill-resnet20.yaml", "--set", "stages.learn.epochs=8"], (DATA,)
    ),
    "low_rank": Benchmark(["benchmarks/low_rank.py"], (DATA,)),
    "train_lm": Benchmark(["benchmarks/train_lm.py"], (DATA,)),
    "third_party": Benchmark(["benchmarks/third_party.py"]),
    "minilm": Benchmark(["benchmarks/minilm.py"], (DATA, MINILM)),
    "minilm_folder": Benchmark(["benchmarks/minilm_folder.py"], (DATA, MINILM)),
    "third_party_onnx": Benchmark(["benchmarks/third_party_onnx.py"]),
    "tasks_detection": Benchmark(["benchmarks/tasks.py", "detection"]),
    "tasks_segmentation": Benchmark(["benchmarks/tasks.py", "segmentation"]),
    "tasks_recognition": Benchmark(["benchmarks/tasks.py", "recognition"]),
    "tasks_examples": Benchmark(["benchmarks/tasks.py", "examples"]),
    "tasks_silero": Benchmark(["benchmarks/tasks.py", "recurrent", "--only", "silero"]),
    "tasks_recurrent": Benchmark(["benchmarks/tasks.py", "recurrent", "--only", "own"], (DATA,)),
    "zoo_published": Benchmark(
        ["benchmarks/zoo.py", "published"], (), ("build/attention.safetensors", "build/concat.safetensors")
    ),
    "zoo_poison": Benchmark(["benchmarks/zoo.py", "poison"]),
    "zoo_workers": Benchmark(["benchmarks/zoo_workers.py", "--epochs", "15"]),
    "zoo_store": Benchmark(["benchmarks/zoo_store.py", "--models", "3", "--kills", "4", "--layers", "3"]),
    "search_strangers": Benchmark(["benchmarks/search.py", "strangers"]),
    "search_resnet20": Benchmark(["benchmarks/search.py", "resnet20"], (DATA,)),
    "search_unseen": Benchmark(["benchmarks/search.py", "unseen"], ("COMPRESSCTL_FASHION", "COMPRESSCTL_DATA")),
    "spelled_activations": Benchmark(["benchmarks/spelled_activations.py"]),
    "transformers_techniques": Benchmark(["benchmarks/transformers_techniques.py"]),
    "language_model": Benchmark(["benchmarks/language_model.py"], (), ("build/lm/test.txt",)),
    "speech": Benchmark(["benchmarks/speech.py"], (WHISPER,)),
    "packed": Benchmark(["benchmarks/packed.py"]),
    "kmeans": Benchmark(["benchmarks/kmeans.py", "--rounds", "3"]),
    "share_depthwise": Benchmark(["benchmarks/share_depthwise.py", EFFICIENTNET], (IMAGENET,), (EFFICIENTNET,)),
    "few_samples": Benchmark(["benchmarks/few_samples.py"], (IMAGENET,), (EFFICIENTNET,), minutes=True),
    "portable_onnx": Benchmark(["benchmarks/portable_onnx.py", EFFICIENTNET], (), (EFFICIENTNET,)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", choices=[[], *BENCHMARKS], metavar="NAME", help=", ".join(BENCHMARKS))
    asked = parser.parse_args()
    chosen = asked.name or [name for name, benchmark in BENCHMARKS.items() if benchmark.minutes]
    failed = [name for name in chosen if not _recorded(name, BENCHMARKS[name])]
    subprocess.run([sys.executable, str(HERE / "write_tables.py")], check=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def _recorded(name: str, benchmark: Benchmark) -> bool:
    """Run it; whether it is recorded, or was left out for want of data."""
    if benchmark.missing:
        print(f"left out: {name} ({'; '.join(benchmark.missing)})")
        return True
    print(f"== {name}", flush=True)
    command = [sys.executable, *benchmark.arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    if done.returncode == 0:
        RECORDED.mkdir(exist_ok=True)
        (RECORDED / f"{name}.md").write_text(f"{_head(name, benchmark)}\n\n{_where()}\n\n{done.stdout.strip()}\n")
    return done.returncode == 0


def _head(name: str, benchmark: Benchmark) -> str:
    """The command; where it is long, this one that stands for it."""
    return (
        f"`python {' '.join(benchmark.arguments)}`"
        if len(benchmark.arguments) < 6
        else f"`python benchmarks/run.py {name}`"
    )


def _where() -> str:
    """When and on what it ran."""
    import onnxruntime

    from compressctl import __version__
    from compressctl.core.machine import this_machine

    machine = this_machine()
    return (
        f"{datetime.date.today():%d %B %Y}, {machine.cpu}, {machine.logical_cpus} processors, {machine.system}, Python "
        f"{platform.python_version()}, ONNX Runtime {onnxruntime.__version__}, compressctl {__version__}."
    )


if __name__ == "__main__":
    main()
