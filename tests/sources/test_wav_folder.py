"""Sound: read as other programs wrote it, with its transcript or class."""

import io
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.params import WavFolderParams
from compressctl.sources.wav_file import read_wav
from compressctl.sources.wav_folder import fingerprint, load

NONE = SplitSizes(validation=0, calibration=0, test=0)
TONE = np.sin(np.arange(400) / 7).astype(np.float32) * 0.8


def write(path: Path, samples: np.ndarray = TONE, rate: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, (samples * 32767).astype(np.int16))


def read(folder: Path, **fields: object) -> dict[object, np.ndarray]:
    """Each sound by its label."""
    dataset = load(WavFolderParams.model_validate({"path": ".", **fields}), NONE, folder, 0)
    found = {}
    for batch in dataset.split("train").batches(8):
        assert batch.labels is not None
        names = [dataset.classes[label] if dataset.classes else label for label in batch.labels]
        found |= dict(zip(names, batch.inputs["input"], strict=True))
    return found


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_every_width_is_read_as_scipy_writes_it(dtype: type, tmp_path: Path) -> None:
    info = None if np.dtype(dtype).kind == "f" else np.iinfo(dtype)
    stored = TONE if info is None else TONE * info.max if info.min else TONE * 127 + 128
    wavfile.write(tmp_path / "a.wav", 8000, stored.astype(dtype))
    found = read_wav(tmp_path / "a.wav")
    assert (found.rate, found.samples.shape) == (8000, (400, 1))
    np.testing.assert_allclose(found.samples[:, 0], TONE, atol=0.02 if dtype is np.uint8 else 1e-4)


def test_24_bits_and_channels(tmp_path: Path) -> None:
    values = np.array([[0, 1], [-1, 8_388_607], [-8_388_608, 256]])
    body = b"".join(int(value).to_bytes(3, "little", signed=True) for value in values.reshape(-1))
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((2, 3, 48_000, 3, "NONE", ""))
        file.writeframes(body)
    (tmp_path / "a.wav").write_bytes(stream.getvalue())
    np.testing.assert_allclose(read_wav(tmp_path / "a.wav").samples, values / 2**23, atol=1e-9)


def test_chunks_that_are_no_sound_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "b.wav").write_bytes(content[:12] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + content[12:])
    assert np.array_equal(read_wav(tmp_path / "b.wav").samples, read_wav(tmp_path / "a.wav").samples)


def test_librispeech_s_transcripts(tmp_path: Path) -> None:
    write(tmp_path / "7" / "7-1.wav")
    write(tmp_path / "7" / "7-2.wav", TONE[:300])
    (tmp_path / "7" / "7.trans.txt").write_text("7-1 HELLO THERE\n7-2 BYE\n")
    assert {name: sound.shape for name, sound in read(tmp_path).items()} == {"HELLO THERE": (400,), "BYE": (300,)}


def test_a_list_of_transcripts_or_folders_of_classes(tmp_path: Path) -> None:
    write(tmp_path / "yes" / "a.wav")
    write(tmp_path / "no" / "b.wav")
    (tmp_path / "l.csv").write_text("file,text\nyes/a.wav,oh yes\n")
    assert list(read(tmp_path, labels="l.csv")) == ["oh yes"]
    assert set(read(tmp_path, labels="folders")) == {"yes", "no"}


def test_length_frames_and_layout(tmp_path: Path) -> None:
    write(tmp_path / "x" / "a.wav")
    assert read(tmp_path, labels="folders", length=500)["x"].shape == (500,)
    assert not read(tmp_path, labels="folders", length=500)["x"][400:].any()
    assert read(tmp_path, labels="folders", layout="NCT")["x"].shape == (1, 400)
    framed = read(tmp_path, labels="folders", frames=[100, 50])["x"]
    assert framed.shape == (7, 100)
    np.testing.assert_allclose(framed[1], TONE[50:150], atol=1e-4)


def test_another_rate_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "x" / "a.wav", rate=8000)
    with pytest.raises(UsageError, match=r"8000 samples a second, data\.sample_rate is 16000"):
        read(tmp_path, labels="folders", sample_rate=16_000)


def test_channels_are_mixed(tmp_path: Path) -> None:
    write(tmp_path / "x" / "a.wav", np.stack([TONE, -TONE], axis=1))
    assert np.abs(read(tmp_path, labels="folders")["x"]).max() < 1e-4


def test_transcripts_decide_the_fingerprint(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    found = set()
    for text in ("one", "two", "two"):
        (tmp_path / "l.txt").write_text(f"a.wav\t{text}\n")
        found.add(fingerprint(WavFolderParams(path=".", labels="l.txt"), tmp_path))
    assert len(found) == 2


@pytest.mark.parametrize("fields", [{}, {"length": 100}, {"length": 600, "frames": [512, 256]}], ids=str)
def test_a_file_without_sound_is_refused_and_not_filled_with_silence(fields: dict[str, object], tmp_path: Path) -> None:
    write(tmp_path / "a.wav", np.zeros(0, np.int16))
    with pytest.raises(UsageError, match=r"a\.wav holds no samples"):
        read(tmp_path, labels=None, **fields)


def test_sounds_of_two_rates_are_refused_where_no_rate_is_named(tmp_path: Path) -> None:
    write(tmp_path / "high" / "a.wav")
    write(tmp_path / "low" / "b.wav", rate=8_000)
    with pytest.raises(UsageError, match=r"b\.wav has 8000 samples a second, the first sound has 16000"):
        read(tmp_path, labels="folders")
