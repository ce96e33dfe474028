"""What hardware and runtime a model is compressed for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from compressctl.core.machine import nvidia_gpu

if TYPE_CHECKING:
    from compressctl.core.machine import Machine

Profile = Literal[
    "auto", "x86-avx2", "x86-vnni", "x86-amx", "arm64", "nvidia-sm75", "nvidia-sm80", "nvidia-sm89", "nvidia-sm90"
]
"""nvidia: by compute capability. sm75 Turing, sm80 Ampere (2:4 sparsity from here on), sm89 Ada, sm90 Hopper and later."""


Release = tuple[int, int]
"""Of a runtime: (1, 17) is 1.17 with all its patches."""

PLATFORM = ("backend", "device", "profile", "oldest_onnxruntime")
"""What of a target does not say how it serves."""

_WRITTEN = {"storage": "plain", "names": "kept"}
"""Options that decide how a file is written, each with what leaves it as it is."""


@dataclass(frozen=True)
class Target:
    """threads: 0 means all. profile: the instruction set that decides the dialect; never "auto" here, see `resolve_profile`.

    oldest_onnxruntime: the oldest release that shall serve ONNX Runtime's files, None for those that are usual today.
    watts_per_core: declared by the user, for an estimate of energy. options: what the recipe says about the backend, as the
    backend's params dump it. input_shapes: by input, the shape of the call that is timed and whose arithmetic is counted; empty
    before a sample was chosen.
    """

    backend: str
    device: str = "cpu"
    threads: int = 1
    batch_size: int = 1
    profile: Profile = "x86-avx2"
    oldest_onnxruntime: Release | None = None
    watts_per_core: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def saturates(self) -> bool:
        """Whether the processor adds pairs of 8-bit products in 16 bits, which overflows with full 8-bit weights.

        Source: Intel's description of VPMADDUBSW; ONNX Runtime's quantization guide, "When to use reduce-range".
        """
        return self.profile == "x86-avx2"


def resolve_profile(profile: Profile, machine: Machine, backend: str = "onnxruntime") -> Profile:
    """The profile to compress for: as asked, or read from this machine: for TensorRT from its GPU, where there is one.

    Unknown processors count as the careful case.
    """
    if profile != "auto":
        return profile
    gpu = nvidia_gpu() if backend == "tensorrt" else None
    if gpu is not None:
        return next((name for capability, name in _GENERATIONS if gpu.capability >= capability), "nvidia-sm75")
    if machine.architecture.lower() in {"arm64", "aarch64"}:
        return "arm64"
    if "amx_int8" in machine.cpu_flags:
        return "x86-amx"
    return "x86-vnni" if machine.has_vnni else "x86-avx2"


_GENERATIONS: tuple[tuple[tuple[int, int], Profile], ...] = (
    ((9, 0), "nvidia-sm90"),
    ((8, 9), "nvidia-sm89"),
    ((8, 0), "nvidia-sm80"),
)


def computing(options: Mapping[str, Any]) -> dict[str, Any]:
    """Without what decides neither what a file computes nor how long that takes: stages are told and timed so, and files of the same numbers come from one
    cache however they are stored."""
    return {**options, **{name: plain for name, plain in _WRITTEN.items() if name in options}}
