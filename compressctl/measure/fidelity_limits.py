"""Limits on how far outputs may be from the original's, as gates and budgets have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from compressctl.measure.fidelity import verdict, why_uncompared
from compressctl.measure.results import BudgetCheck, DecodedChange, Fidelity, OutputFidelity
from compressctl.recipe.schema import FidelityLimits

Figure = Literal["agreement", "cosine", "sqnr_db"]
FIGURES: tuple[Figure, ...] = ("agreement", "cosine", "sqnr_db")

_IDENTICAL_DB = float("inf")
_WORDS: dict[Figure, str] = {
    "agreement": "per cent of equal decisions",
    "cosine": "cosine with the original's",
    "sqnr_db": "dB of signal to noise",
}


def missed(name: str, limit: float, why: str = "not measured") -> BudgetCheck:
    """A limit that does not hold, without a figure."""
    return BudgetCheck(name=name, limit=limit, actual=None, holds=False, explanation=why)


def fidelity_checks(
    limits: FidelityLimits,
    outputs: Sequence[OutputFidelity],
    decoded: Mapping[str, DecodedChange | None],
) -> tuple[BudgetCheck, ...]:
    """One line for every limit that is set: of all outputs, the worst; or of the one that is named.

    outputs: empty where nothing was compared. decoded: by head, an empty name
    where there are none; None where nothing was decoded. What was not measured does not hold.
    """
    found = []
    for figure in FIGURES:
        limit = getattr(limits, figure)
        if isinstance(limit, Mapping):
            found += [_named(figure, name, least, outputs) for name, least in limit.items()]
        elif limit is not None:
            found.append(_worst(figure, limit, outputs))
    known = {head: part for head, part in decoded.items() if part is not None}
    parts: Mapping[str, DecodedChange | None] = known or {"": None}
    return (*found, *(check for head, part in parts.items() for check in _decoded(limits, head, part)))


def _decoded(limits: FidelityLimits, head: str, decoded: DecodedChange | None) -> Iterator[BudgetCheck]:
    for figure, limit in (("kept", limits.kept), ("added", limits.added)):
        if limit is None:
            continue
        name = f"{figure} of {head}" if head else figure
        actual = None if decoded is None else getattr(decoded, f"{figure}_percent")
        if decoded is None or actual is None:
            why = "not measured" if decoded is None else f"the original gives no {decoded.unit}"
            yield missed(name, limit, why)
            continue
        holds = actual >= limit - 1e-9 if figure == "kept" else actual <= limit + 1e-9
        words = f"per cent of the original's {decoded.unit}, {decoded.rule}"
        if decoded.draws is not None:
            low, high = getattr(decoded.draws, f"{figure}_low"), getattr(decoded.draws, f"{figure}_high")
            words += (
                f"; the mean of {low:.2f} to {high:.2f} on {decoded.draws.inputs} inputs that differ in their last bits"
            )
        yield BudgetCheck(name=name, limit=limit, actual=actual, holds=holds, explanation=words)


def strict_checks(found: Iterable[tuple[str, Fidelity | None]]) -> tuple[BudgetCheck, ...]:
    """A line for each deliverable: that it was compared with the original, and is near it. found: by backend."""
    checks = []
    for backend, fidelity in found:
        said = None if fidelity is None else verdict(fidelity)
        if fidelity is not None and said is None:
            said = _uncompared(fidelity)
        words = said or "near the original"
        checks.append(
            BudgetCheck(name=f"strict ({backend})", limit=1.0, actual=None, holds=said is None, explanation=words)
        )
    return tuple(checks)


def _uncompared(found: Fidelity) -> str | None:
    """What of a file that is near the original was compared on no sample, or not on all."""
    parts = [
        f"{output.name} was not compared ({why_uncompared(output)})"
        if not output.samples
        else f"{output.name} was not compared on {output.other_shapes:,} of {found.samples:,} samples (other shapes)"
        for output in found.outputs
        if not output.samples or output.other_shapes
    ]
    return "; ".join(parts) or None


def _named(figure: Figure, name: str, least: float, outputs: Sequence[OutputFidelity]) -> BudgetCheck:
    output = next((output for output in outputs if output.name == name), None)
    title = f"{figure} of {name}"
    if outputs and output is None:
        there = ", ".join(output.name for output in outputs)
        return missed(title, least, f"there is no output {name}; there are {there}")
    return _check(title, figure, least, output)


def _worst(figure: Figure, least: float, outputs: Sequence[OutputFidelity]) -> BudgetCheck:
    measured = [output for output in outputs if _value(figure, output) is not None]
    if figure != "agreement" and len(measured) < len(outputs):
        missing = ", ".join(output.name for output in outputs if output not in measured)
        return missed(figure, least, f"not measured for {missing}")
    if not measured:
        why = "not measured: no output looks like scores of classes" if outputs else "not measured"
        return missed(figure, least, why)
    return _check(figure, figure, least, min(measured, key=lambda output: _value(figure, output) or 0.0))


def _check(title: str, figure: Figure, least: float, output: OutputFidelity | None) -> BudgetCheck:
    value = None if output is None else _value(figure, output)
    if output is None or value is None:
        return missed(title, least)
    if value == -_IDENTICAL_DB:
        return missed(title, least, f"output {output.name} holds no numbers, or no signal, to compare")
    is_identical = value == _IDENTICAL_DB
    return BudgetCheck(
        name=title,
        limit=least,
        actual=None if is_identical else value,
        holds=value >= least - 1e-9,
        explanation=f"output {output.name} is identical" if is_identical else f"{_WORDS[figure]}, output {output.name}",
    )


def _value(figure: Figure, output: OutputFidelity) -> float | None:
    if not output.samples or output.other_shapes:
        return None
    if figure == "agreement":
        return None if output.agreement is None else 100 * output.agreement
    if figure == "cosine":
        return -_IDENTICAL_DB if output.broken else output.cosine
    if output.identical:
        return _IDENTICAL_DB
    # Without a signal every difference is noise alone.
    return -_IDENTICAL_DB if output.broken or output.sqnr_db is None else output.sqnr_db
