"""The demo in bad states of the machine: full disks, a read-only root, little address space, caches of others.

    sudo python benchmarks/states.py [STATE ...]

`compressctl apply builtin:quickstart` runs in a mount namespace of its own, so that nothing of the machine changes. Printed are the exit code, the
seconds, the bytes of the last message, and what is left where. Exits with 1 where a run ends otherwise than it should: with another exit code, a
traceback, a message of 2 kB or more, or a half-written file. Linux, and root, who alone may mount.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

_DISK = "mount -t tmpfs -o size=60k tmpfs"
_DEMO = f"{sys.executable} -m compressctl apply builtin:quickstart --output out/run"
_LEFT = "find out cache home temporary -type f"
_POISON = """import hashlib, json, pathlib, sys
for entry in pathlib.Path(sys.argv[1]).glob("stages/*/model.json"):
    facts = json.loads(entry.read_text())
    facts["factory"] = {"name": sys.argv[2] + "/evil.py:f", "args": {}}
    entry.write_text(json.dumps(facts))
    files = [file for file in entry.parent.iterdir() if file.name != "manifest.json"]
    (entry.parent / "manifest.json").write_text(json.dumps({f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}))
"""
_EVIL = "open({canary!r}, 'w').write('ran')\n\n\ndef f(**k):\n    import torch; return torch.nn.Linear(1, 1)\n"


@dataclass(frozen=True)
class State:
    """before: shell lines, with `out`, `cache`, `home` and `temporary` in the working folder. codes: what the run may end with."""

    before: str
    codes: tuple[int, ...]
    is_prepared: bool = False
    """A first run fills the cache before."""


STATES = {
    "as it is": State(":", (0,)),
    "output on 60 kB": State(f"{_DISK} out", (5,)),
    "cache on 60 kB": State(f"{_DISK} cache", (0,)),
    "temporary files on 60 kB": State(f"{_DISK} temporary", (0, 5)),
    "everything on 60 kB": State(f"{_DISK} out && {_DISK} cache && {_DISK} temporary && {_DISK} home", (5,)),
    "read-only but for the output": State(
        "mount -t tmpfs tmpfs out && for at in $(findmnt --list --noheadings --output TARGET); do"
        " [ $at = $PWD/out ] || mount -o remount,bind,ro $at; done 2> /dev/null; ! touch cache/x 2> /dev/null",
        (0,),
    ),
    **{f"ulimit -v {number} MB": State(f"ulimit -v {number}000", (0, 4, 5)) for number in (100, 400, 1000, 2000, 4000)},
    "a poisoned cache": State(f"{sys.executable} poison.py cache $PWD", (0,), is_prepared=True),
    "a cache that others may write": State("chmod 777 cache", (0,), is_prepared=True),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("states", nargs="*", metavar="STATE", help=", ".join(STATES))
    chosen = parser.parse_args().states or list(STATES)
    print("| state | exit code | seconds | message | files |\n|---|---|---|---|---|")
    outcomes = [_holds(name, STATES[name]) for name in chosen]
    return int(not all(outcomes))


def _holds(name: str, state: State) -> bool:
    with tempfile.TemporaryDirectory(prefix="compressctl-states-") as made:
        folder = Path(made)
        for part in ("out", "cache", "home", "temporary"):
            (folder / part).mkdir(mode=0o700)
        (folder / "poison.py").write_text(_POISON)
        (folder / "evil.py").write_text(_EVIL.format(canary=str(folder / "canary")))
        if state.is_prepared:
            _run(folder, _DEMO)
            shutil.rmtree(folder / "out" / "run")
        began = time.monotonic()
        done = _run(folder, f"{state.before} || exit 99\n{_DEMO} > /dev/null\ncode=$?\n{_LEFT}\nexit $code")
        seconds = time.monotonic() - began
        left = done.stdout.splitlines()
        ran = (folder / "canary").exists()
    return _tell(name, state, done, seconds, left, ran)


def _run(folder: Path, lines: str) -> subprocess.CompletedProcess[str]:
    places = {"HOME": "home", "COMPRESSCTL_CACHE": "cache", "TMPDIR": "temporary"}
    return subprocess.run(
        ["unshare", "--mount", "bash", "-c", lines],
        cwd=folder,
        env={**os.environ, **{name: str(folder / place) for name, place in places.items()}},
        capture_output=True,
        text=True,
    )


def _tell(
    name: str, state: State, done: subprocess.CompletedProcess[str], seconds: float, left: list[str], ran: bool
) -> bool:
    scratch = [path for path in left if ".writing-" in path or path.startswith("temporary/")]
    wrong = {
        f"not one of {state.codes}": done.returncode not in state.codes,
        "a traceback": "Traceback" in done.stderr,
        "a message of 2 kB": done.returncode != 0 and len(done.stderr.encode()) >= 2000,
        f"left behind: {scratch}": bool(scratch),
        "the cache's code ran": ran,
        "no report": done.returncode == 0 and "out/run/report.json" not in left,
    }
    found = ", ".join(what for what, is_so in wrong.items() if is_so)
    said = (
        next(iter(done.stderr.splitlines()), "")[:160].replace("|", "/") if done.returncode or state.is_prepared else ""
    )
    print(
        f"| {name} | {done.returncode} | {seconds:.0f} | {said} | {len(left)} |{f' **{found}**' if found else ''}",
        flush=True,
    )
    return not found


if __name__ == "__main__":
    sys.exit(main())
