"""Where Q/DQ stand in our TensorRT file and in one by NVIDIA ModelOpt, from the same float graph.

In an environment of its own, since ModelOpt pins other versions (pip install "nvidia-modelopt[onnx]"):
    python benchmarks/tensorrt_placement.py quantize RUN/artifacts/onnxruntime/baseline/model.onnx modelopt.onnx
In ours:
    python benchmarks/tensorrt_placement.py compare RUN/artifacts/tensorrt/model.onnx modelopt.onnx

Prints how often each input of each operator is dequantized, by what made it, and what the linter finds in both.
"""

import sys
from collections import Counter

import onnx


def main() -> None:
    command, one, other = sys.argv[1:]
    if command == "quantize":
        _quantize(one, other)
        return
    from compressctl.backends.tensorrt.rules import lint

    found = [(path, _places(onnx.load(path)), lint(onnx.load(path))) for path in (one, other)]
    rows = sorted({place for _, places, _ in found for place in places})
    print("| input | ours | ModelOpt |\n|---|---|---|")
    for row in rows:
        print(f"| {row} | {' | '.join(str(places[row]) for _, places, _ in found)} |")
    print(f"| findings of the linter | {' | '.join(str(len(findings)) for _, _, findings in found)} |")


def _quantize(source: str, output: str) -> None:
    import numpy as np
    from modelopt.onnx.quantization import quantize

    graph = onnx.load(source).graph
    shape = [dim.dim_value or 32 for dim in graph.input[0].type.tensor_type.shape.dim]
    samples = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    quantize(
        source,
        quantize_mode="int8",
        calibration_data={graph.input[0].name: samples},
        calibration_method="max",
        high_precision_dtype="fp32",
        calibration_eps=["cpu"],
        output_path=output,
    )


def _places(model: onnx.ModelProto) -> Counter[str]:
    makers = {output: node for node in model.graph.node for output in node.output}
    stored = {tensor.name for tensor in model.graph.initializer}
    places: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for position, name in enumerate(node.input):
            dequantize = makers.get(name)
            if dequantize is None or dequantize.op_type != "DequantizeLinear":
                continue
            quantize = makers.get(dequantize.input[0])
            source = quantize.input[0] if quantize is not None else dequantize.input[0]
            made_by = "a weight" if source in stored else makers[source].op_type if source in makers else "graph input"
            # The cast to float16 at the entry is the graph's input.
            places[f"{node.op_type} input {position} from {'graph input' if made_by == 'Cast' else made_by}"] += 1
    return places


if __name__ == "__main__":
    main()
