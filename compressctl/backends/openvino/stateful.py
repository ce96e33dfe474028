"""A decoder whose cache is the runtime's: keys and values of earlier tokens are no inputs and outputs but state."""

from __future__ import annotations

import numpy as np
import openvino
from openvino import opset13 as ops
from openvino._offline_transformations import apply_make_stateful_transformation

from compressctl.graph.cached_decoder import TOKENS

_BEAM = "beam_idx"
_PAST, _PRESENT = "past_key_values", "present"


def make_stateful(model: openvino.Model) -> None:
    """Change a decoder with cache inputs and outputs into one that OpenVINO GenAI serves.

    Source: what OpenVINO GenAI asks of a model: an int32 input beam_idx (batch,), by which the kept rows are chosen anew before each call, and
    state that is empty at the start, for as many texts as the tokens have rows.
    """
    beam = ops.parameter([-1], dtype=np.int32, name=_BEAM)
    beam.output(0).tensor.add_names({_BEAM})
    pairs = {}
    for kept in [port for port in model.inputs if port.any_name.startswith(_PAST)]:
        readers = kept.get_target_inputs()
        chosen = ops.gather(kept, beam, ops.constant(0))
        for reader in readers:
            reader.replace_source_output(chosen.output(0))
        pairs[kept.any_name] = kept.any_name.replace(_PAST, _PRESENT)
    model.add_parameters([beam])
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, pairs)
    _start_empty(model)


def _start_empty(model: openvino.Model) -> None:
    rows = ops.gather(ops.shape_of(model.input(TOKENS), output_type="i64"), ops.constant([0]), ops.constant(0))
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            _, heads, _, size = node.get_output_partial_shape(0)
            rest = ops.constant(np.array([heads.get_length(), 0, size.get_length()], np.int64))
            shape = ops.concat([rows, rest], 0)
            node.set_arguments([ops.broadcast(ops.constant(np.float32(0)), shape)])
    model.validate_nodes_and_infer_types()
