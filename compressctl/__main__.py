"""The command line, as `compressctl` and as `python -m compressctl`."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run it. Never returns: whatever ends the process, also while it starts, does so with an exit code of docs/exit-codes.md."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)
    try:
        from compressctl.cli.main import main as command_line

        command_line()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
