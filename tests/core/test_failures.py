"""What the machine refused, however a library puts it."""

import errno
import os

import pytest

from compressctl.core.errors import ExitCode
from compressctl.core.failures import exit_code, refusal


def wrapped(behind: BaseException) -> Exception:
    """As libraries raise an error of their own from what they met."""
    try:
        try:
            raise behind
        except BaseException as met:
            raise RuntimeError("the exporter could not go on") from met
    except RuntimeError as error:
        return error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.EFBIG])
def test_what_ran_out_is_the_machines_also_behind_a_librarys_own_error(number: int) -> None:
    error = wrapped(OSError(number, os.strerror(number), "model.onnx"))
    assert os.strerror(number) in str(refusal(error))
    assert exit_code(error) is ExitCode.MACHINE


def test_so_is_memory() -> None:
    assert "not enough memory" in str(refusal(wrapped(MemoryError())))


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EPIPE])
def test_what_a_library_may_have_tried_first_is_not(number: int) -> None:
    assert refusal(wrapped(OSError(number, os.strerror(number), "model.onnx"))) is None
