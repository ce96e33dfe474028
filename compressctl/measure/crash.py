"""Which node of a graph a runtime crashes on: the shortest beginning of the graph that crashes too."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from compressctl.core.backend import Artifact
from compressctl.core.errors import CompressctlError, CrashError
from compressctl.core.target import Target
from compressctl.graph.model_file import LARGEST_SINGLE_FILE, read_model, write_model
from compressctl.graph.tensors import copy_of
from compressctl.measure.session_host import SessionHost


def with_node(
    error: CrashError, artifact: Artifact, target: Target, inputs: Mapping[str, np.ndarray] | None
) -> CrashError:
    """The same error with the node's name, where it can be found: in ONNX files, by halving.

    inputs: of the call that crashed, None where opening the file was enough.
    """
    node, size = None, sum(file.stat().st_size for file in artifact.path.parent.glob("*"))
    # It is cut and written again a dozen times.
    if artifact.path.suffix == ".onnx" and size < LARGEST_SINGLE_FILE:
        node = crashing_node(artifact, target, inputs)
    if node is None:
        return error
    name = node.name or next(iter(node.output), "")
    return CrashError(
        f"{error.message}, on node {name!r} ({node.op_type})",
        hint="leave that node as it was, with an override on the stage",
    )


def crashing_node(artifact: Artifact, target: Target, inputs: Mapping[str, np.ndarray] | None) -> onnx.NodeProto | None:
    """The first node without which the nodes before it still run; None where the graph does not crash again."""
    model = read_model(artifact.path)
    nodes = list(model.graph.node)
    with SessionHost(locates=False) as host, tempfile.TemporaryDirectory() as folder:

        def crashes(count: int) -> bool:
            files = write_model(_beginning(model, count), Path(folder))
            return _crashes(host, Artifact(artifact.backend, files[0], files), replace(target, threads=1), inputs)

        if not crashes(len(nodes)):
            return None
        low, high = 0, len(nodes)  # the first `low` nodes run, the first `high` crash
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if crashes(middle) else (middle, high)
    found: onnx.NodeProto = nodes[high - 1]
    return found


def _crashes(host: SessionHost, artifact: Artifact, target: Target, inputs: Mapping[str, np.ndarray] | None) -> bool:
    try:
        session = host.open(artifact, target)
        if inputs is not None:
            session.run(inputs)
    except CrashError:
        return True
    except CompressctlError:
        return False
    return False


def _beginning(model: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """The first nodes, with everything that none of them reads as outputs."""
    cut = copy_of(model)
    del cut.graph.node[count:]
    read = {name for node in cut.graph.node for name in node.input}
    outputs = [name for node in cut.graph.node for name in node.output if name and name not in read]
    known = {value.name: value for value in (*model.graph.output, *model.graph.value_info)}
    del cut.graph.output[:]
    cut.graph.output.extend(known.get(name, onnx.ValueInfoProto(name=name)) for name in outputs)
    return cut
