"""How near the exported file's outputs are to the original's, in words and rows. Plain text, not yet escaped for anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressctl.core.legible import shortened
from compressctl.measure.fidelity import nearness, why_uncompared
from compressctl.measure.fidelity import verdict as judged
from compressctl.measure.results import BackendResult, Fidelity, OutputFidelity
from compressctl.report import decoded

_NAMED = 3
HEAD = ("output", "signal to noise", "cosine", "largest difference", "equal decisions", "decided by")


def verdict(part: BackendResult) -> str | None:
    """What the verdict begins with where the file computes something else, or nobody knows; None where it is near, and in
    reports of versions that did not compare. Where results are decoded, they decide, and not how outputs differ."""
    found, results = part.compressed.fidelity, part.compressed.decoded
    if results is not None and results.reference:
        return decoded.verdict(results)
    if found is None:
        return None
    outputs = [output.model_copy(update={"name": shortened(output.name)}) for output in found.outputs]
    return judged(found.model_copy(update={"outputs": outputs}))


def summary(part: BackendResult) -> str | None:
    """Decoded results, or the worst output, in a few words, for the verdict's line; None where nothing was compared."""
    if part.compressed.decoded is not None:
        return decoded.summary(part.compressed.decoded)
    found = part.compressed.fidelity
    compared = [output for output in found.outputs if output.samples] if found else []
    if found is None or not compared:
        return None
    uncompared = [shortened(output.name) for output in found.outputs if not output.samples]
    left = (
        f", {', '.join(uncompared[:_NAMED])}{' and more' if len(uncompared) > _NAMED else ''} not compared"
        if uncompared
        else ""
    )
    if all(output.identical and not output.other_shapes for output in compared):
        return f"{'compared outputs' if uncompared else 'outputs'} identical{left}{_random(found)}"
    worst = min(compared, key=lambda output: (output.identical, output.sqnr_db if output.sqnr_db is not None else -1e9))
    name = f" ({shortened(worst.name)})" if len(compared) > 1 else ""
    agreement = "" if worst.agreement is None else f", {worst.agreement:.2%} equal decisions"
    return (
        f"{'worst output' if len(compared) > 1 else 'output'}{name} {nearness(worst)}{agreement}{left}{_random(found)}"
    )


def sentences(part: BackendResult) -> list[str]:
    """What was compared, and what was not."""
    found = part.compressed.fidelity
    if found is None:
        return []
    if found.reason is not None:
        return [f"Not compared with the original: {found.reason}."]
    which = "random values" if found.is_random else f"samples of the {found.split} split"
    is_whole = all(output.samples and not output.other_shapes for output in found.outputs)
    what = "Every output was" if is_whole else "Outputs were"
    lines = [f"{what} compared with the original's {_where(found.samples, found.steps, which)}, in the same runtime."]
    if found.steps is not None:
        lines.append("Each file went on from its own states, zeros where a sequence begins; what is timed is one step.")
    for output in found.outputs:
        name = shortened(output.name)
        if output.other_shapes:
            which = (
                "all calls" if not output.samples else f"calls of {output.other_shapes:,} of {found.samples:,} samples"
            )
            lines.append(f"{name} has another shape than the original's in {which}, which are not compared.")
        if output.broken:
            lines.append(f"{name}: {output.broken:,} values are NaN or infinite on one side alone.")
        if output.expected_churn is not None and not output.identical:
            lines.append(_expected(name, output))
        if output.undefined:
            whole = "all that it was compared on" if not output.samples else "which are in no figure"
            lines.append(f"{name}: {output.undefined:,} values are NaN or infinite in the original too, {whole}.")
    return lines


def _expected(name: str, output: OutputFidelity) -> str:
    """What few decisions can tell of many."""
    share = output.expected_churn or 0.0
    about = f"about {share:.2%}" if share >= 0.00005 else "less than 0.01%"
    return (
        f"{name}: {output.decisions:,} decisions are few to count changes of; by how far scores moved, {about} would change among more "
        "samples like these."
    )


def _where(samples: int, steps: int | None, which: str) -> str:
    """As in "on 8 samples of the test split", "at 4,000 steps of 8 sequences of the test split"."""
    if steps is None:
        return f"on {samples:,} {which}"
    return f"at {steps:,} steps of {samples:,} {which.replace('samples', 'sequences')}"


def stage_words(facts: Mapping[str, Any]) -> str | None:
    """The worst output after a stage, from the stage's facts; None where nothing was compared."""
    found = facts.get("fidelity")
    outputs = found.get("outputs") if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(outputs, Mapping) or not outputs:
        return None
    measured = [OutputFidelity.model_validate({**_NOTHING, "name": name, **given}) for name, given in outputs.items()]
    compared = [output for output in measured if output.samples]
    if not compared:
        return f"its outputs are not compared with the original's: {why_uncompared(measured[0])}"
    worst = min(compared, key=lambda output: (output.identical, output.sqnr_db if output.sqnr_db is not None else -1e9))
    name = f"worst output {shortened(worst.name)}" if len(compared) > 1 else "output"
    agreement = "" if worst.agreement is None else f", {worst.agreement:.2%} equal decisions"
    where = _where(found["samples"], found.get("steps"), f"samples of the {found.get('split')} split")
    return f"{name} {nearness(worst)}{agreement} against the original's, {where}"


_NOTHING = {"samples": 0, "identical": False, "sqnr_db": None, "cosine": None, "largest_difference": None}


def rows(part: BackendResult) -> list[list[str]]:
    """A row per output."""
    found = part.compressed.fidelity
    return [] if found is None else [_row(output) for output in found.outputs]


def _row(output: OutputFidelity) -> list[str]:
    if not output.samples:
        return [shortened(output.name), f"not compared: {why_uncompared(output)}", "", "", "", ""]
    return [
        shortened(output.name),
        _identical(output)
        if output.identical
        else f"NaN or infinity in {output.broken:,}"
        if output.broken
        else "no signal"
        if output.sqnr_db is None
        else f"{output.sqnr_db:.1f} dB",
        "" if output.cosine is None else f"{output.cosine:.5f}",
        "" if output.largest_difference is None else f"{output.largest_difference:.3g}",
        "" if output.agreement is None else f"{output.agreement:.2%}, {1 - output.agreement:.2%} changed",
        output.decided_by or "",
    ]


def _identical(output: OutputFidelity) -> str:
    return f"identical ({output.other_shapes:,} samples not compared)" if output.other_shapes else "identical"


def _random(found: Fidelity) -> str:
    return " (on random values)" if found.is_random else ""
