"""Networks that decide by their input what they compute: which way samples took, in tables and sentences."""

from __future__ import annotations

from compressctl.core.legible import shortened
from compressctl.measure.results import BackendResult, Paths
from compressctl.report.tables import score_text

HEAD = ("way", "samples", "share", "MACs", "float", "this file")
_NAMED = 3
_GAP = 0.2
"""By which shares of classes that leave early must differ to be named."""


def rows(part: BackendResult, unit: str) -> list[list[str]]:
    """A row for each way; empty where every sample takes the same."""
    found = part.compressed.paths
    if found is None:
        return []
    return [
        [
            shortened(path.name),
            f"{path.samples:,}",
            f"{path.share:.1%}",
            "unknown" if path.macs is None else f"{path.macs:,}",
            "" if path.before is None else score_text(path.before, unit),
            "" if path.after is None else score_text(path.after, unit),
        ]
        for path in found.paths
    ]


def sentences(part: BackendResult, unit: str) -> list[str]:
    """What the average, the worst case, classes and a shift of the data say."""
    found = part.compressed.paths
    if found is None:
        return []
    return [*_cost(found), *_groups(found), *_shift(found, unit)]


def _cost(found: Paths) -> list[str]:
    if found.average_macs is None or found.worst_macs is None or found.least_macs is None:
        return [
            f"What is computed depends on the input; multiply-accumulates of the ways are not known ({found.samples:,} samples)."
        ]
    saved = 1 - found.average_macs / found.worst_macs
    return [
        f"What is computed depends on the input: {found.average_macs:,.0f} multiply-accumulates in the mean over {found.samples:,} samples, {saved:.0%} less than on the dearest "
        f"way ({found.worst_macs:,}); {found.least_macs:,} on the cheapest that was taken."
    ]


def _groups(found: Paths) -> list[str]:
    lines = []
    for kind, plural in (("class", "classes"), ("group", "groups")):
        groups = [group for group in found.groups if group.kind == kind]
        if len(groups) < 2:
            continue
        first, last = groups[0], groups[-1]
        if first.early - last.early >= _GAP:
            lines.append(
                f"Of the {plural} {shortened(first.name)} leaves early most ({first.early:.0%} of its samples), {shortened(last.name)} least ({last.early:.0%})."
            )
        lost = sorted(
            (group for group in groups if group.before is not None and group.after is not None),
            key=lambda one: (one.after or 0) - (one.before or 0),
        )
        named = ", ".join(
            f"{shortened(group.name)} {(group.after or 0) - (group.before or 0):+.2f} ({group.early:.0%} early)"
            for group in lost[:_NAMED]
        )
        if named:
            lines.append(f"The {plural} that change most for the worse: {named}.")
    return lines


def _shift(found: Paths, unit: str) -> list[str]:
    if not found.shifts:
        return [f"Not tried on shifted data: {found.reason}."] if found.reason else []
    lines = []
    for shift in found.shifts:
        scores = (
            ""
            if shift.before is None or shift.after is None
            else f": float {score_text(shift.before, unit)}, this file {score_text(shift.after, unit)}"
        )
        cost = "" if shift.macs is None else f"; {shift.macs:,.0f} multiply-accumulates in the mean"
        ways = ", ".join(f"{shortened(name)} {share:.0%}" for name, share in list(shift.shares.items())[:_NAMED])
        lines.append(
            f"With {shift.name} on {shift.samples:,} samples{scores}{cost} ({ways}). Thresholds were not chosen on such data."
        )
    return lines
