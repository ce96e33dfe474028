"""A wide perceptron on MNIST, all of it feed-forward layers, of whose hidden units a quarter is computed, on both runtimes.

    python benchmarks/dynamic_experts.py [--file experts ...] [--runs build/dynamic_experts] [--json FILE]

COMPRESSCTL_DATA names the folder with the data (benchmarks/README.md); train_mlp.py writes the network's weights. recipes/experts-mlp.yaml makes the file. Beside it: the same experts in 8 bits, the whole network in 8 bits, the same experts without training,
and about as many multiply-accumulates, of hidden units that are there for every image (prune.channels), with the same ten epochs. Times are of an independent loop (dynamic_loop.py) over all 10,000 test images.
"""

from dynamic_files import Runs, side_by_side

_EXPERTS = "{id: experts, use: dynamic.experts, experts: 32, chosen: 8, finetune: {teacher: original, epochs: 10, learning_rate: 0.03}}"

RUNS: Runs = {
    "experts": ("experts-mlp.yaml", ()),
    "experts and 8 bits": ("experts-mlp.yaml", ("--set", f"stages=[{_EXPERTS}, {{use: quantize.dynamic}}]")),
    "8 bits": ("experts-mlp.yaml", ("--set", "stages=[{use: quantize.dynamic}]")),
    "narrower": (
        "experts-mlp.yaml",
        (
            "--set",
            "stages=[{use: prune.channels, keep: 0.4, of: macs}, {use: distill.logits, teacher: original, epochs: 10, learning_rate: 0.03}]",
        ),
    ),
    "untrained": ("experts-mlp.yaml", ("--unset", "stages.experts.finetune")),
}

if __name__ == "__main__":
    assert __doc__
    side_by_side(__doc__, RUNS, "dynamic_experts")
