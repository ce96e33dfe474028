"""Run a float graph and look at the tensors inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from compressctl.core.errors import StageError
from compressctl.core.failures import refused_in
from compressctl.graph.index import needed, store_what_is_read
from compressctl.graph.session import open_graph, quiet_options
from compressctl.graph.tensors import copy_of


def leading_to(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A copy whose outputs are the tensors, with only the nodes that they depend on: what a run up to there has to compute."""
    made = copy_of(model)
    kept = needed(made.graph.node, tensors)
    del made.graph.node[:], made.graph.output[:]
    made.graph.node.extend(kept)
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    store_what_is_read(made.graph)
    return made


class ActivationRecorder:
    """A graph in ONNX Runtime that computes chosen inner tensors and gives them back, and nothing else.

    tensors: names of inner tensors or outputs; graph inputs may be among them and are passed through. Raises StageError
    when ONNX Runtime cannot load the graph.
    """

    def __init__(self, model: onnx.ModelProto, tensors: Sequence[str], threads: int | None = None) -> None:
        given = {tensor.name for tensor in model.graph.input}
        self._inputs = [name for name in tensors if name in given]
        self._tensors = [name for name in tensors if name not in given]
        tapped = leading_to(model, self._tensors)
        options = quiet_options()
        if threads is not None:
            options.intra_op_num_threads = threads
        # What stands between Q and DQ is to be computed as it is written: ONNX Runtime would round float weights there.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session, self._session_inputs = None, []
        if not self._tensors:
            return
        try:
            self._session = open_graph(tapped, options)
        except Exception as error:
            said = "ONNX Runtime cannot run the graph"
            raise refused_in(said, error) or StageError(f"{said}: {error}") from error
        self._session_inputs = [tensor.name for tensor in self._session.get_inputs()]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The tapped tensors for one batch, by name. Views of the runtime's memory: copy what must outlive a few batches.

        The runtime's arena keeps its memory between batches; arrays that it copies out for each would cost more than
        the inference does.
        """
        passed = {name: inputs[name] for name in self._inputs}
        if self._session is None:
            return passed
        binding = self._session.io_binding()
        for name in self._session_inputs:
            binding.bind_cpu_input(name, np.ascontiguousarray(inputs[name]))
        for name in self._tensors:
            binding.bind_output(name)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            said = "ONNX Runtime failed on a batch"
            raise refused_in(said, error) or StageError(f"{said}: {error}") from error
        values = [output.numpy() for output in binding.get_outputs()]
        return {**dict(zip(self._tensors, values, strict=True)), **passed}
