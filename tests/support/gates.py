"""Gates as the pipeline hands them to a technique that may give parts of its work back."""

from collections.abc import Callable

from compressctl.core.model import Model
from compressctl.core.technique import Acceptance


def drop_at_most(limit: float, score: Callable[[Model], float], original: Model) -> Callable[[Model], Acceptance]:
    """Accepts models that lose no more than `limit` points of the score."""
    before = score(original)

    def accept(model: Model) -> Acceptance:
        drop = before - score(model)
        return Acceptance(drop <= limit, {"validation_drop": drop}, "" if drop <= limit else f"lost {drop:.2f} points")

    return accept
