"""ResNet-20 (JPEG CIFAR) that answers early where it is sure, in float and in INT8, on both runtimes, beside the original and the best static files.

    python benchmarks/dynamic_exits.py [--file exits exits-int8 int8 pruned pruned-int8] [--runs build/dynamic] [--json FILE]

COMPRESSCTL_DATA names the folder with the data (benchmarks/README.md). recipes/exits-resnet20.yaml makes the files: two heads, ten epochs with the original as teacher, thresholds on
2,000 images of the test split, of at most 0.5 points; the other 8,000 report. Static files with ten epochs too: recipes/prune-resnet20.yaml (half of the arithmetic) in
float and recipes/small-resnet20.yaml in INT8, and INT8 alone. Runs are kept and not made again. Times are of an independent loop (dynamic_loop.py) over all 8,000 images.
"""

from dynamic_files import Runs, side_by_side

_BOTH = ("--set", "export=[onnxruntime, openvino]")
RUNS: Runs = {
    "exits": ("exits-resnet20.yaml", ("--unset", "stages.int8")),
    "exits-int8": ("exits-resnet20.yaml", ()),
    "int8": ("exits-resnet20.yaml", ("--unset", "stages.exits")),
    "pruned": ("prune-resnet20.yaml", _BOTH),
    "pruned-int8": ("small-resnet20.yaml", _BOTH),
}

if __name__ == "__main__":
    assert __doc__
    side_by_side(__doc__, RUNS, "dynamic")
