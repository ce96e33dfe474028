"""What the machine refuses: disks, rights, streams, names, signals. Each ends as one message with its own exit code."""

from hostile._case import Case


def test_a_file_that_is_not_there(case: Case) -> None:
    case.refuses("inspect", "none.onnx", code=2, says="none.onnx")


def test_an_output_whose_name_is_too_long(case: Case) -> None:
    case.refuses("apply", "builtin:quickstart", "--output", "x" * 300, code=2, says="File name too long")
