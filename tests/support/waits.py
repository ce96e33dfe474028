"""Waiting for a signal in a process that is to be interrupted."""

import time


def for_a_signal(seconds: float = 600) -> None:
    """Sleep in short pieces.

    A signal that arrives between Python's last look and the call that sleeps is noticed only after that call: whoever sends it on
    seeing a line printed meets that moment now and then, and one long sleep would go on to its end.
    """
    for _ in range(int(seconds * 20)):
        time.sleep(0.05)
