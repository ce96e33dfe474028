"""Which sample belongs to which split. The splits never overlap, and one seed always gives the same ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compressctl.core.data import SplitName
from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes

_DEFAULT_TEST_SHARE, _DEFAULT_VALIDATION_SHARE = 0.2, 0.1
_DEFAULT_CALIBRATION = 300


@dataclass(frozen=True)
class Splits:
    """Positions of samples, int64, each array (n,). No position is in two of them."""

    train: np.ndarray
    validation: np.ndarray
    calibration: np.ndarray
    test: np.ndarray

    def of(self, name: SplitName) -> np.ndarray:
        by_name = {
            "train": self.train,
            "validation": self.validation,
            "calibration": self.calibration,
            "test": self.test,
        }
        return by_name[name]


def choose(
    samples: int,
    sizes: SplitSizes,
    seed: int,
    *,
    own_validation: int = 0,
    own_test: int = 0,
    own_calibration: int = 0,
) -> Splits:
    """Deal `samples` samples to the splits; what no other split takes is for training.

    own_validation, own_test and own_calibration: how many samples the dataset itself keeps for these splits; they are stored after
    the others (positions samples .. samples + own_validation - 1, then the test's, then the calibration's). Of an own validation or calibration split at most so many
    as the recipe says. Where validation comes from the test's, that is dealt to it first. Test is dealt first, then validation, then calibration,
    so that another calibration size leaves the first two as they are; `train` takes the first of the rest, so that a larger one keeps a smaller one's samples.
    Raises UsageError when the sizes ask for more samples than there are.
    """
    order = np.random.default_rng(seed).permutation(samples)
    is_from_test = sizes.validation_from == "test"
    if is_from_test:
        _check_has_own_test(own_validation, own_test)
    wanted_test, from_test = 0, np.empty(0, np.int64)
    if own_test:
        own = np.random.default_rng([seed, 1]).permutation(own_test) + samples + own_validation
        from_test, test = _dealt(own, sizes)
    else:
        wanted_test = _count("test", _DEFAULT_TEST_SHARE if sizes.test is None else sizes.test, samples)
        test = order[:wanted_test]
    share = _DEFAULT_VALIDATION_SHARE if sizes.validation is None else sizes.validation
    wanted_validation = 0 if own_validation or is_from_test else _count("validation", share, samples)
    left = max(0, samples - wanted_test - wanted_validation)
    if own_calibration:
        wanted_calibration = 0
    elif sizes.calibration is None:
        # Of few samples some are left to train on.
        wanted_calibration = _DEFAULT_CALIBRATION if left >= _DEFAULT_CALIBRATION else -(-left // 2)
    else:
        wanted_calibration = _count("calibration", sizes.calibration, samples)
    _check_fit(samples, {"test": wanted_test, "validation": wanted_validation, "calibration": wanted_calibration})
    ends = np.cumsum([wanted_test, wanted_validation, wanted_calibration])
    validation = from_test if is_from_test else order[ends[0] : ends[1]]
    if own_validation:
        own = np.random.default_rng([seed, 2]).permutation(own_validation) + samples
        most = None if sizes.validation is None else _count("validation", sizes.validation, own_validation)
        validation = np.sort(own) if most is None or most >= own_validation else own[:most]
    calibration = order[ends[1] : ends[2]]
    if own_calibration:
        own = np.random.default_rng([seed, 3]).permutation(own_calibration) + samples + own_validation + own_test
        asked = _DEFAULT_CALIBRATION if sizes.calibration is None else sizes.calibration
        calibration = own[: _count("calibration", asked, own_calibration)]
    train = order[ends[2] :]
    return Splits(
        train=train if sizes.train is None else train[: _count("train", sizes.train, samples)],
        validation=validation,
        calibration=calibration,
        test=test,
    )


def check_apart(*parts: Sequence[Path]) -> None:
    """parts: the files that the splits share, then those of each split of its own.

    Raises UsageError where a file is in two: what is reported would be of samples that stages saw.
    """
    where: dict[str, int] = {}
    for part, paths in enumerate(parts):
        for path in paths:
            if where.setdefault(os.path.realpath(path), part) != part:
                raise UsageError(
                    f"{path} is in two of the data's own splits: scores would be of what stages saw",
                    hint="give them different files, or name those for training alone: test and validation are taken out of them",
                )


def _dealt(own: np.ndarray, sizes: SplitSizes) -> tuple[np.ndarray, np.ndarray]:
    """What validation takes of a dataset's own test split, and what reports. own: all of it, in the order in which it is dealt."""
    share = _DEFAULT_VALIDATION_SHARE if sizes.validation is None else sizes.validation
    taken = _count("validation", share, len(own)) if sizes.validation_from == "test" else 0
    left = own[taken:]
    if taken and not len(left):
        raise UsageError(
            f"data.validation takes {taken} samples of the test split, which has {len(own)}: none are left to report",
            hint="lower data.validation, as to 0.5 for half of them",
        )
    asked = len(left) if sizes.test is None else _count("test", sizes.test, len(own))
    if asked > len(left):
        kept = f", of which {taken} are for validation" if taken else ""
        raise UsageError(
            f"data.test asks for {asked} samples but the dataset's own test split has {len(own)}{kept}",
            hint="leave data.test out to use all of them",
        )
    return np.sort(own[:taken]), np.sort(left) if asked == len(left) else left[:asked]


def _check_has_own_test(own_validation: int, own_test: int) -> None:
    if own_validation:
        raise UsageError(
            "data.validation_from: test: the data have a validation split of their own", hint="leave it out"
        )
    if not own_test:
        raise UsageError(
            "data.validation_from: test: the data have no test split of their own, so that all samples are dealt alike",
            hint="leave it out, or give the data a test split",
        )


def _count(name: str, size: int | float, samples: int) -> int:
    if isinstance(size, int):
        return size
    if size > 1:
        raise UsageError(
            f"data.{name}: {size} is neither a whole number of samples nor a share between 0 and 1",
            hint=f"write {round(size)} for that many samples",
        )
    return round(size * samples)


def _check_fit(samples: int, wanted: dict[str, int]) -> None:
    total = sum(wanted.values())
    if total > samples:
        parts = ", ".join(f"{name} {count}" for name, count in wanted.items() if count)
        raise UsageError(
            f"the splits ask for {total} samples ({parts}) but there are {samples} to share",
            hint="lower data.calibration, data.validation or data.test; shares like 0.1 grow with the data",
        )
