"""What this computer is: processor, instruction sets, and what they mean for INT8. Standard library only."""

from __future__ import annotations

import atexit
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from compressctl.core.errors import MachineError


def installed_version(*distributions: str) -> str | None:
    """Of the first of these packages that is installed; None where none is."""
    from importlib.metadata import PackageNotFoundError, version

    for name in distributions:
        with suppress(PackageNotFoundError):
            return version(name)
    return None


@dataclass(frozen=True)
class Machine:
    """cpu_flags: as Linux names them (avx2, avx512_vnni, amx_int8, asimddp). Empty where they cannot be read."""

    system: str
    architecture: str
    cpu: str
    logical_cpus: int
    cpu_flags: frozenset[str]

    @property
    def has_vnni(self) -> bool:
        """8-bit dot products that accumulate in 32 bits, so that they cannot saturate."""
        return bool(self.cpu_flags & {"avx512_vnni", "avx_vnni", "amx_int8"})


@dataclass(frozen=True)
class NvidiaGpu:
    """capability: NVIDIA's compute capability, (8, 9) for Ada."""

    name: str
    capability: tuple[int, int]


def check_system() -> None:
    """Raises MachineError on a system that compressctl is not made for. docs/install.md says which it is made for."""
    system = platform.system()
    if system not in _READERS:
        raise MachineError(
            f"compressctl runs on Linux and macOS, this is {system or 'another system'}",
            hint="on Windows, install it inside WSL 2, which is Linux; the files that it writes run on Windows",
        )


def ensure_temporary_folder(folder: Path) -> None:
    """Where the system has none, as in a container that may write to its output alone, temporary files lie in this one from now on.

    Child processes have it too. It goes with the process: libraries remove theirs only then. Raises OSError.
    """
    if _has_temporary_folder():
        return
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder.absolute())
    atexit.register(shutil.rmtree, folder.absolute(), ignore_errors=True)


def _has_temporary_folder() -> bool:
    try:
        tempfile.gettempdir()
    except OSError:
        return False
    return True


@lru_cache(maxsize=1)
def nvidia_gpu() -> NvidiaGpu | None:
    """The first NVIDIA GPU here, as its driver's nvidia-smi tells; None without one or without a driver."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    try:
        asked = [command, "--query-gpu=name,compute_cap", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10)
        name, capability = done.stdout.splitlines()[0].rsplit(",", 1)
        major, minor = capability.strip().split(".")
        return NvidiaGpu(name.strip(), (int(major), int(minor)))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def usable_cpus() -> list[int]:
    """The logical processors that this process may use, by number."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def library_threads() -> int:
    """Threads for what is computed and not timed: as OMP_NUM_THREADS says, which some libraries read and others must be told. 0: all."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isascii() and first.isdecimal() and len(first) < 5 else 0


@lru_cache(maxsize=1)
def this_machine() -> Machine:
    model, flags = _READERS.get(platform.system(), _unknown)()
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        cpu=model or platform.processor() or "unknown",
        logical_cpus=os.cpu_count() or 1,
        cpu_flags=frozenset(flags),
    )


def _linux() -> tuple[str, list[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return _unknown()
    facts: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip().lower(), value.strip())
    return facts.get("model name", ""), (facts.get("flags") or facts.get("features") or "").split()


def _macos() -> tuple[str, list[str]]:
    def ask(key: str) -> str:
        done = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    features = f"{ask('machdep.cpu.features')} {ask('machdep.cpu.leaf7_features')}".lower().split()
    dot_product = ["asimddp"] if ask("hw.optional.arm.FEAT_DotProd") == "1" else []
    return ask("machdep.cpu.brand_string"), features + dot_product


def _unknown() -> tuple[str, list[str]]:
    return "", []


_READERS = {"Linux": _linux, "Darwin": _macos}
