"""What hardware and runtime a model is compressed for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from compressctl.core.machine import Machine

Profile = Literal["auto", "x86-avx2", "x86-vnni", "arm64"]


@dataclass(frozen=True)
class Target:
    """threads: 0 means all. profile: the instruction set that decides the dialect; never "auto" here, see `resolve`."""

    backend: str
    device: str = "cpu"
    threads: int = 1
    batch: int = 1
    profile: Profile = "x86-avx2"

    @property
    def saturates(self) -> bool:
        """Whether the processor adds pairs of 8-bit products in 16 bits, which overflows with full 8-bit weights.

        Source: Intel's description of VPMADDUBSW; ONNX Runtime's quantization guide, "When to use reduce-range".
        """
        return self.profile == "x86-avx2"


def resolve_profile(profile: Profile, machine: Machine) -> Profile:
    """The profile to compress for: as asked, or read from this machine. Unknown processors count as the careful case."""
    if profile != "auto":
        return profile
    if machine.architecture.lower() in {"arm64", "aarch64"}:
        return "arm64"
    return "x86-vnni" if machine.has_vnni else "x86-avx2"
