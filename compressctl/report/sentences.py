"""What the measurements mean, in sentences that every rendering shows. Plain text, not yet escaped for anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from compressctl.core import untouched
from compressctl.core.backend import ExecutedNode, backends
from compressctl.core.count import by_operator
from compressctl.core.legible import shortened
from compressctl.measure.results import (
    SMALLEST_GROUP,
    BackendResult,
    Behaviour,
    Change,
    ClassChange,
    Drift,
    ErrorGroups,
    GroupChange,
    GroupError,
    Groups,
    HeadResult,
    Measurement,
    TokenDrift,
    WaterfallStep,
)
from compressctl.measure.speed_words import sentence, times, verdict
from compressctl.report import decoded, fidelity
from compressctl.report.document import Report
from compressctl.report.placement import placement_words
from compressctl.report.tables import first_island, islands, size_change, zero_share

_NAMED = 10
_IN_SUMMARY = 3
_SIGNIFICANT = 0.05


def behaviour(part: BackendResult) -> list[str]:
    """What changed for single samples, classes and groups; of several heads, of each."""
    return [
        *_behaviour(part.compressed),
        *(f"{shortened(head.name)}: {line}" for head in part.compressed.heads for line in _behaviour(head)),
    ]


def _behaviour(after: Measurement | HeadResult) -> list[str]:
    lines = []
    if after.change is not None and after.change.disagreements is not None:
        lines += _flips(after.change)
        lines += _worst_class(after.change, after.behaviour)
    elif after.change is not None and after.change.worst_class is not None and after.score is not None:
        name, drop = after.change.worst_class
        lost = f"Worst class: {shortened(name)} loses {drop:.2f} points of {after.score.metric}."
        lines.append(lost if drop > 0 else f"No class loses {after.score.metric}.")
    if after.behaviour is not None:
        lines += _classification(after.behaviour)
    if after.decoded is not None:
        lines += decoded.sentences(after.decoded, after.score)
    if after.drift is not None:
        lines += _drift(after.drift)
    if isinstance(after, Measurement) and after.tokens is not None:
        lines += _tokens(after.tokens, is_scored=after.score is not None and after.score.metric == "perplexity")
    return lines


def lost_classes(part: BackendResult) -> list[str]:
    """A warning that a score over all classes may hide: those that lost more than chance, the worst first."""
    found = part.compressed.behaviour
    lost = [entry for entry in found.classes if is_beyond_chance(entry) and entry.after < entry.before] if found else []
    if not lost:
        return []
    named = ", ".join(
        f"{shortened(entry.name)} ({entry.before - entry.after:.2f} points)" for entry in lost[:_IN_SUMMARY]
    )
    more = f" and {len(lost) - _IN_SUMMARY} more" if len(lost) > _IN_SUMMARY else ""
    return [f"{part.backend}: classes that lose accuracy beyond chance: {named}{more}."]


def is_beyond_chance(entry: ClassChange) -> bool:
    return entry.p_value <= _SIGNIFICANT


def _flips(change: Change) -> list[str]:
    if not change.disagreements:
        return ["No prediction differs."]
    one = change.disagreements == 1
    return [
        f"{change.disagreements:,} prediction{'' if one else 's'} differ{'s' if one else ''}: {change.right_to_wrong:,} right "
        f"to wrong, {change.wrong_to_right:,} wrong to right."
    ]


def _worst_class(change: Change, found: Behaviour | None) -> list[str]:
    """Classes of few samples do not count as the worst, but are not said to lose nothing either."""
    if change.worst_class is None:
        return []
    name, drop = change.worst_class
    entry = next((entry for entry in found.classes if entry.name == name), None) if found else None
    if drop > 0:
        how = "" if entry is None else f" over {entry.samples:,} samples (corrected p = {entry.p_value:.2g})"
        return [f"Worst class: {shortened(name)} loses {drop:.2f} points of accuracy{how}."]
    if found is not None and any(entry.after < entry.before for entry in found.classes):
        return [f"No class of {SMALLEST_GROUP} samples or more loses accuracy; a smaller one does."]
    return ["No class loses accuracy."]


def _classification(found: Behaviour) -> list[str]:
    lines = []
    if any(entry.right_to_wrong or entry.wrong_to_right for entry in found.classes):
        chance = "may be chance" if found.p_value > _SIGNIFICANT else "is more than chance"
        lines.append(f"The balance of right and wrong flips {chance} (exact McNemar p = {found.p_value:.3g}).")
    significant = [
        f"{shortened(entry.name)} ({entry.after - entry.before:+.2f} points)"
        for entry in found.classes
        if is_beyond_chance(entry)
    ]
    if significant:
        more = f" and {len(significant) - _NAMED} more" if len(significant) > _NAMED else ""
        lines.append(f"Classes that changed beyond chance: {', '.join(significant[:_NAMED])}{more}.")
    lines.append(
        f"Calibration error {found.calibration_error_before:.2%} before, {found.calibration_error_after:.2%} after."
    )
    return lines + (_groups(found.groups) if found.groups else [])


def _groups(found: Groups) -> list[str]:
    return [
        f"Between groups, accuracy differs by up to {found.gap_before:.2f} points before and {found.gap_after:.2f} after: "
        f"{_widening(found, '+.2f', ' points')}.{_left_out(found.groups)}"
    ]


def _error_groups(found: ErrorGroups) -> list[str]:
    return [
        f"Between groups, the mean absolute error differs by up to {found.gap_before:.3g} before and {found.gap_after:.3g} "
        f"after: {_widening(found, '+.3g', '')}.{_left_out(found.groups)}"
    ]


def _widening(found: Groups | ErrorGroups, digits: str, unit: str) -> str:
    interval = f"(95 %: {found.low:{digits}} to {found.high:{digits}})"
    by = f"by {abs(found.amplification):{digits[1:]}}{unit} {interval}"
    if found.low > 0:
        return f"compressing widened it {by}"
    return f"compressing narrowed it {by}" if found.high < 0 else f"no measurable change {interval}"


def _left_out(groups: Sequence[GroupChange] | Sequence[GroupError]) -> str:
    few = [shortened(entry.name) for entry in groups if entry.samples < SMALLEST_GROUP]
    return f" Left out for having under {SMALLEST_GROUP} samples: {', '.join(few[:_NAMED])}." if few else ""


def _drift(found: Drift) -> list[str]:
    lines = [f"Outputs moved by {found.mean_change:.3g} on average, {found.largest_change:.3g} at most."]
    if found.cosine_mean is not None:
        lines.append(
            f"Cosine of outputs before and after: {found.cosine_mean:.4f} mean, {found.cosine_least:.4f} least."
        )
    if found.neighbours is not None:
        lines.append(f"{found.neighbours:.1%} of each sample's 10 nearest stay its nearest.")
    if found.error_p_value is not None and found.largest_change > 0:
        chance = "may be chance" if found.error_p_value > _SIGNIFICANT else "is more than chance"
        lines.append(f"The change of absolute errors {chance} (Wilcoxon signed-rank p = {found.error_p_value:.3g}).")
    return lines + (_error_groups(found.groups) if found.groups else [])


def _tokens(found: TokenDrift, *, is_scored: bool) -> list[str]:
    """is_scored: whether perplexity stands in the table already."""
    lines = [
        f"Over {found.tokens:,} tokens: the most likely one is the same for {found.agreement:.2%}, KL divergence "
        f"{found.divergence:.3g} nats per token."
    ]
    if found.perplexity_before is not None and not is_scored:
        lines.append(f"Perplexity {found.perplexity_before:.3f} before, {found.perplexity_after:.3f} after.")
    return lines


def fusion(part: BackendResult) -> list[str]:
    """In which precision it runs, and where integers stop."""
    found, first = islands(part), first_island(part)
    if first is not None:
        return [
            f"{len(found)} node{'s' if len(found) > 1 else ''} run in float in a quantized model; the first is {shortened(first.name)} "
            f"({first.op}): {first.rule}."
        ]
    if not part.compressed.integer_mac_share:
        return []
    floats = Counter(node.op for node in part.compressed.nodes if node.macs != 0 and not _is_integer(node))
    if floats:
        return [f"Nodes that multiply and do not run on integers: {by_operator(dict(floats.most_common(_NAMED)))}."]
    return ["No float islands: every node that could run on integers does."]


def _is_integer(node: ExecutedNode) -> bool:
    return node.precision.startswith(("int", "uint")) and not node.precision.endswith("weights")


def trust(part: BackendResult) -> list[str]:
    """Whether the figures can be believed: what intervals cover, noise while timing, and energy where it is not known."""
    lines = [f"{note[:1].upper()}{note[1:]}." for note in part.notes]
    speed = part.compressed.speed
    if speed is not None and speed.alternating is not None:
        lines.append(
            f"The interval of the speed is for another measurement on this machine, up to calls that alternate with float's in "
            f"one process, where each finds the caches as the other left them: {times(speed.alternating)}x, against "
            f"{times(speed.ratio)}x for calls back to back."
        )
    if part.noise is not None:
        lines.append(
            f"While timing, one file's median varied by {part.noise.spread:.1%} between rounds and other programs took "
            f"{part.noise.other_load:.0%} of the processors{': a noisy machine' if part.noise.noisy else ''}."
        )
    energy = part.compressed.energy
    if energy is not None:
        lines.append(
            f"Energy: {energy.provenance} ({energy.source})."
            if energy.joules is None
            else f"Energy is {energy.provenance}: {energy.source}."
        )
    return lines


def packed_words(part: BackendResult) -> list[str]:
    """How small the file gets for transport, and against what."""
    found = part.compressed.packed
    if found is None:
        return []
    return [
        f"Packed for transport {part.backend}'s file takes {found.total_bytes:,} bytes: {found.smaller:.1f}x smaller than the float "
        f"file, {found.smaller_than_parameters:.1f}x smaller than its parameters in float32. Unpacked again it was the same file, "
        f"so that every figure here holds for it; unpacking took {found.decode_seconds:.2f} s."
    ]


def zeros(part: BackendResult, report: Report) -> list[str]:
    """What weights that a stage made zero bring here: what the runtime makes of them, what was measured, transport."""
    made = (stage for stage in report.stages if "zeros" in stage.facts and "skipped" not in stage.facts)
    stage = next(made, None)
    share = zero_share(part.compressed)
    if stage is None or share is None:
        return []
    spec = backends.get(part.backend) if part.backend in backends else None
    words = [f"{share:.1%} of the weights in the file are zero"]
    if spec is not None and spec.zeros is not None:
        words.append(spec.zeros)
    return [". ".join([*words, _measured_zeros(part, report, stage.id)]) + "."]


def _measured_zeros(part: BackendResult, report: Report, stage: str) -> str:
    """The stage's own part where it was measured, else that of all stages together."""
    before: WaterfallStep | Measurement = part.baseline
    after: WaterfallStep | Measurement = part.compressed
    speed, who = part.compressed.speed, "The whole file"
    stages = [found.id for found in report.stages if found.use != "lower"]
    measured = [point.id for point in part.waterfall[1:]]
    if len(stages) > 1 and measured == stages:
        place = measured.index(stage) + 1
        before, after = part.waterfall[place - 1], part.waterfall[place]
        speed, who = part.waterfall[place].step, "Measured for this stage"
    elif len(stages) == 1 and _dtypes(part.baseline) == _dtypes(part.compressed):
        who = "Measured"
    times = size_change(before.transport_bytes / max(after.transport_bytes, 1))
    told = "speed not measured here" if speed is None else sentence(speed)
    file = "the file itself as large as before" if before.total_bytes <= after.total_bytes * 1.005 else ""
    return f"{who}: {told}; {times} when compressed for transport{', ' + file if file else ''}"


def _dtypes(file: Measurement) -> set[str]:
    return {entry.dtype for entry in file.weights}


def stages(part: BackendResult, report: Report) -> list[str]:
    """Stages that were undone, with the reason, what others left as it was, and those that brought nothing that could be measured."""
    lines = [
        f"Stage {stage.id} was undone: {stage.facts['skipped']}." for stage in report.stages if "skipped" in stage.facts
    ]
    for stage in report.stages:
        left = untouched.words(stage.facts)
        if left is not None and "skipped" not in stage.facts:
            lines.append(f"Stage {stage.id} left {left}.")
        placed = placement_words(stage.facts)
        if placed is not None and "skipped" not in stage.facts:
            lines.append(f"Stage {stage.id} {placed}.")
        near = fidelity.stage_words(stage.facts)
        if near is not None and "skipped" not in stage.facts:
            lines.append(f"After stage {stage.id}: {near}.")
    for before, after in zip(part.waterfall, part.waterfall[1:], strict=False):
        same_speed = after.step is None or verdict(after.step.low, after.step.high) == "no measurable change"
        same_size = abs(after.total_bytes - before.total_bytes) <= before.total_bytes * 0.005
        same_score = before.score is None or after.score is None or before.score.value == after.score.value
        if same_speed and same_size and same_score and len(part.waterfall) > 2:
            lines.append(f"Stage {after.id} brought no measurable change.")
    return lines
