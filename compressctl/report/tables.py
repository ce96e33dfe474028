"""The rows that every rendering shows: label, before, after, what it means. Plain text, not yet escaped for anything."""

from __future__ import annotations

from dataclasses import dataclass

from compressctl.report.document import BackendPart, BehaviourPart, BudgetPart, NodePart, Report


@dataclass(frozen=True)
class Row:
    label: str
    before: str
    after: str
    change: str


def comparison(part: BackendPart, report: Report) -> list[Row]:
    """Baseline against compressed, what was not measured left out."""
    before, after = part.baseline, part.compressed
    rows = [Row("file size", size(before.total_bytes), size(after.total_bytes), size_change(part.smaller))]
    if before.score and after.score:
        drop = after.change.drop if after.change else 0.0
        unit, digits = (" %", ".2f") if report.metric_unit == "%" else ("", ".4f")
        change = "unchanged" if drop == 0 else f"{-drop:+.2f} points" if unit else f"{-drop:+.4f}"
        label = f"{after.score.metric} ({after.score.samples:,} test samples)"
        rows.append(Row(label, f"{before.score.value:{digits}}{unit}", f"{after.score.value:{digits}}{unit}", change))
    if before.latency and after.latency:
        speed = after.speed
        interval = f" (95 %: {speed.low:.2f} to {speed.high:.2f})" if speed else ""
        words = "no measurable change" if speed and speed.verdict == "no measurable change" else ""
        change = words or (
            f"{speed.ratio:.2f}x {speed.verdict}"
            if speed and speed.ratio >= 1
            else f"{1 / speed.ratio:.2f}x slower"
            if speed
            else ""
        )
        threads = f"{after.latency.threads or 'all'} thread{'s' if after.latency.threads != 1 else ''}"
        label = f"latency p50 (batch {after.latency.batch}, {threads})"
        rows.append(Row(label, f"{before.latency.p50_ms:.3f} ms", f"{after.latency.p50_ms:.3f} ms", change + interval))
        rows.append(Row("latency p90", f"{before.latency.p90_ms:.3f} ms", f"{after.latency.p90_ms:.3f} ms", ""))
        if before.latency.p99_ms and after.latency.p99_ms:
            rows.append(Row("latency p99", f"{before.latency.p99_ms:.3f} ms", f"{after.latency.p99_ms:.3f} ms", ""))
    if before.memory and after.memory:
        rows.append(
            Row("peak memory, loading", size(before.memory.load_peak_bytes), size(after.memory.load_peak_bytes), "")
        )
        rows.append(
            Row("peak memory, running", size(before.memory.run_peak_bytes), size(after.memory.run_peak_bytes), "")
        )
    rows.append(Row("compressed for transport", size(before.transport_bytes), size(after.transport_bytes), ""))
    if after.integer_mac_share is not None and before.integer_mac_share is not None:
        rows.append(
            Row(
                "multiply-accumulates in integers",
                f"{before.integer_mac_share:.0%}",
                f"{after.integer_mac_share:.0%}",
                "",
            )
        )
    return rows


def behaviour(part: BackendPart) -> list[str]:
    """What changed for single samples and classes, in sentences."""
    change = part.compressed.change
    if change is None or change.disagreements is None:
        return []
    lines = [
        f"{change.disagreements:,} predictions differ: {change.right_to_wrong:,} right to wrong, {change.wrong_to_right:,} "
        "wrong to right."
    ]
    if change.worst_class is not None:
        name, drop = change.worst_class
        lines.append(f"Worst class: {name} loses {drop:.2f} points." if drop > 0 else "No class loses accuracy.")
    found = part.compressed.behaviour
    if found is not None:
        lines += _behaviour_words(found)
    return lines


def _behaviour_words(found: BehaviourPart) -> list[str]:
    chance = "may be chance" if found.p_value > 0.05 else "is more than chance"
    significant = [entry.name for entry in found.classes if entry.p_value <= 0.05]
    classes = f"Classes that changed beyond chance: {', '.join(significant[:10])}." if significant else ""
    lines = [
        f"The balance of right and wrong flips {chance} (exact McNemar p = {found.p_value:.3g}).",
        f"Calibration error {found.calibration_error_before:.2%} before, {found.calibration_error_after:.2%} after.",
    ]
    return [*lines, classes] if classes else lines


def islands(part: BackendPart) -> list[NodePart]:
    """Nodes that run in float although the model is quantized, the most expensive first."""
    return sorted((node for node in part.compressed.nodes if node.rule), key=lambda node: -node.macs)


def budget_words(check: BudgetPart) -> str:
    show = size if check.name == "size" else lambda value: f"{value:.2f}".replace("-0.00", "0.00")
    actual = "not measured" if check.actual is None else show(check.actual)
    least = check.name == "speedup"
    return f"{check.name} {actual} ({'at least' if least else 'at most'} {show(check.limit)}): {check.explanation}"


def size_change(smaller: float) -> str:
    """smaller: bytes before over bytes after."""
    return f"{smaller:.2f}x smaller" if smaller >= 1 else f"{1 / smaller:.2f}x larger"


def size(count: float) -> str:
    """Bytes in decimal units, as disks and downloads count."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
