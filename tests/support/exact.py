"""Files run without the shortcut of fast kernels: what a quantized graph means, on any processor."""

import numpy as np
import onnx
import onnxruntime


def exact_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """8-bit products add up in 32 bits, also on processors without VNNI, whose kernels add pairs of them in 16 and saturate."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def exact_output(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The first one."""
    return np.asarray(exact_session(model).run(None, inputs)[0])
