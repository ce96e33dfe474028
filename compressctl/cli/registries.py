"""Every registry under the word that the command line uses for it."""

from __future__ import annotations

from typing import Any

from compressctl.core.backend import backends
from compressctl.core.registry import Registry
from compressctl.core.source import datasets, decoders, metrics, model_sources
from compressctl.core.technique import techniques

REGISTRIES: dict[str, Registry[Any]] = {
    "techniques": techniques,
    "backends": backends,
    "metrics": metrics,
    "decoders": decoders,
    "models": model_sources,
    "datasets": datasets,
}
