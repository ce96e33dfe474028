"""What an OpenVINO IR takes and gives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import openvino

from compressctl.backends.openvino.session import steps_inside
from compressctl.backends.openvino.translate import translated
from compressctl.backends.preprocess import before_preprocessing
from compressctl.core.errors import CompressctlError, StageError, UsageError
from compressctl.core.model import Signature, TensorSpec
from compressctl.core.regular_files import open_regular


def signature_of(path: Path) -> Signature:
    """In the terms of a session's `run`: where preprocessing is part of the model, as it is before that.

    Raises UsageError when there is no such file, or it is none that OpenVINO can read.
    """
    with open_regular(path) as file:
        # OpenVINO asks its readers of other formats for what is not its own, and TensorFlow's prints what it thinks of it.
        if _BEGINS.match(file.read(1 << 16)) is None:
            raise UsageError(f"{path} is not an OpenVINO model", hint="name the .xml file that OpenVINO wrote")
    try:
        model = openvino.Core().read_model(path)
        return before_preprocessing(_signature(model), steps_inside(path, model))
    except CompressctlError:
        raise
    except Exception as error:
        ours = translated(error, path)
        raise (UsageError(ours.message, hint=ours.hint) if isinstance(ours, StageError) else ours) from error


_BEGINS = re.compile(rb'(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*\?>\s*)?<net\s[^>]*\bversion="1[01]"')


def _signature(model: openvino.Model) -> Signature:
    return Signature(tuple(map(_spec, model.inputs)), tuple(map(_spec, model.outputs)))


def _spec(port: Any) -> TensorSpec:
    if port.get_partial_shape().rank.is_dynamic:
        raise UsageError(f"{port.any_name} is not a tensor with a known number of axes")
    shape = tuple(
        ("batch" if axis == 0 else f"{port.any_name}_axis{axis}") if size.is_dynamic else size.get_length()
        for axis, size in enumerate(port.get_partial_shape())
    )
    return TensorSpec(port.any_name, port.get_element_type().to_dtype().name, shape)
