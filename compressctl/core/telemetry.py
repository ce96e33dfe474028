"""What libraries report to their makers, switched off for this process and all that it starts."""

from __future__ import annotations

import os

_OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime: also keeps a database under ~/.cache/Microsoft, and files in TMPDIR
    "HF_HUB_DISABLE_TELEMETRY": "1",  # Hugging Face: hub, transformers, datasets
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",  # a convention that many tools follow
}
"""Environment variables, which child processes inherit. OpenVINO reads none: see `backends/openvino`."""


def switch_off() -> None:
    """Before the first import of any of them: each looks once."""
    os.environ.update(_OFF)
