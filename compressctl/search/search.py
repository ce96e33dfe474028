"""A search: what fits a model is tried, cheap before dear, until what was asked is known to be met, or not to be."""

from __future__ import annotations

import shutil
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from compressctl.core.cache import Cache
from compressctl.core.errors import CompressctlError, ExitCode, UsageError
from compressctl.core.events import Listener
from compressctl.measure.environment import environment
from compressctl.pipeline.event_listeners import TimeLimit
from compressctl.pipeline.measure_level import MeasureLevel
from compressctl.search import by_input, front, handed_files, narrow, recipes, words
from compressctl.search.choose import as_handed_over, choose
from compressctl.search.clock import Clock
from compressctl.search.costs import Costs, read_costs
from compressctl.search.document import NotTried, Point, Predicted, Search
from compressctl.search.evaluate import Bench, evaluate
from compressctl.search.facts import Facts, read_facts
from compressctl.search.hand_over import HandedOver, hand_over
from compressctl.search.in_time import in_time
from compressctl.search.journal import Journal, claimed
from compressctl.search.kept_tables import TABLES, WIDTHS, tables_of, write_tables
from compressctl.search.known_samples import KnownSamples
from compressctl.search.network_of_file import with_network
from compressctl.search.planned import Planner
from compressctl.search.request import Request
from compressctl.search.space import KINDS, Candidate, Tree, in_order, left_out, untrained
from compressctl.search.subject import Asked, Subject, sizes_to_choose_by, subject_of
from compressctl.search.tables import Tables
from compressctl.search.trainings import Trainings
from compressctl.search.write import write

_OF_FILE = "What prunes and trains works on a network that was made of the ONNX file (`trainable: true`) and computes the same on real samples."

_UNUSED_LABELS = (
    "The data have labels, and nothing says what they are of, so that files are held against the original's outputs: say `task: classification`, or another "
    "task, beside `data`."
)

_MOST_CONFIRMED = 3
"""Files that are measured in full before the search says that none holds: brief timings are wide."""

_FOR_TABLES = 0.35
"""Share of the time left after which no further layer is looked at."""

_FILES_AFTERWARDS = 15
"""About as many are made once layers have been looked at, each in about the time of the first in 8 bits."""

_FULL_OVER_BRIEF = 4.0
"""How much longer a file is measured in the end than a candidate is."""


def search(
    request: Request,
    asked: Asked,
    output: Path,
    *,
    cache: Cache | None,
    listeners: Sequence[Listener] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> Search:
    """output: the search's folder; what one left there is gone on from. listeners: hear of the work within each candidate. tell: takes
    a line for each step.

    Writes the chosen file and its recipes, and search.json, .md and .html. Raises UsageError and what loading the model and the data
    raises; what a candidate fails with is a row of the result.
    """
    with claimed(output):
        return _search(request, asked, output, cache, listeners, tell)


def _search(
    request: Request,
    asked: Asked,
    output: Path,
    cache: Cache | None,
    listeners: Sequence[Listener],
    tell: Callable[[str], None],
) -> Search:
    clock = Clock(request.seconds)
    subject = subject_of(asked, output)
    if request.goal.smaller is not None or request.goal.size_bytes is not None:
        subject = _with_short_names(subject)
    costs = None
    if request.costs is not None:
        costs = read_costs(request.costs, subject.content["target"])
        if costs.tables.target is not None:
            subject = subject.on(costs.tables.target.profile)
    facts = with_network(read_facts(subject.recipe(), cache, listeners), subject, cache, listeners)
    said = [_OF_FILE] if facts.becomes_network else []
    if facts.has_labels and not facts.scores and not facts.decodes:
        said.append(_UNUSED_LABELS)
    subject = replace(subject, notes=(*subject.notes, *said))
    if facts.samples and subject.deals_samples and not facts.can_train:
        sizes = sizes_to_choose_by(facts.samples)
        subject, facts = subject.dealt(*sizes), facts.dealt(*sizes)
    if facts.known is not None:
        subject, facts = _fairly_judged(subject, facts, facts.known, cache, listeners)
    if costs is not None:
        costs.check(facts)
    bench = Bench(subject, facts, output, cache, environment(), is_timed=costs is None)
    tell(_told(facts, subject))
    key, before = bench.key(subject.recipe()), handed_files.earlier(output)
    if before is not None and before.subject != key:
        tell(
            f"taken back: {', '.join(before.files)}, which an earlier start made of another model, other samples or with other versions"
        )
        handed_files.take_back(output, before, with_run=True)
        before = None
    running = _Running(request, bench, clock, Journal(output), listeners, tell, costs)
    running.spent["looked"] = clock.elapsed
    try:
        running.widen()
        running.confirm()
    except KeyboardInterrupt:
        running.status = "interrupted"
    found = running.result(before.files if before is not None else ())
    if found.files:
        handed_files.note(output, key, found.files)
    elif found.status != "interrupted":
        handed_files.take_back(output, before)
    shutil.rmtree(output / "work", ignore_errors=True)
    write(found, output)
    return found


def _with_short_names(subject: Subject) -> Subject:
    """Where the size is limited: names of tensors are a tenth of a small network's file in 4 bits."""
    made = replace(subject, short_names=True)
    if "names" not in made.export():
        return subject
    note = (
        "Size is limited: tensors and nodes between inputs and outputs have names of a letter or two (`names: short`)."
    )
    return replace(made, notes=(*subject.notes, note))


def _fairly_judged(
    subject: Subject, facts: Facts, known: KnownSamples, cache: Cache | None, listeners: Sequence[Listener]
) -> tuple[Subject, Facts]:
    """With validation samples that the original was not trained on, where the data have some to spare."""
    seen = f"The original scores {known.validation:.4g} on the validation samples and {known.test:.4g} on those of the test split, so that it was trained on the former"
    count = min(facts.samples["validation"], facts.samples["test"] // 2)
    other = subject.chosen_by_test_samples(count)
    try:
        fair = read_facts(other.recipe(), cache, listeners)
    except UsageError as error:
        note = f"{seen}: what a network that is trained anew loses looks larger than it is ({error.message})."
        return replace(subject, notes=(*subject.notes, note)), facts
    fair = replace(fair, becomes_network=facts.becomes_network, lacks_norms=facts.lacks_norms)
    note = (
        f"{seen}: {count:,} samples of the test split choose instead, and the others report (`validation_from: test`)."
    )
    return replace(other, notes=(*other.notes, note)), fair


@dataclass
class _Running:
    """One start of a search. points: by candidate, in the order in which they were tried. shaped: networks that were cut and not
    trained, to see how large and fast they are; nothing is handed over of them.
    costs: of the machine that the file is for; None for this one."""

    request: Request
    bench: Bench
    clock: Clock
    journal: Journal
    listeners: Sequence[Listener]
    tell: Callable[[str], None]
    costs: Costs | None = None
    points: dict[str, Point] = field(default_factory=dict)
    shaped: dict[str, Point] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    planner: Planner | None = None
    notes: list[str] = field(default_factory=list)
    status: str = "running"
    chosen: str | None = None
    handed: HandedOver | None = None
    _late: set[str] = field(default_factory=set)
    _measured_in: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        facts, goal = self.bench.facts, self.request.goal
        self.limit_bytes = goal.limit_bytes(facts.original_bytes)
        self.tree = Tree([])
        self._offer([*untrained(facts, goal), *by_input.fewer_tokens(facts)])
        self.trainings = Trainings(self.request, self.bench, self.limit_bytes, self.clock, self.listeners, self.tell)
        self.can_train = facts.can_train and not facts.quantized
        if self.can_train and self.costs is not None and goal.speedup is not None:
            self.can_train = False
            self.notes.append(f"No network was cut and trained: {self.costs.file} does not tell how fast one is there.")
        self.can_plan = facts.can_calibrate and facts.is_judged and not facts.quantized

    def _offer(self, found: Iterable[Candidate]) -> None:
        """More that may be tried, in its order among the others."""
        goal, new = self.request.goal, list(found)
        self.tree.candidates = in_order([*self.tree.candidates, *new])
        for one in new:
            if goal.speedup is not None and goal.speedup > 1 and one.kind != "plain" and not one.gains_speed:
                self.tree.refuse(one.name, f"it computes as float does, and {goal.speedup:g}x as fast is asked for")
            if self.costs is not None and one.is_clocked:
                self.tree.refuse(one.name, "this machine's clock decides it, and the file is for another one")

    @property
    def is_judged(self) -> bool:
        return self.bench.facts.is_judged

    def widen(self) -> None:
        """Try one candidate after the other. What trains is made up once all that does not has been seen."""
        while (one := self._next()) is not None:
            point = self._point(one)
            if point is None:
                continue
            self.points[one.name] = point
            self.tree.lost[one.name] = self._lost(point)
            self.clock.add(one, point.seconds, point.train_seconds)
            if point.figures is not None:
                self._measured_in.append(point.measure_seconds)
                self.clock.reserved = _FULL_OVER_BRIEF * statistics.median(self._measured_in)

    def _next(self) -> Candidate | None:
        one = self.tree.next()
        while self.can_plan and (one is None or KINDS.index(one.kind) > KINDS.index("planned")):
            found = self._planned()
            self.can_plan = bool(found)
            self._offer(found)
            one = self.tree.next()
        if self.can_train and (one is None or KINDS.index(one.kind) > KINDS.index("shaped")):
            self.can_train = False
            tables = self.planner.tables if self.planner is not None else None
            self._offer(self.trainings.offered(self.points, tables, self._as_cut))
            one = self.tree.next()
        if self.trainings.networks and (one is None or KINDS.index(one.kind) > KINDS.index("trained")):
            self._offer(self.trainings.tuned(self.points, self.tree.lost))
            one = self.tree.next()
        if one is None or KINDS.index(one.kind) > KINDS.index("trained"):
            self._offer(self.trainings.longer(self.tree.candidates, self.points, self.tree.lost))
            one = self.tree.next()
        return one

    def _planned(self) -> list[Candidate]:
        """The next ones that the tables foresee. They are measured when they are first asked for."""
        known = self.points.get("int8")
        if known is None or known.figures is None:
            return []
        if self.planner is None:
            began = self.clock.elapsed
            found = self._tables()
            self.spent["tables"] += self.clock.elapsed - began
            if found is None:
                return []
            goal = self.request.goal
            self.planner = Planner(found, goal, self.limit_bytes, self.request.prefer, is_brief=self.can_train)
        return self.planner.more(self.points)

    def _tables(self) -> Tables | None:
        """Those of the folder, or measured now; None where there is no time for them, or nothing that they could be of."""

        def measured(seconds: float | None, listeners: Sequence[Listener]) -> Tables:
            return tables_of(self.bench, seconds, listeners, self.tell, is_timed=self.costs is None)

        found = in_time(self.clock.left, self._for_tables, self.listeners, measured)
        if isinstance(found, str):
            self.notes.append(f"Layers were not looked at one by one: {found}")
            return None
        if self.costs is not None:
            found = self.costs.with_times(found)
            write_tables(found, self.bench.folder / TABLES)
        return found

    def _for_tables(self, left: float) -> float:
        """Seconds: a share of what is left, or all that the files that come afterwards are not expected to need, where nothing is trained."""
        if self.can_train:
            return _FOR_TABLES / 3 * left
        each = self.points["int8"].seconds
        return max(_FOR_TABLES * left, left - self.clock.reserved - _FILES_AFTERWARDS * each)

    def _as_cut(self, one: Candidate) -> Point | None:
        if one.name not in self.shaped and (point := self._point(one)) is not None:
            self.shaped[one.name] = point
            self.clock.add(one, point.seconds, point.train_seconds)
        return self.shaped.get(one.name)

    def _named(self, name: str) -> Candidate:
        return next(one for one in self.tree.candidates if one.name == name)

    def _lost(self, point: Point) -> float | None:
        """Times what is allowed. Where nothing can tell, a family is gone on with."""
        if point.figures is None:
            return None
        if not self.is_judged:
            return 0.0
        loss = point.figures.loss
        return None if loss is None else max(loss.value, 0.0) / max(self.request.goal.drop, 0.1)

    def _point(self, one: Candidate) -> Point | None:
        """From the journal, or tried now; None where it was left out, which the tree then knows."""
        try:
            recipe = self.bench.recipe(one)
            key = self.bench.key(recipe)
        except CompressctlError as error:
            self.tree.refuse(one.name, f"no recipe for this model: {error.message}")
            return None
        known = self.journal.read(key)
        if known is not None:
            named = known.model_copy(update={"name": one.name, "words": one.words, "family": one.family})
            point = self._on_target(one, named)
            self._say(one, point, "from the journal")
            return point
        if not self.clock.allows(one):
            wanted, left = self.clock.estimate(one), max(self.clock.left or 0.0, 0.0)
            takes = "" if wanted is None else f", and it would take about {words.duration(wanted)}"
            self._late.add(one.name)
            self.tree.refuse(one.name, f"{words.duration(left)} were left{takes}")
            return None
        self.tell(f"{self._place(one)}: {one.words}")
        most = self.clock.limit(one)
        limit = [] if most is None else [TimeLimit(most)]
        tried = evaluate(one, recipe, key, self.bench, [*self.listeners, *limit])
        if tried.status == "interrupted":
            raise KeyboardInterrupt
        if tried.point is None:
            assert most is not None
            self.clock.add(one, most)
            self._late.add(one.name)
            self.tree.refuse(one.name, f"it was not done after {words.duration(most)}")
            return None
        if tried.is_lasting:
            self.journal.write(tried.point)
        point = self._on_target(one, tried.point)
        self._say(one, point, words.duration(point.seconds))
        self.spent[one.kind] += point.seconds
        return point

    def _on_target(self, one: Candidate, point: Point) -> Point:
        """With what is foretold of it on the machine that it is for, where that is another one."""
        if self.costs is None:
            return point
        told = {"on_target": self.costs.on_target(one)}
        update = {
            name: figures.model_copy(update=told)
            for name in ("figures", "confirmed")
            if (figures := getattr(point, name)) is not None
        }
        return point.model_copy(update=update)

    def _place(self, one: Candidate) -> str:
        if one.kind == "shaped":
            return f"[how wide: {len(self.shaped) + 1}] {one.name}"
        done, waiting = len(self.points), len(self.tree.waiting())
        return f"[{done + 1}/{done + waiting}] {one.name}"

    def _say(self, one: Candidate, point: Point, how: str) -> None:
        result = point.reason.splitlines()[0] if point.figures is None else words.in_short(point.figures)
        others = [other for other in self.tree.waiting() if other.name != one.name]
        left = self.clock.estimate_of(others)
        if self.clock.left is not None:
            left = min(left, max(self.clock.left, 0.0))
        more = f"; at most about {words.duration(left)} left" if left >= 1 else ""
        self.tell(f"{self._place(one)}: {result} ({how}{more})")

    def confirm(self) -> None:
        """Measure the best in full, until it stays the best by that: brief timings are wide. Every start ends at the same file."""
        for _ in range(_MOST_CONFIRMED):
            best = self._best()
            if best is None or best.name == self.chosen or (self.handed is not None and self._is_late()):
                return
            self._confirm(best)

    def _best(self) -> Point | None:
        points, goal = list(self.points.values()), self.request.goal
        return choose(points, goal, self.limit_bytes, self.request.prefer, is_judged=self.is_judged)

    def _confirm(self, best: Point) -> None:
        self.chosen, began = best.name, self.clock.elapsed
        self.tell(f"measuring {best.name} in full")
        candidate, goal = self._named(best.name), self.request.goal
        measure = MeasureLevel.QUICK if self._is_late() else MeasureLevel.HEADLINE
        if self.costs is not None:
            measure = MeasureLevel.UNTIMED
        self.handed = hand_over(best, candidate, self.bench, goal, self.limit_bytes, self.listeners, measure)
        self.spent["confirmed"] += self.clock.elapsed - began
        if self.handed.status == "interrupted":
            raise KeyboardInterrupt
        point = self._on_target(candidate, self.handed.point)
        if point.confirmed is not None:
            point = as_handed_over(point)
            self.journal.write(point)
        self.points[best.name] = point

    def _is_late(self) -> bool:
        """Whether even the time that was kept for the end is half gone."""
        left = self.clock.left
        return left is not None and left + self.clock.reserved / 2 < 0

    def result(self, before: Sequence[str] = ()) -> Search:
        """The document, whatever came of it. before: files that an earlier start handed over."""
        goal, facts = self.request.goal, self.bench.facts
        points, best = self._finished(), self._best()
        chosen = self.chosen if self.handed is not None else best.name if best else None
        is_met = (
            self.handed is not None
            and self.handed.status == "done"
            and self._holds(self.points[self.handed.point.name])
        )
        status = "interrupted" if self.status == "interrupted" else "met" if is_met else "not met"
        code = {"interrupted": ExitCode.INTERRUPTED, "met": ExitCode.DONE, "not met": self._why_not(points)}[status]
        found = Search(
            name=self.bench.subject.content["name"],
            status=status,
            exit_code=int(code),
            summary=[],
            goal=front.limits(goal, self.limit_bytes, _unit(facts), is_judged=self.is_judged),
            level=self.request.level,
            prefer=self.request.prefer,
            judged=_judged(facts),
            chosen=chosen,
            files=self.handed.files if self.handed is not None else (),
            missed=self.handed.missed if self.handed is not None else (),
            nearest=() if status == "met" else front.nearest(points, goal, self.limit_bytes, is_judged=self.is_judged),
            points=tuple(points),
            shaped=tuple(self.shaped.values()),
            not_tried=tuple(self._not_tried()),
            error=self.handed.error if self.handed is not None else "",
            untried_for_time=len(self._late),
            notes=(
                *(_left_there(before) if status == "interrupted" and self.handed is None else ()),
                *self._of_costs(),
                *self.bench.subject.notes,
                *facts.warnings,
                *self.notes,
                *self.trainings.notes,
                *_noise(points),
            ),
            tables=TABLES if self.planner is not None else None,
            widths=WIDTHS if self.trainings.has_tables else None,
            costs=self.costs.used if self.costs is not None else None,
            original_bytes=facts.original_bytes,
            seconds=self.clock.elapsed,
            seconds_by_kind=self._seconds(),
            environment=dict(self.bench.environment),
        )
        return found.model_copy(update={"summary": words.summary(found, found.files)})

    def _seconds(self) -> dict[str, float]:
        tables = self.spent.get("tables", 0.0) + self.trainings.seconds
        return {**self.spent, **({"tables": tables} if tables else {})}

    def _of_costs(self) -> list[str]:
        return [] if self.costs is None else [words.costs_note(self.costs.used)]

    def _finished(self) -> list[Point]:
        """With what the others make of each, and its recipe as a file."""
        no_more = {"confirmed": None, "confirmed_run": None}  # what was handed over for another goal
        points = [
            point if point.name == self.chosen else point.model_copy(update=no_more) for point in self.points.values()
        ]
        best = {point.name for point in front.front(points)}
        return [self._with_place(point, is_on_front=point.name in best) for point in points]

    def _with_place(self, point: Point, *, is_on_front: bool) -> Point:
        candidate = self._named(point.name)
        cut = self.shaped.get(candidate.shape or "")
        predicted = self.planner.predicted(point.name) if self.planner is not None else None
        if cut is not None and cut.figures is not None and point.figures is not None:
            predicted = Predicted(by=cut.name, total_bytes=cut.figures.total_bytes, speed=cut.figures.speed)
        return point.model_copy(
            update={
                "is_on_front": is_on_front,
                "holds": self._holds(point),
                "predicted": predicted,
                "recipe_file": recipes.write_point(self.bench.folder, self.bench.subject_of(candidate), candidate),
            }
        )

    def _holds(self, point: Point) -> bool:
        return point.figures is not None and not front.shortfalls(
            point.figures, self.request.goal, self.limit_bytes, is_judged=self.is_judged
        )

    def _why_not(self, points: Sequence[Point]) -> ExitCode:
        if self.handed is not None and self.handed.error:
            return ExitCode(self.handed.exit_code)
        measured = [point.figures for point in points if point.figures is not None]
        if any(front.gains(figures) for figures in measured):
            return ExitCode.BUDGET_MISSED
        failed = {ExitCode(point.exit_code) for point in points if point.figures is None}
        nothing = ExitCode.TIME_LIMIT if self._late else ExitCode.NOTHING_TO_COMPRESS
        return nothing if measured else min(failed - {ExitCode.NOTHING_TO_COMPRESS}, default=nothing)

    def _not_tried(self) -> list[NotTried]:
        found = [
            NotTried(name=one.name, family=one.family, words=one.words, reason=self.tree.refused[one.name])
            for one in self.tree.candidates
            if one.name in self.tree.refused
        ]
        found += [
            NotTried(name=one.name, family=one.family, words=one.words, reason="the search was stopped before it")
            for one in self.tree.waiting()
        ]
        found += [
            NotTried(
                name=name,
                family=by_input.EARLY_EXITS if name == by_input.EARLY_EXITS else narrow.FAMILY,
                words="",
                reason=why,
            )
            for name, why in self.trainings.refused.items()
        ]
        return found + [
            NotTried(name=family, family=family, words="", reason=why) for family, why in left_out(self.bench.facts)
        ]


def _told(facts: Facts, subject: Subject) -> str:
    """What was found of the model and its data."""
    kinds = ", ".join(f"{share:.0%} in {kind}" for kind, share in facts.shares.items() if share >= 0.01)
    samples = ", ".join(f"{count:,} {name}" for name, count in facts.samples.items() if count)
    values = "random values" if facts.is_random else f"samples: {samples}"
    return f"{subject.content['name']}: {facts.parameters:,} parameters ({kinds}), {facts.original_bytes:,} bytes; {values if samples else 'no samples'}"


def _left_there(files: Sequence[str]) -> Iterator[str]:
    if files:
        yield f"{', '.join(files)}: handed over by an earlier start, before this one was stopped."


def _noise(points: Sequence[Point]) -> list[str]:
    noisy = [point.name for point in points if point.figures is not None and point.figures.is_noisy]
    if not noisy:
        return []
    which = ", ".join(noisy[:4]) + (f" and {len(noisy) - 4} more" if len(noisy) > 4 else "")
    return [
        f"The machine was busy while {which} {'was' if len(noisy) == 1 else 'were'} timed: a speed that matters should be measured again."
    ]


def _unit(facts: Facts) -> str:
    if not facts.scores:
        return "%"
    return "points" if facts.unit == "%" or facts.has_heads else facts.metric or ""


def _judged(facts: Facts) -> str:
    """What the loss was seen by."""
    if not facts.has_data:
        return "Quality is not judged: there are no samples. Sizes and speeds are measured; name samples with --data."
    if not facts.is_judged:
        return "Quality is not judged: no samples are left to choose by."
    samples = f"{facts.samples['validation']:,} validation samples"
    used = "calibration and training never saw" if facts.can_train else "nothing was calibrated with"
    if facts.scores:
        how = f"{facts.metric or 'each head by its metric'} on labels"
    elif facts.decodes:
        how = "decoded results against the original's own"
    else:
        how = "every output against the original's: changed decisions (of few those expected among more), and cosine"
    return f"Chosen by {how}, on {samples} that {used}; the test split was looked at for the file that is handed over."
