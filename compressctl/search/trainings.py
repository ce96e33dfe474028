"""What is trained: networks that are cut to the limits, the best of them by what training brings, and how and how long the best is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from compressctl.core.errors import MissingDependencyError, UsageError
from compressctl.core.events import Listener
from compressctl.search import by_input, fit, narrow
from compressctl.search.choose import is_sure
from compressctl.search.clock import Clock
from compressctl.search.document import Point
from compressctl.search.evaluate import Bench
from compressctl.search.front import shortfalls, speed_of
from compressctl.search.in_time import in_time
from compressctl.search.kept_tables import widths_of
from compressctl.search.longer import longer
from compressctl.search.request import Request
from compressctl.search.space import NEAR, Candidate
from compressctl.search.tables import Tables
from compressctl.search.trim import trims
from compressctl.search.tune import Tuner
from compressctl.search.width_tables import WidthTables

_FOR_WIDTHS = 0.15
"""Share of the time left that looking at channels and blocks may take: what it is for are trainings, which take most of it."""

_Build = Callable[[Candidate], Point | None]


@dataclass
class Trainings:
    """refused: kinds of networks of which none is small and fast enough, and why. notes: what was not done, and why.
    networks: those that are trained, while how they are trained may still be tuned. seconds: that looking at channels took.
    has_tables: whether they were looked at."""

    request: Request
    bench: Bench
    limit_bytes: int | None
    clock: Clock
    listeners: Sequence[Listener]
    tell: Callable[[str], None]
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    networks: Sequence[narrow.AnyShape] = ()
    seconds: float = 0.0
    has_tables: bool = False
    _tuner: Tuner | None = None

    def offered(self, points: Mapping[str, Point], tables: Tables | None, build: _Build) -> Iterator[Candidate]:
        """Networks as wide as the limits on size and speed allow, where nothing keeps them yet; else of a fixed scale of widths; and the whole one with exits. points: by candidate.
        tables: of the graph's layers, where they were measured. build: one that is cut and not trained, as in `fit.fit`."""
        goal, facts, training = self.request.goal, self.bench.facts, self.request.training
        in_floats = self._gains_in_floats(points)
        if any(name.startswith("tokens") for name in points):
            yield from by_input.taught_tokens(facts, training, in_floats=in_floats)
        yield from by_input.early_exits(facts, goal, training, points)
        if (why := by_input.no_exits(facts, goal, points)) is not None:
            self.refused[by_input.EARLY_EXITS] = why
        if not goal.asks_for_gain or any(self._holds(point) for point in points.values()):
            four_keep = (found := points.get("w4a8")) is not None and self._keeps_loss(found)
            yield from narrow.on_a_scale(facts, goal, training, in_floats=in_floats, four_keep=four_keep)
            return
        self.networks = self._trims(points, tables, build) or self._even_widths(points, build)
        yield from narrow.of_shapes(self.networks, facts, training)

    def _holds(self, point: Point) -> bool:
        return point.figures is not None and not self._missed(point)

    def _gains_in_floats(self, points: Mapping[str, Point]) -> bool:
        """Whether weights alone in 4 bits gain more than any integers, times smaller by times faster: those of depthwise convolutions may be slower
        than floats."""
        gains = {}
        for name in ("weights4", "int8", "w4a8", "dynamic"):
            point = points.get(name)
            figures = None if point is None or not self._keeps_loss(point) else point.figures
            gains[name] = 0.0 if figures is None else figures.smaller * (speed_of(figures) or 1.0)
        alone = gains.pop("weights4")
        return alone > max(gains.values())

    def _keeps_loss(self, point: Point) -> bool:
        return point.figures is not None and "drop" not in self._missed(point)

    def _missed(self, point: Point) -> Mapping[str, float]:
        assert point.figures is not None
        return shortfalls(point.figures, self.request.goal, self.limit_bytes, is_judged=self.bench.facts.is_judged)

    def _trims(self, points: Mapping[str, Point], tables: Tables | None, build: _Build) -> Sequence[narrow.AnyShape]:
        """Those that the program over channels, blocks and bits chooses; none where it has no tables, or nothing of it keeps the limits."""
        if tables is None:
            return ()
        began = self.clock.elapsed

        def measured(seconds: float | None, listeners: Sequence[Listener]) -> WidthTables:
            return widths_of(self.bench.of_networks(), tables, seconds, listeners, self.tell)

        looked = in_time(self.clock.left, lambda left: _FOR_WIDTHS * left, self.listeners, measured)
        self.seconds += self.clock.elapsed - began
        if isinstance(looked, str):
            self.notes.append(f"Channels were not chosen by tables: {looked}")
            return ()
        self.has_tables = True
        found = trims(looked, self.request.goal, self.limit_bytes, points.get("int8"), build)
        self.refused.update(found.refused)
        return found.shapes

    def _even_widths(self, points: Mapping[str, Point], build: _Build) -> Sequence[narrow.AnyShape]:
        fitted = fit.fit(self.request.goal, self.limit_bytes, points, build)
        self.refused.update(fitted.refused)
        return fitted.shapes

    def tuned(self, points: Mapping[str, Point], lost: Mapping[str, float | None]) -> list[Candidate]:
        """The next training of the best network, where what it loses is all that stands in the way, or may be on other samples; none where tuning is
        over. lost: by candidate, times what is allowed."""
        if self._tuner is None and (shape := self._closest(points, lost)) is not None:
            self._tuner = self._opened(shape)
        if self._tuner is None:
            self.networks = ()
            return []
        left, takes = self.clock.left, self.clock.estimate_of(self._tuner.usual)
        found = self._tuner.next(points, has_time=left is None or left > takes)
        if found is None:
            self.networks = ()
        return [] if found is None else [found]

    def longer(
        self, candidates: Sequence[Candidate], points: Mapping[str, Point], lost: Mapping[str, float | None]
    ) -> list[Candidate]:
        """The training that is worth twice its length, where nobody fixed it; none where none is. candidates: all that were offered."""
        request, facts = self.request, self.bench.facts
        if "epochs" in request.training or not facts.can_train:
            return []
        whole = narrow.epochs_of(facts, request.training)
        found = longer(candidates, points, lost, request.goal, self.limit_bytes, request.prefer, whole)
        return [] if found is None else [found]

    def _closest(self, points: Mapping[str, Point], lost: Mapping[str, float | None]) -> narrow.AnyShape | None:
        """Of the networks that were trained to the end and keep all other limits, the one that loses least, unless that is far too much; None where
        a file keeps everything, and not by chance alone."""
        if any(
            self._holds(point) and is_sure(point.figures, self.request.goal)
            for point in points.values()
            if point.figures is not None
        ):
            return None
        found = [
            (times, place)
            for place, shape in enumerate(self.networks)
            if (times := lost.get(shape.label)) is not None
            and times <= NEAR
            and self._missed(points[shape.label]).keys() <= {"drop"}
        ]
        return self.networks[min(found)[1]] if found else None

    def _opened(self, shape: narrow.AnyShape) -> Tuner | None:
        training = self.request.training
        epochs = narrow.epochs_of(self.bench.facts, training)

        def key_of(one: Candidate) -> str:
            return self.bench.key(self.bench.recipe(one))

        try:
            return Tuner(self.bench.folder, shape, epochs, narrow.brief_of(epochs), training, key_of)
        except (MissingDependencyError, UsageError) as error:
            self.notes.append(f"Trainings were not tuned: {error.message} ({error.hint})")
            return None
