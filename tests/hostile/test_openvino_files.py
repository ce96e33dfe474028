"""OpenVINO files that are none, held against a whole one: one message, and nothing else from OpenVINO's readers of other formats."""

import os
from pathlib import Path

import pytest
from hostile._in_process import ends, refuses
from hostile._models import network

openvino = pytest.importorskip("openvino")
import onnx  # noqa: E402


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    onnx.save(network(), folder / "m.onnx")
    openvino.save_model(openvino.convert_model(folder / "m.onnx"), folder / "good.xml")
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With good.xml, and bad.xml that is to be damaged."""
    monkeypatch.chdir(tmp_path)
    for name in ("good", "bad"):
        for suffix in ("xml", "bin"):
            (tmp_path / f"{name}.{suffix}").write_bytes((whole / f"good.{suffix}").read_bytes())
    return tmp_path


DAMAGE: dict[str, tuple[str, str]] = {
    "an offset beyond the weights": ('offset="0"', 'offset="99999999999"'),
    "a negative offset": ('offset="0"', 'offset="-5"'),
    "a size beyond the weights": ('size="', 'size="9'),
    "a negative axis": ("<dim>8</dim>", "<dim>-8</dim>"),
    "an operator that there is not": ('type="MatMul"', 'type="Evil"'),
    "an element type that there is not": ('precision="FP32"', 'precision="FP99"'),
    "a layer that leads nowhere": ('from-layer="0"', 'from-layer="77"'),
    "a preprocessing of nothing": ("<rt_info>", '<rt_info><compressctl><preprocess value="[" /></compressctl>'),
}


@pytest.mark.parametrize(("old", "new"), DAMAGE.values(), ids=DAMAGE)
def test_damage(old: str, new: str, folder: Path) -> None:
    text = (folder / "bad.xml").read_text()
    assert old in text
    (folder / "bad.xml").write_text(text.replace(old, new))
    refuses(folder, "diff", "good.xml", "bad.xml", says="bad.xml")


TEXTS: dict[str, str] = {
    "nothing": "",
    "words": "hello",
    "elements in elements": "<a>" * 100_000,
    "entities in entities": '<!DOCTYPE x [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><net>&b;</net>',
    "an entity of another file": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><net>&a;</net>',
    "a network of nothing": "<net></net>",
    "a network that ends early": '<?xml version="1.0"?><net name="x" version="11"><layers>',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_texts(text: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.xml").write_text(text)
    refuses(folder, "diff", "good.xml", "bad.xml", says="bad.xml")
    assert capfd.readouterr() == ("", "")


def test_weights_that_are_not_there(folder: Path) -> None:
    (folder / "bad.bin").unlink()
    refuses(folder, "diff", "good.xml", "bad.xml", says="bad.bin does not exist")


def test_weights_that_are_short(folder: Path) -> None:
    (folder / "bad.bin").write_bytes(b"short")
    refuses(folder, "diff", "good.xml", "bad.xml", says="Incorrect weights in bin file")


def test_weights_from_a_device(folder: Path) -> None:
    (folder / "bad.bin").unlink()
    (folder / "bad.bin").symlink_to("/dev/zero")
    refuses(folder, "diff", "good.xml", "bad.xml", says="bad.bin is a device, not a file")


def test_weights_from_a_pipe(folder: Path) -> None:
    (folder / "bad.bin").unlink()
    os.mkfifo(folder / "bad.bin")
    refuses(folder, "diff", "good.xml", "bad.xml", says="bad.bin is a pipe, not a file")


def test_notes_about_nodes_that_are_nobodys(folder: Path) -> None:
    """Another program may have written whatever it likes below our name."""
    text = (folder / "bad.xml").read_text()
    (folder / "bad.xml").write_text(
        text.replace("<rt_info>", '<rt_info><compressctl><nodes value="[broken" /></compressctl>')
    )
    ends(folder, "diff", "good.xml", "bad.xml", "--samples", "1")
