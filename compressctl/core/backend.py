"""What a backend is: it builds an artifact for a runtime, opens it, and says how it really runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from compressctl.core.registry import Registry

if TYPE_CHECKING:
    import numpy as np

    from compressctl.core.model import Model
    from compressctl.core.target import Target


@dataclass(frozen=True)
class Availability:
    """install: the exact command that mends what is missing."""

    installed: bool
    version: str | None
    devices: tuple[str, ...]
    install: str


@dataclass(frozen=True)
class Artifact:
    """What is handed over. path: the file a runtime opens. files: every file that must travel with it, path included."""

    backend: str
    path: Path
    files: tuple[Path, ...]


@dataclass(frozen=True)
class ExecutedNode:
    """One node as the runtime really executes it. precision: "int8", "float32", ... macs: for one sample, 0 where it has none.

    rule: why it is float although the plan quantizes it or a neighbour, None when there is nothing to explain.
    """

    name: str
    op: str
    precision: str
    macs: int
    rule: str | None = None


class Session(Protocol):
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for one batch."""
        ...


class Backend(Protocol):
    """The implementation that a BackendSpec names is an instance of this, or a module with these functions."""

    def probe(self) -> Availability: ...

    def build(self, model: Model, target: Target, folder: Path) -> Artifact:
        """Write the artifact into folder (which exists). model is in onnx form; its quant plan is emitted in the target's dialect."""
        ...

    def open(self, artifact: Artifact, target: Target) -> Session: ...

    def explain(self, artifact: Artifact, target: Target) -> Sequence[ExecutedNode]: ...


@dataclass(frozen=True)
class BackendSpec:
    """A backend as the registry lists it, light to import. implementation: `"module:attribute"`, a Backend."""

    name: str
    summary: str
    package: str
    install: str
    implementation: str


backends: Registry[BackendSpec] = Registry(
    "backend",
    "compressctl.backends",
    {"onnxruntime": "compressctl.backends.specs:ONNXRUNTIME"},
)
