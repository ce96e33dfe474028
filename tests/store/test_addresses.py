"""Which addresses are followed, and which are not."""

import pytest

from compressctl.core.errors import UsageError
from compressctl.core.secrets import forget_secrets, keep_secret
from compressctl.store.address import is_address, parse

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    "text", ["s3://bucket/a.onnx", "hf://org/repo@main/a.onnx", "simplecache::s3://b/k", "ftp://host/a", "HTTPS://h/a"]
)
def test_what_names_a_scheme_is_an_address(text: str) -> None:
    assert is_address(text)


@pytest.mark.parametrize(
    "text", ["model.onnx", "./a/b.onnx", "/abs/a.onnx", "C:\\models\\a.onnx", "a:b", "//host/share"]
)
def test_a_path_is_none(text: str) -> None:
    assert not is_address(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http://host/a.onnx", "use https"),
        ("ftp://host/a.onnx", "no address that can be read"),
        ("simplecache::s3://bucket/key", "no address that can be read"),
        ("s3://bucket/../other/key", "never followed"),
        ("s3://bucket/a/./key", "never followed"),
        ("s3://bucket/a\\b", "never followed"),
        ("https://host/%2e%2e/a", "never followed"),
        ("s3://bucket//key", "is empty"),
        ("s3://", "is empty"),
        ("file://relative/a.onnx", "no file of this machine"),
        ("s3://bucket/a\x1b[31m", "control characters"),
        ("s3://bucket/" + "a" * 5000, "too long"),
        ("https://user:hunter2@host/a.onnx", "password"),
        ("s3://key:secret@bucket/a.onnx", "password"),
        ("https://host/a.onnx?X-Amz-Signature=0123456789", "lets in whoever reads it"),
        ("https://host/a.onnx?access_token=0123456789", "lets in whoever reads it"),
    ],
)
def test_what_is_not_followed_is_refused_with_why(text: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(text)
    assert says in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert "0123456789" not in str(refused.value)


def test_a_signed_address_may_come_from_the_environment() -> None:
    try:
        keep_secret("https://host/a.onnx?X-Amz-Signature=0123456789", "${env:URL}")
        keep_secret("0123456789", "${env:SIGNATURE}")
        assert parse("https://host/a.onnx?X-Amz-Signature=0123456789").name == "a.onnx"
        assert parse("https://other/a.onnx?sig=0123456789").name == "a.onnx"
    finally:
        forget_secrets()


def test_files_beside_a_file_lie_in_its_folder() -> None:
    beside = parse("hf://org/repo@rev/onnx/model.onnx").beside("parts/model.data")
    assert str(beside) == "hf://org/repo@rev/onnx/parts/model.data"
    with pytest.raises(UsageError, match="never followed"):
        parse("s3://bucket/a.onnx").beside("../model.data")
