"""The rows that every rendering shows: label, before, after, what it means. Plain text, not yet escaped for anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compressctl.core.backend import ExecutedNode
from compressctl.core.count import Count, nodes
from compressctl.core.legible import shortened
from compressctl.measure.budget import beside
from compressctl.measure.results import BackendResult, BudgetCheck, Latency, Measurement, Speedup
from compressctl.measure.speed_words import ENERGY, headline, interval, load_words, sentence, verdict
from compressctl.report.document import Report

_LONGEST_NAME = 24
_UNMEASURED = "not measured"
_SHOWN_TENSORS = 20


@dataclass(frozen=True)
class Row:
    label: str
    before: str
    after: str
    change: str


def compact(value: Any, longest: int) -> str:
    """A fact on one line; of one that is too long, where the whole stands."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= longest else f"{text[:longest]}… (whole in report.json)"


def comparison(part: BackendResult, report: Report) -> list[Row]:
    """Baseline against compressed, what was not measured left out."""
    before, after = part.baseline, part.compressed
    rows = [
        Row("file size", size(before.total_bytes), size(after.total_bytes), size_change(part.smaller)),
        Row(
            "compressed for transport",
            size(before.transport_bytes),
            size(after.transport_bytes),
            size_change(before.transport_bytes / max(after.transport_bytes, 1)),
        ),
    ]
    if after.packed is not None:
        packed = after.packed
        rows.append(Row("packed", size(before.total_bytes), size(packed.total_bytes), size_change(packed.smaller)))
    if before.score and after.score:
        drop = after.change.drop if after.change else 0.0
        is_percent = report.metric_unit == "%"
        change = "unchanged" if drop == 0 else f"{-drop:+.2f} points" if is_percent else f"{_difference(before, after)}"
        change += may_be_chance(after)
        against = ", against the original's own results" if after.score.reference == "original" else ""
        label = f"{after.score.metric} ({after.score.samples:,} test samples{against})"
        was, now = (score_text(found.value, report.metric_unit) for found in (before.score, after.score))
        rows.append(Row(label, was, now, change))
    rows += _head_rows(before, after)
    rows += _speed_rows(before, after)
    if before.load_ms and after.load_ms:
        rows.append(Row("time to load", milliseconds(before.load_ms), milliseconds(after.load_ms), ""))
    if before.memory and after.memory:
        old, new = before.memory, after.memory
        rows.append(Row("peak memory, loading", size(old.load_peak_bytes), size(new.load_peak_bytes), ""))
        rows.append(Row("peak memory, running", size(old.run_peak_bytes), size(new.run_peak_bytes), ""))
    if after.energy and before.energy and after.energy.joules is not None and before.energy.joules is not None:
        label = f"energy of one inference ({after.energy.provenance})"
        change = "" if after.energy.saving is None else sentence(after.energy.saving, ENERGY)
        rows.append(Row(label, joules(before.energy.joules), joules(after.energy.joules), change))
    return rows + _ledger_rows(before, after)


def _head_rows(before: Measurement, after: Measurement) -> list[Row]:
    """A row for each of several heads."""
    was = {head.name: head.score for head in before.heads}
    rows = []
    for head in after.heads:
        old, new = was.get(head.name), head.score
        if old is None or new is None:
            continue
        label = f"{shortened(head.name)}: {new.metric} ({new.samples:,} test samples)"
        drop = head.change.drop if head.change else 0.0
        change = (
            "unchanged"
            if drop == 0
            else f"{-drop:+.2f} points"
            if head.unit == "%"
            else f"{new.value - old.value:+.4f}"
        )
        rows.append(Row(label, score_text(old.value, head.unit), score_text(new.value, head.unit), change))
    return rows


def may_be_chance(after: Measurement) -> str:
    """What to add to a change of the score that so many samples cannot tell from none.

    McNemar's test counts what accuracy counts, and Wilcoxon's ranks the errors that r2 and rmse sum; neither judges another metric.
    """
    if after.change is None or after.score is None or after.change.drop == 0:
        return ""
    p_value = None
    if after.behaviour and after.score.metric == "accuracy":
        p_value = after.behaviour.p_value
    elif after.drift and after.score.metric in ("r2", "rmse"):
        p_value = after.drift.error_p_value
    return f" (may be chance, p = {p_value:.2g})" if p_value is not None and p_value > 0.05 else ""


def _difference(before: Measurement, after: Measurement) -> str:
    assert before.score is not None
    assert after.score is not None
    return f"{after.score.value - before.score.value:+.4f}"


def _speed_rows(before: Measurement, after: Measurement) -> list[Row]:
    if before.latency is None or after.latency is None:
        return []
    change = "" if after.speed is None else sentence(after.speed)
    kind = "p50" if after.latency.inputs == 1 else f"in the mean over {after.latency.inputs} inputs"
    label = f"latency {kind} ({load_words(after.latency.batch, after.latency.threads)}; {shape_words(after.latency)})"
    rows = [
        Row(label, milliseconds(before.latency.typical_ms), milliseconds(after.latency.typical_ms), change),
        Row("latency p90", milliseconds(before.latency.p90_ms), milliseconds(after.latency.p90_ms), ""),
    ]
    if before.latency.slowest_ms and after.latency.slowest_ms:
        old, new = before.latency, after.latency
        one = "input" if new.batch == 1 else "call"
        fastest, slowest = (f"latency of the {which} {one}" for which in ("fastest", "slowest"))
        rows.append(Row(fastest, milliseconds(old.fastest_ms or 0), milliseconds(new.fastest_ms or 0), ""))
        rows.append(Row(slowest, milliseconds(old.slowest_ms or 0), milliseconds(new.slowest_ms or 0), ""))
    if after.latency.worst_ms:
        rows.append(Row("latency when everything is computed", "", milliseconds(after.latency.worst_ms), ""))
    if before.latency.p99_ms and after.latency.p99_ms:
        rows.append(Row("latency p99", milliseconds(before.latency.p99_ms), milliseconds(after.latency.p99_ms), ""))
    return rows


def _ledger_rows(before: Measurement, after: Measurement) -> list[Row]:
    rows = [
        Row(
            "parameters", f"{before.parameters:,}", f"{after.parameters:,}", _times(before.parameters, after.parameters)
        ),
        Row("MACs of one sample", macs(before), macs(after), _times(before.macs, after.macs)),
    ]
    if _bit_operations(before) or _bit_operations(after):
        times = _times(before.bit_operations, after.bit_operations)
        rows.append(Row("bit operations", _bit_operations(before), _bit_operations(after), times))
    if before.weights and after.weights:
        rows.append(Row("weights stored as", weight_types(before), weight_types(after), ""))
        rows.append(Row("weights that are zero", _zeros(before), _zeros(after), ""))
    if integer_share(before) or integer_share(after):
        rows.append(Row("MACs in integers", integer_share(before), integer_share(after), ""))
    return rows


def macs(file: Measurement) -> str:
    """Of one sample, as far as they are known: "unknown" or "at least ..." where they are not."""
    if file.macs is not None:
        return f"{file.macs:,}"
    return str(Count(file.macs_at_least or 0, file.macs_unknown or {"node": 1}))


def node_macs(node: ExecutedNode) -> str:
    return "unknown" if node.macs is None else f"{node.macs:,}"


def integer_share(file: Measurement) -> str:
    """Of the MACs that are known, with how many nodes that leaves out. Empty where no runtime told, or nothing multiplies."""
    left_out = sum(file.integer_share_leaves_out.values())
    if file.integer_mac_share is None:
        return "unknown" if left_out else ""
    return f"{file.integer_mac_share:.0%}" + (f" of what is known ({nodes(left_out)} unknown)" if left_out else "")


def _bit_operations(file: Measurement) -> str:
    """Empty where no runtime told how it executes the file."""
    if file.bit_operations is not None:
        return f"{file.bit_operations:.3g}"
    if file.bit_operations_at_least is not None:
        return f"at least {file.bit_operations_at_least:.3g}"
    return "unknown" if file.nodes else ""


def points(part: BackendResult) -> list[list[str]]:
    """Speed at every batch and number of threads: where, float, compressed, samples per second of both, change."""
    before, after = part.baseline, part.compressed
    if before.latency is None or after.latency is None or not after.points:
        return []
    pairs = [(before.latency, after.latency, after.speed)]
    pairs += [(old.latency, new.latency, new.speed) for old, new in zip(before.points, after.points, strict=True)]
    pairs.sort(key=lambda pair: (pair[0].batch, pair[0].threads or 1 << 30))
    return [
        [
            f"{load_words(old.batch, old.threads)}{_size_words(old)}",
            milliseconds(old.typical_ms),
            milliseconds(new.typical_ms),
            f"{old.samples_per_second:,.0f}",
            f"{new.samples_per_second:,.0f}",
            "" if speed is None else sentence(speed),
        ]
        for old, new, speed in pairs
    ]


POINTS_HEAD = ("batch, threads", "float p50", "compressed p50", "float per second", "compressed per second", "change")


def waterfall(part: BackendResult, report: Report) -> list[list[str]]:
    """After each stage: name, size, score, latency, speed against float, against the stage before. Empty for one stage."""
    if len(part.waterfall) < 3:
        return []
    return [
        [
            point.id,
            size(point.total_bytes),
            "" if point.score is None else score_text(point.score.value, report.metric_unit),
            "" if point.latency is None else milliseconds(point.latency.typical_ms),
            "" if point.speed is None else sentence(point.speed),
            "" if point.step is None else sentence(point.step),
        ]
        for point in part.waterfall
    ]


WATERFALL_HEAD = ("after", "file size", "score", "latency p50", "against float", "against the stage before")


def packed(part: BackendResult) -> list[list[str]]:
    """What each tensor of the packed file takes: name, numbers, float bytes, packed bytes, ratio, share, coding."""
    found = part.compressed.packed
    if found is None:
        return []
    tensors = sorted(found.tensors, key=lambda tensor: -tensor.packed_bytes)
    shown, others = tensors[:_SHOWN_TENSORS], tensors[_SHOWN_TENSORS:]
    rows = [
        _packed_row(shortened(tensor.name), tensor.values, tensor.packed_bytes, found.total_bytes, tensor.coding)
        for tensor in shown
    ]
    if others:
        values, taken = sum(tensor.values for tensor in others), sum(tensor.packed_bytes for tensor in others)
        rows.append(_packed_row(f"{len(others)} others", values, taken, found.total_bytes, ""))
    graph = found.total_bytes - sum(tensor.packed_bytes for tensor in tensors)
    return [*rows, _packed_row("graph, ledger and checksums", 0, graph, found.total_bytes, "")]


def _packed_row(name: str, values: int, taken: int, total: int, coding: str) -> list[str]:
    as_float = [f"{values:,}", f"{4 * values:,}"] if values else ["", ""]
    ratio = f"{4 * values / taken:.1f}x" if values and taken else ""
    return [name, *as_float, f"{taken:,}", ratio, f"{taken / total:.1%}", coding]


PACKED_HEAD = ("tensor", "values", "bytes in float32", "packed bytes", "smaller", "share", "coding")


def islands(part: BackendResult) -> list[ExecutedNode]:
    """Nodes that run in float although the model is quantized, the most expensive first, those of unknown cost behind."""
    return sorted((node for node in part.compressed.nodes if node.rule), key=lambda node: -(node.macs or 0))


def first_island(part: BackendResult) -> ExecutedNode | None:
    """The first of them in the order of execution: where integers stop first."""
    return next((node for node in part.compressed.nodes if node.rule), None)


def budget_words(check: BudgetCheck) -> str:
    if check.name.startswith("strict"):
        return f"{check.name}: {check.explanation}"
    actual, limit = (_size_figures if check.name.split(".")[-1] in ("size", "packed_size", "memory") else _figures)(
        check.actual, check.limit
    )
    least = check.name.split(" ")[0].removeprefix("bundle.") in (
        "speedup", "agreement", "cosine", "sqnr_db", "kept", "tokens_per_second",
    )  # fmt: skip
    if check.actual is None and check.holds:
        return f"{check.name} (at least {limit}): {check.explanation}"
    return f"{check.name} {actual} ({'at least' if least else 'at most'} {limit}): {check.explanation}"


def budget_title(report: Report) -> str:
    """With the file that is held against it, where there are several."""
    return "Budget" if len(report.backends) < 2 else f"Budget, held against {report.backends[0].backend}'s file"


def _figures(actual: float | None, limit: float) -> tuple[str, str]:
    """The limit as it was written, and the actual value with as many decimals or more."""
    written = _plain(limit, limit, 2)
    return _UNMEASURED if actual is None else _plain(actual, limit, len(written.partition(".")[2])), written


def _plain(value: float, limit: float, decimals: int) -> str:
    """More decimals for what would otherwise read as zero or as the limit."""
    if abs(value) < 1e-9:
        return "0.00"
    return beside(limit, value, decimals) if abs(value) >= 0.005 else beside(limit, value, 2, "g")


def _size_figures(actual: float | None, limit: float) -> tuple[str, str]:
    """To the byte where the two would otherwise read the same."""
    if actual is None:
        return _UNMEASURED, size(limit)
    if actual != limit and size(actual) == size(limit):
        return f"{actual:,.0f} B", f"{limit:,.0f} B"
    return size(actual), size(limit)


def size_change(smaller: float) -> str:
    """smaller: bytes before over bytes after."""
    if 0.995 < smaller < 1.005:
        return "as large as before"
    return f"{smaller:.2f}x smaller" if smaller >= 1 else f"{1 / smaller:.2f}x larger"


def size(count: float) -> str:
    """Bytes in decimal units, as disks and downloads count."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def score_text(value: float, unit: str) -> str:
    """Four decimals without a unit, fewer where they would say nothing: a perplexity may be in the thousands."""
    if unit == "%":
        return f"{value:.2f} %"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}" if abs(value) < 1e7 else f"{value:.4g}"


def milliseconds(value: float) -> str:
    return f"{value:.3f} ms" if value < 100 else f"{value:.0f} ms"


def joules(value: float) -> str:
    return f"{value:.2f} J" if value >= 1 else f"{value * 1e3:.2f} mJ" if value >= 1e-3 else f"{value * 1e6:.1f} µJ"


_NO_SAMPLE = {"random": " (random)", "stretched": " (the size asked for)"}


def shape_words(latency: Latency) -> str:
    """What one call was given, as in "x 1x3x224x224"; "(random)" where that was no data."""
    shapes = ", ".join(f"{shortened(name)} {_shape(shape)}" for name, shape in latency.shapes.items())
    return f"{shapes or 'shapes unknown'}{_NO_SAMPLE.get(latency.values, '')}"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _size_words(latency: Latency) -> str:
    """Of a sample that is not the median one."""
    return (
        "" if latency.sample == "median" else f", the data's sample at {latency.sample} of size: {shape_words(latency)}"
    )


def speed_headline(speed: Speedup) -> str:
    """For a summary: without the interval where a value or a bound can be told, with it where not."""
    said = headline(speed)
    if verdict(speed.low, speed.high) in ("faster", "slower"):
        return said
    within = interval(speed)
    return f"{said} of speed ({within})" if said == "no measurable change" else f"speed {said} ({within})"


def short(name: str) -> str:
    """For pictures and small cells."""
    return shortened(name, _LONGEST_NAME)


def weight_types(file: Measurement) -> str:
    return ", ".join(f"{entry.dtype} {size(entry.stored_bytes)}" for entry in file.weights)


def zero_share(file: Measurement) -> float | None:
    """The share of stored weights that stand for zero, None where they were not counted."""
    whole = sum(entry.elements for entry in file.weights)
    return sum(entry.zeros for entry in file.weights) / whole if whole else None


def _zeros(file: Measurement) -> str:
    share = zero_share(file)
    return "" if share is None else f"{share:.1%}"


def _times(before: float | None, after: float | None) -> str:
    """Nothing where either is unknown: two lower bounds have no ratio."""
    return f"{before / after:.2f}x fewer" if before and after and before / after >= 1.005 else ""
