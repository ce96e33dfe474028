"""Weights compressed by NNCF in OpenVINO's model: element types that ONNX does not have, and AWQ.

NNCF is optional and is used for nothing else.
"""

from __future__ import annotations

import logging

import openvino

from compressctl.backends.params import NncfWeights
from compressctl.core.errors import MissingDependencyError, StageError
from compressctl.core.failures import refused_in


def compress_weights(model: openvino.Model, options: NncfWeights) -> openvino.Model:
    """The model with weights that are still float in options.mode, activations untouched.

    Raises MissingDependencyError without NNCF and StageError when it refuses.
    Source: Lin et al. 2023, "AWQ: Activation-aware Weight Quantization", here with NNCF's estimate from the weights alone.
    """
    try:
        import nncf
    except ImportError:
        raise MissingDependencyError(
            "the option weights of openvino", "nncf", "pip install 'compressctl[nncf]'"
        ) from None
    logging.getLogger("nncf").setLevel(logging.ERROR)
    try:
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode[options.mode.upper()], **_settings(options))
    except Exception as error:
        said = "NNCF cannot compress the weights"
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise refused_in(said, error) or StageError(
            f"{said}: {' '.join(lines)}", hint="choose another mode or group_size"
        ) from error


def _settings(options: NncfWeights) -> dict[str, object]:
    """NNCF takes none of these for its INT8 modes."""
    import nncf

    if options.mode.startswith("int8"):
        return {}
    adjusted = nncf.GroupSizeFallbackMode.ADJUST
    return {
        "ratio": options.ratio,
        "group_size": options.group_size or -1,
        "all_layers": True,
        "awq": options.awq,
        "advanced_parameters": nncf.AdvancedCompressionParameters(group_size_fallback_mode=adjusted),
    }
