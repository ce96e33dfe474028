"""ResNet-20 (JPEG CIFAR) whose blocks are skipped by gates, beside the same network without two, three or four blocks for good, in float and in 8 bits, on both runtimes.

    python benchmarks/dynamic_blocks.py [--file gates gates-int8 int8 without-2 without-3 without-4 without-3-int8] [--runs build/dynamic_blocks] [--json FILE]

COMPRESSCTL_DATA names the folder with the data (benchmarks/README.md). recipes/blocks-resnet20.yaml makes the file with gates; blocks go for good by prune.layers, those of which the loss rises
least, and then the same eight epochs with the same teacher. Runs are kept and not made again. Times are of an independent loop (dynamic_loop.py) over 8,000 images.
"""

from dynamic_files import Runs, side_by_side

_TRAINING = "teacher: original, epochs: 8, learning_rate: 0.03, augment: {crop_padding: 4, horizontal_flip: true}, precision: bfloat16"


_GATES = f"{{id: gates, use: dynamic.blocks, average: 0.62, {_TRAINING}}}"
_INT8 = "{use: quantize.static}"


def _stages(*stages: str) -> tuple[str, ...]:
    return ("--set", f"stages=[{', '.join(stages)}]")


def _without(blocks: int) -> tuple[str, str]:
    return f"{{use: prune.layers, remove: {blocks}}}", f"{{use: distill.logits, {_TRAINING}}}"


RUNS: Runs = {
    "gates": ("blocks-resnet20.yaml", ()),
    "gates-int8": ("blocks-resnet20.yaml", _stages(_GATES, _INT8)),
    "int8": ("blocks-resnet20.yaml", _stages(_INT8)),
    "without-2": ("blocks-resnet20.yaml", _stages(*_without(2))),
    "without-3": ("blocks-resnet20.yaml", _stages(*_without(3))),
    "without-4": ("blocks-resnet20.yaml", _stages(*_without(4))),
    "without-3-int8": ("blocks-resnet20.yaml", _stages(*_without(3), _INT8)),
}

if __name__ == "__main__":
    assert __doc__
    side_by_side(__doc__, RUNS, "dynamic_blocks")
