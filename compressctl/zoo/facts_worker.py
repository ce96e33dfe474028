"""The process behind FactsReader: `python -m compressctl.zoo.facts_worker`, questions on stdin, answers on stdout."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from compressctl.measure.frames import answers, receive, send
from compressctl.zoo.facts import ModelFacts

if TYPE_CHECKING:
    from compressctl.graph.model_file import Parsed


def main() -> None:
    channel = answers()
    while (asked := receive(sys.stdin.buffer)) is not None:
        send(channel, facts_of(Path(asked[0]["path"])).model_dump(mode="json"))


def facts_of(path: Path) -> ModelFacts:
    """Weights stay in their files. Whatever is wrong is a fact, too."""
    from compressctl.core.errors import CompressctlError, UsageError, in_short
    from compressctl.graph.index import all_graphs
    from compressctl.graph.model_file import parse
    from compressctl.graph.open_axes import graph_inputs, open_axes
    from compressctl.graph.quantized import already_quantized
    from compressctl.graph.tensors import all_tensors

    try:
        parsed = parse(path)
        model = parsed.model
        tensors = list(all_tensors(model))
        if any(size < 0 for tensor in tensors for size in tensor.dims):
            raise UsageError(f"{path} has a tensor of fewer than no values")
        parameters = sum(math.prod(tensor.dims) for tensor in tensors)
        if parameters >= 1 << 63:
            raise UsageError(f"{path} says that it holds more numbers than any file")
        return ModelFacts(
            ops=tuple(sorted({node.op_type for graph in all_graphs(model.graph) for node in graph.node})),
            parameters=parameters,
            size=_bytes(parsed),
            inputs=len(graph_inputs(model.graph)),
            open_axes=any(not axis.counts_samples for axis in open_axes(model.graph)),
            quantized=bool(already_quantized(model)),
        )
    except CompressctlError as error:
        return ModelFacts(problem=str(error))
    except Exception as error:  # of onnx's and protobuf's
        return ModelFacts(problem=f"{path} cannot be read: {in_short(error)}")


def _bytes(parsed: Parsed) -> int:
    """Of the file and of its external data."""
    from compressctl.graph.tensors import all_tensors, size_bytes

    inside = {id(tensor) for tensor, _, _ in parsed.cut}
    outside = sum(
        size_bytes(tensor)
        for tensor in all_tensors(parsed.model)
        if tensor.data_location == tensor.EXTERNAL and id(tensor) not in inside
    )
    return parsed.path.stat().st_size + outside


if __name__ == "__main__":
    main()
