"""How long jobs will take: what they took themselves counts before what their recipe takes."""

from compressctl.zoo.estimates import Estimates, in_words
from compressctl.zoo.jobs import Job
from compressctl.zoo.results import JobResult, Outcome
from compressctl.zoo.schema import Resources


def job(name: str, recipe: str) -> Job:
    return Job(name, name, f"{recipe}.yaml", recipe, (), Resources(), "")


def result(name: str, seconds: float, paused: float = 0, attempts: int = 1) -> JobResult:
    return JobResult(
        job=name, model=name, recipe="int8", why="", key="k", outcome=Outcome.GOOD, message="", exit_code=0, attempts=attempts,
        started=0, seconds=seconds, paused_seconds=paused, peak_memory=None, host="h", log="", report=None, figures=None, command=(),
    )  # fmt: skip


def test_a_job_takes_what_it_took_and_a_new_one_what_its_recipe_takes() -> None:
    found = Estimates.of(
        [
            result("a", 50, paused=10),
            result("b", 20),
            result("c", 600),
            result("d", 0, attempts=0),
        ]
    )
    assert found.seconds(job("b", "int8")) == 20
    assert found.seconds(job("d", "int8")) == found.seconds(job("new", "int8")) == 40
    assert found.seconds(job("new", "int4")) is None


def test_seconds_are_said_as_precisely_as_they_are_known() -> None:
    assert [in_words(seconds) for seconds in (40.2, 600, 9000)] == ["about 40 s", "about 10 min", "about 2.5 h"]
