"""What a backend is: it builds an artifact for a runtime, opens it, and says how it really runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, with_config

from compressctl.core.registry import Registry

if TYPE_CHECKING:
    import numpy as np

    from compressctl.core.model import OnnxModel
    from compressctl.core.target import Target


@dataclass(frozen=True)
class Availability:
    """install: the exact command that mends what is missing. note: what it can do here, where that needs saying.

    missing: what it cannot do here, each with the exact command where one helps. stands_in: it delivers for a device that is
    not here, and another one stands in for that where results are concerned.
    """

    installed: bool
    version: str | None
    devices: tuple[str, ...]
    install: str
    note: str | None = None
    missing: tuple[str, ...] = ()
    stands_in: bool = False


@dataclass(frozen=True)
class Artifact:
    """What is handed over. path: the file a runtime opens. files: every file that must travel with it, path included.

    notes: what its user must know, as in "engine not built: ...". stand_in: it is opened by another runtime than the one that
    it is for, so that its results mean something here and its speed does not. opset: the version of the standard operators in
    an ONNX file. decided: options of the backend that a clock here decided, as a recipe says them; with them the same file is written
    again.
    """

    backend: str
    path: Path
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    stand_in: bool = False
    opset: int | None = None
    decided: Mapping[str, Any] = field(default_factory=dict)


_STRICT = ConfigDict(extra="forbid")
"""Both stand in reports as they are, which are read back without unknown fields."""


@with_config(_STRICT)
@dataclass(frozen=True)
class ExecutedNode:
    """One node as the runtime really executes it. precision: "int8", "float32", ... kernel: as in "jit_avx512_I8"."""

    name: str
    op: str
    precision: str
    macs: Annotated[
        int | None,
        Field(description="0 where it has none, null where it multiplies and could not be counted (1.5)"),
    ]
    rule: Annotated[str | None, Field(description="why it is float, where that needs an explanation")] = None
    kernel: Annotated[str | None, Field(description="the implementation that the runtime says it chose")] = None


@with_config(_STRICT)
@dataclass(frozen=True)
class StoredWeights:
    """Weights in an artifact of one element type. zeros: elements that stand for 0."""

    dtype: str
    elements: int
    stored_bytes: int
    zeros: int


class Session(Protocol):
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for one batch."""
        ...

    def repeat(self, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """The runtime's own call on these inputs, with nothing of ours around it: what is timed."""
        ...


class Backend(Protocol):
    """The implementation that a BackendSpec names is an instance of this, or a module with these functions."""

    def probe(self) -> Availability: ...

    def build(self, model: OnnxModel, target: Target, folder: Path) -> Artifact:
        """Write the artifact into folder (which exists). model is in onnx form; its quant plan is emitted in the target's dialect."""
        ...

    def open(self, artifact: Artifact, target: Target) -> Session: ...

    def explain(
        self, artifact: Artifact, target: Target, inputs: Mapping[str, Sequence[int]] | None = None
    ) -> Sequence[ExecutedNode]:
        """inputs: the shapes of a real sample, by name of the input, which MACs are counted for. Without them the leading axes
        count 1 where they are open, and MACs that depend on other open axes are None.
        """
        ...

    def weights(self, artifact: Artifact) -> Sequence[StoredWeights]:
        """What the artifact stores as parameters, one entry per element type."""
        ...


@dataclass(frozen=True)
class Extra:
    """A package that one of a backend's options needs beyond the backend's own. purpose: what it is used for.

    value: of the option, where others do not need it. distribution: what brings the package, where that has another name.
    """

    option: str
    package: str
    install: str
    purpose: str
    value: str | None = None
    distribution: str | None = None

    def is_asked(self, options: Mapping[str, Any]) -> bool:
        given = options.get(self.option)
        return bool(given) and (self.value is None or given == self.value)


@dataclass(frozen=True)
class ProductWeights:
    """How a stage stores weights of matrix products alone. path: in its params, what says so. in_groups: of a row's inputs."""

    path: str
    bits: int
    in_groups: bool


class Refusal(Protocol):
    def __call__(self, target: Target, weights: ProductWeights | None = None) -> tuple[str, str] | None:
        """What the target's oldest runtime cannot serve, and what helps. weights: None asks about the runtime itself."""
        ...


@dataclass(frozen=True)
class BackendSpec:
    """A backend as the registry lists it, light to import. implementation: `"module:attribute"`, a Backend.

    params: what a recipe may say about it; the values are `Target.options` as plain data. rules: `"module:attribute"`, what its
    files are checked for, each with a name, a sentence and a source. extras: what single options need to be installed.
    zeros: what the runtime makes of weights that are zero, in words that a report can show; None where that is not known.
    custom_ops: whether it loads libraries of operators. refusal: what older releases of the runtime cannot serve, asked before anything runs.
    bundles: `"module:attribute"` of a Bundler by the value of the option `bundle`, of serving tools for language models.
    """

    name: str
    summary: str
    package: str
    install: str
    params: type[BaseModel]
    implementation: str
    rules: str | None = None
    extras: tuple[Extra, ...] = ()
    zeros: str | None = None
    refusal: Refusal | None = None
    custom_ops: bool = False
    bundles: Mapping[str, str] = field(default_factory=dict)


backends: Registry[BackendSpec] = Registry(
    "backend",
    "compressctl.backends",
    {
        "onnxruntime": "compressctl.backends.specs:ONNXRUNTIME",
        "openvino": "compressctl.backends.specs:OPENVINO",
        "tensorrt": "compressctl.backends.specs:TENSORRT",
    },
)
