"""ResNet-20 (JPEG CIFAR) whose blocks are skipped by gates, beside the same network without two, three or four blocks for good, on both runtimes.

    python benchmarks/dynamic_blocks.py [--file gates without-2 without-3 without-4] [--runs build/dynamic_blocks] [--json FILE]

COMPRESSCTL_DATA names the folder with the data (benchmarks/README.md). recipes/blocks-resnet20.yaml makes the file with gates; blocks go for good by prune.layers, those of which the loss rises
least, and then the same eight epochs with the same teacher. Runs are kept and not made again. Times are of an independent loop (dynamic_loop.py) over 8,000 images.
"""

from dynamic_files import Runs, side_by_side

_TRAINING = "teacher: original, epochs: 8, learning_rate: 0.03, augment: {crop_padding: 4, horizontal_flip: true}, precision: bfloat16"


def _without(blocks: int) -> tuple[str, ...]:
    stages = f"[{{use: prune.layers, remove: {blocks}}}, {{use: distill.logits, {_TRAINING}}}]"
    return ("--set", f"stages={stages}")


RUNS: Runs = {
    "gates": ("blocks-resnet20.yaml", ()),
    "without-2": ("blocks-resnet20.yaml", _without(2)),
    "without-3": ("blocks-resnet20.yaml", _without(3)),
    "without-4": ("blocks-resnet20.yaml", _without(4)),
}

if __name__ == "__main__":
    assert __doc__
    side_by_side(__doc__, RUNS, "dynamic_blocks")
