#!/usr/bin/env python3
"""Fuzz the readers: mutate inputs, and stop for everything that is not one of our own errors, too slow or too large.

    python fuzz/run.py                        # every target, a minute each
    python fuzz/run.py npz csv --seconds 20   # these, for so long
    python fuzz/run.py packed --inputs 1000000 --seed 7

One process, no forks. A find is written to fuzz/finds/; mend it, and move the file to fuzz/corpus/, which the tests read.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from mutate import mutated  # noqa: E402
from targets import TARGETS, Target  # noqa: E402

from compressctl.core.errors import CompressctlError, MachineError  # noqa: E402

LONGEST_SECONDS, LONGEST_WAIT, MOST_MEMORY, LONGEST_MESSAGE = 10, 600, 1 << 30, 2000
"""Seconds of the processor, and of the clock: other programs may leave it little."""
FINDS = Path(__file__).parent / "finds"


class TooLongError(Exception):
    """A reader says more than anybody reads."""


class TooSlowError(BaseException):
    """A reader took too long. No `except Exception` catches it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60, help="for each target (default: 60)")
    parser.add_argument("--inputs", type=int, help="stop after so many, however long that takes")
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    logging.disable()
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, _too_slow)
    finds = 0
    for name in options.targets or TARGETS:
        finds += fuzz(name, TARGETS[name], options.seconds, options.inputs, seed)
    return 1 if finds else 0


def fuzz(name: str, target: Target, seconds: float, inputs: int | None, seed: int) -> int:
    """How many finds there were, each of another kind."""
    rng = random.Random(f"{seed} {name}")
    pool = [*target.seeds(), *target.corpus(name)]
    found: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_memory_folder()) as folder:
        for data in pool:
            _examine(name, target, data, Path(folder), found)
        limit_memory()
        start, count, refused = time.monotonic(), 0, 0
        while count < inputs if inputs is not None else time.monotonic() - start < seconds:
            data = mutated(rng.choice(pool), pool, rng)
            refused += _examine(name, target, data, Path(folder), found)
            count += 1
        passed = time.monotonic() - start
    print(
        f"{name}: {count:,} inputs in {passed:.0f} s ({count / passed:,.0f} a second), {refused:,} refused, {len(found)} finds, seed {seed}"
    )
    return len(found)


def _examine(name: str, target: Target, data: bytes, folder: Path, found: set[str]) -> bool:
    """Whether it was refused, as it may be. What may not be is written down, each kind once."""
    try:
        return examined(target, data, folder)
    except (Exception, TooSlowError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
        if kind not in found:
            found.add(kind)
            FINDS.mkdir(exist_ok=True)
            path = FINDS / f"{name}-{len(found)}-{os.getpid()}"
            path.write_bytes(data)
            print(f"{name}: {kind}: {str(error)[:300]}\n   {path}", flush=True)
        return False


def examined(target: Target, data: bytes, folder: Path) -> bool:
    """Read the bytes; True when they were refused. Raises what no reader may raise."""
    signal.setitimer(signal.ITIMER_PROF, LONGEST_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_WAIT)
    try:
        target.read(data, folder)
    except MachineError:
        raise
    except CompressctlError as error:
        if len(str(error).encode(errors="backslashreplace")) > LONGEST_MESSAGE:
            raise TooLongError(f"a message of {len(str(error)):,} characters") from error
        return True
    finally:
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
    return False


def limit_memory() -> None:
    """What this process has, and MOST_MEMORY more."""
    status = Path("/proc/self/status")
    if status.exists():
        taken = (
            int(next(line for line in status.read_text().splitlines() if line.startswith("VmSize")).split()[1]) << 10
        )
        resource.setrlimit(resource.RLIMIT_AS, (taken + MOST_MEMORY, resource.RLIM_INFINITY))


def _memory_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _too_slow(*_: object) -> None:
    raise TooSlowError(f"still reading after {LONGEST_SECONDS} s")


if __name__ == "__main__":
    sys.exit(main())
