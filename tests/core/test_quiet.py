"""Words of compiled code that nobody asked for."""

import subprocess
import sys

SCRIPT = """
import os, sys
from compressctl.core.quiet import mute
sys.stdout.write("before ")
with mute(1):
    os.write(1, b"from compiled code ")
    os.write(2, b"an error ")
os.write(1, b"after")
"""


def test_what_compiled_code_prints_is_dropped_and_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("before after", "an error ")


def test_a_descriptor_that_is_closed_stays_so() -> None:
    script = (
        "import os\nfrom compressctl.core.quiet import mute\nos.close(2)\nwith mute(2):\n    pass\nos.write(1, b'fine')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "fine"
