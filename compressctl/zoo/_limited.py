"""Run a command within limits that the kernel keeps: `python _limited.py LIMITS PARENT COMMAND ...`. Standard library alone, as it is a file of its own.

Signals that the parent has blocked are not blocked in it: workers of a cluster block Ctrl-C. LIMITS: JSON with `data` in bytes (private memory that can be written to) or null. The command dies with its parent, where the
system knows how: one whose driver was killed must not go on beside the next driver's.
"""

import ctypes
import json
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    limits, parent = json.loads(sys.argv[1]), int(sys.argv[2])
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limits["data"] is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limits["data"], limits["data"]))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)
    os.execv(sys.argv[3], sys.argv[3:])


if __name__ == "__main__":
    main()
