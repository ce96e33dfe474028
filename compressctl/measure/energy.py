"""Energy: counters where the hardware has them, an estimate where the user declares watts, and a reason otherwise.

Read inside the process that runs the model, around each block of inferences. Nothing heavy, apart from NVML.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compressctl.core.errors import MachineError

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Meter:
    """read: joules since some moment, only differences mean anything. source: what it counts, for the report."""

    source: str
    read: Callable[[], float]


@dataclass(frozen=True)
class NoMeter:
    """reason: why nothing can be measured here, and what would help."""

    reason: str


def find_meter(device: str, powercap: Path = POWERCAP) -> Meter | NoMeter:
    """The counter for what runs on the device: NVML for a GPU, RAPL for the processor."""
    return _nvml() if device == "cuda" else _rapl(powercap)


def check_meter(device: str) -> Meter:
    """The counter. Raises MachineError where there is none."""
    found = find_meter(device)
    if isinstance(found, NoMeter):
        raise MachineError(f"energy cannot be measured: {found.reason}", hint="limit the latency instead")
    return found


def _rapl(powercap: Path) -> Meter | NoMeter:
    """The processor packages' counters, and their memory's; never a sum of a package and its own cores.

    Source: Linux kernel, Documentation/power/powercap/powercap.rst (energy_uj, max_energy_range_uj).
    """
    zones = [zone for zone in sorted(powercap.glob("*rapl*:*")) if _zone_name(zone).startswith(("package", "dram"))]
    if not zones:
        return NoMeter("this machine shows no RAPL counters (virtual machines hide them)")
    try:
        counters = [_Counter(zone) for zone in zones]
    except OSError as error:
        return NoMeter(f"the RAPL counters cannot be read ({error.strerror}); root may, or whom it lets read energy_uj")
    names = ", ".join(sorted({_zone_name(zone) for zone in zones}))
    return Meter(f"RAPL ({names}), whole package, idle power included", lambda: sum(each.read() for each in counters))


def _zone_name(zone: Path) -> str:
    try:
        return (zone / "name").read_text().strip()
    except OSError:
        return ""


class _Counter:
    """One zone's microjoules, unwrapped: it starts again from 0 after max_energy_range_uj."""

    def __init__(self, zone: Path) -> None:
        self._file = zone / "energy_uj"
        self._range = int((zone / "max_energy_range_uj").read_text())
        self._last = int(self._file.read_text())
        self._wrapped = 0

    def read(self) -> float:
        now = int(self._file.read_text())
        if now < self._last:
            self._wrapped += self._range
        self._last = now
        return (self._wrapped + now) / 1e6


def _nvml() -> Meter | NoMeter:
    """The first GPU's board. Source: NVML API reference, nvmlDeviceGetTotalEnergyConsumption (millijoules, Volta on)."""
    try:
        import pynvml
    except ImportError:
        return NoMeter("NVML's Python module is missing: pip install nvidia-ml-py")
    try:
        pynvml.nvmlInit()
        board = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(board)
    except pynvml.NVMLError as error:
        return NoMeter(f"NVML does not give this GPU's energy: {error}")
    return Meter(
        "NVML, whole board, idle power included",
        lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(board)) / 1e3,
    )
