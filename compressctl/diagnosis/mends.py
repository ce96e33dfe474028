"""Which edits of a recipe may mend a cause, and what to say where none does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compressctl.diagnosis.document import Edit, Trial
from compressctl.diagnosis.edits import change, in_place_of, left_alone
from compressctl.diagnosis.look import Why
from compressctl.techniques.quantize.params import StaticParams

_MORE = 8
"""Times as many calibration samples, where there are so many."""

_MORE_FLOAT = 0.2
"""Of the arithmetic, twice what stays float by itself."""


def candidates(why: Why) -> Iterator[list[Edit]]:
    """What is tried, in this order, until something mends."""
    if isinstance(why.stage.params, StaticParams):
        yield from _static(why, why.stage.params)
    else:
        yield from _by_params(why)
    if why.found.name == "calibration unlike the test":
        if why.stage.use == "quantize.static":
            yield [in_place_of(why.stage, "quantize.dynamic")]
            yield [in_place_of(why.stage, "quantize.weights", bits=8)]
        return
    alone = left_alone(why.stage, why.found.layers)
    if alone:
        yield alone
    yield from _less(why)


def _static(why: Why, params: StaticParams) -> Iterator[list[Edit]]:
    stage, name = why.stage, why.found.name
    if name == "saturating range":
        if why.found.in_calibration and params.ranges != "minmax":
            yield [change(stage, "ranges", "minmax")]
        if why.spare:
            asked = why.calibration + min(why.spare, (_MORE - 1) * why.calibration)
            yield [Edit(path="data.calibration", before=why.calibration, after=asked)]
    if name in ("outliers", "dead channels", "rounding noise") and not params.per_channel:
        yield [change(stage, "per_channel", True)]
    if name == "few codes":
        if params.rounding == "nearest":
            yield [change(stage, "rounding", "adaround")]
        yield [change(stage, "weights", "int8")]
    if name in ("shared scale", "outliers", "dead channels", "rounding noise") and params.keep_float != "auto":
        yield [change(stage, "keep_float", "auto")]
    if name in ("outliers", "rounding noise") and params.keep_float == "auto" and params.float_macs is None:
        yield [change(stage, "float_macs", _MORE_FLOAT)]
    if name == "outliers" and not params.equalize:
        yield [change(stage, "equalize", True)]


def _by_params(why: Why) -> Iterator[list[Edit]]:
    """What a technique of any kind may have a word for."""
    said = why.stage.params.model_dump(mode="json")
    if said.get("per_channel") is False:
        yield [change(why.stage, "per_channel", True)]
    if why.stage.use == "quantize.weights":
        if said["granularity"] == "tensor":
            yield [change(why.stage, "granularity", "channel")]
        if said["bits"] < 8:
            yield [change(why.stage, "bits", 8 if said["bits"] == 4 else 4)]


def _less(why: Why) -> Iterator[list[Edit]]:
    """Less compression of all layers."""
    said, stage = why.stage.params.model_dump(mode="json"), why.stage
    if stage.use == "prune.unstructured" and said["sparsity"]:
        yield [change(stage, "sparsity", round(said["sparsity"] * 2 / 3, 3))]
    elif stage.use == "prune.channels":
        yield [change(stage, "keep", round((1 + said["keep"]) / 2, 3))]


def advice(causes: Sequence[Why], trials: Sequence[Trial]) -> tuple[str, ...]:
    """What no edit does."""
    mended = {trial.cause for trial in trials if trial.mends}
    said = [] if mended or not trials else ["no edit that was tried mends it"]
    for why in causes:
        name = why.found.name
        if name == "calibration unlike the test":
            said.append(
                "calibrate on samples like those that the model will be given: no setting of a recipe stands for them"
            )
        if name == "saturating range" and not (why.spare or why.found.in_calibration or mended):
            said.append("all samples calibrate already: add some that show what the model will be given")
    return tuple(dict.fromkeys(said))
