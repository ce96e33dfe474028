"""What remains of the original's decoded results, in words and rows. Plain text, not yet escaped for anything."""

from __future__ import annotations

from compressctl.core.legible import shortened
from compressctl.measure.results import BackendResult, DecodedChange, Score

HEAD = ("class", "the original's", "kept", "added")
_NEAR = 90.0
"""Per cent of the original's results below which the file does something else, in the first words of a verdict."""


def verdict(found: DecodedChange) -> str | None:
    """What the verdict begins with where too few results remain; None otherwise."""
    kept = found.kept_percent
    if kept is None or kept >= _NEAR:
        return None
    return f"differs from the original: {kept:.1f} % of its {found.unit} remain"


def summary(found: DecodedChange) -> str:
    """A few words for the verdict's line."""
    kept, added = found.kept_percent, found.added_percent
    if kept is None or added is None:
        return f"the original gives no {found.unit}"
    more = f", {added:.2f} % added" if found.added else ""
    text = "" if found.character_error is None else f", {found.character_error:.2f} % of characters changed"
    return f"{kept:.2f} % of {found.unit} kept{more}{text}"


def sentences(found: DecodedChange, score: Score | None) -> list[str]:
    """What was decoded, and what of it remains."""
    lines = [
        f"Decoded results against the original's own on {found.samples:,} test samples: of {found.reference:,} {found.unit} "
        f"{found.kept:,} are kept ({found.rule}), {found.added:,} are added; {found.equal_samples:,} samples are wholly the same."
    ]
    if (draws := found.draws) is not None:
        lines.append(
            f"What lies beside a threshold comes and goes with the last bits of the inputs: on {draws.inputs} inputs that differ by a "
            f"hundred-thousandth at most, {draws.kept_percent:.2f} % are kept ({draws.kept_low:.2f} to {draws.kept_high:.2f}) and "
            f"{draws.added_percent:.2f} % added ({draws.added_low:.2f} to {draws.added_high:.2f}); limits are held against the means."
        )
    if found.character_error is not None:
        lines.append(f"{found.character_error:.2f} % of the original's characters would have to change.")
    elif found.unit == "strings" and found.reference:
        lines.append("How many characters would have to change is unknown: texts are too long to count them.")
    if score is not None and score.reference == "original":
        lines.append(f"The data has no labels: {score.metric} is counted against the original's own results.")
    return lines


def rows(part: BackendResult) -> list[list[str]]:
    """A row per class, the one that lost most first."""
    parts = [("", part.compressed.decoded), *((f"{head.name}: ", head.decoded) for head in part.compressed.heads)]
    classes = [
        entry.model_copy(update={"name": head + entry.name})
        for head, found in parts
        if found
        for entry in found.classes
    ]
    order = sorted(classes, key=lambda entry: entry.kept / entry.reference if entry.reference else 1.0)
    return [
        [shortened(entry.name), f"{entry.reference:,}", _share(entry.kept, entry.reference), f"{entry.added:,}"]
        for entry in order
    ]


def _share(kept: int, reference: int) -> str:
    return f"{kept:,} ({100 * kept / reference:.2f} %)" if reference else f"{kept:,}"
