"""What a run ran on: machine and packages, ready for JSON."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from compressctl.core.machine import installed_version, this_machine

_PACKAGES = (
    "compressctl",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "torch",
    "scikit-learn",
    "pydantic",
)
_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def environment() -> dict[str, Any]:
    machine = this_machine()
    return {
        "cpu": machine.cpu,
        "instruction_sets": ", ".join(flag for flag in _FLAGS if flag in machine.cpu_flags) or "unknown",
        "logical_cpus": machine.logical_cpus,
        "governor": _governor(),
        "load_average": ", ".join(f"{load:.2f}" for load in os.getloadavg())
        if hasattr(os, "getloadavg")
        else "unknown",
        "system": machine.system,
        "architecture": machine.architecture,
        "python": platform.python_version(),
        **{name: found for name in _PACKAGES if (found := installed_version(name))},
    }


def _governor() -> str:
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return "cannot be read here"
