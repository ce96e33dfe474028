"""When nothing is left to mend."""

import pytest

from compressctl.diagnosis.diagnose import is_fine
from compressctl.diagnosis.document import Figures
from compressctl.diagnosis.look import FINE_DB


@pytest.mark.parametrize(
    ("figures", "fine"),
    [
        (Figures(sqnr_db=5.0, kept=99.5, added=0.2), True),  # noise that changes no result
        (Figures(sqnr_db=80.0, kept=99.5, added=1.0), False),
        (Figures(sqnr_db=80.0, kept=90.0, added=0.0), False),
        (Figures(sqnr_db=FINE_DB), True),
        (Figures(sqnr_db=FINE_DB - 1), False),
        (Figures(sqnr_db=None), True),
        (Figures(sqnr_db=80.0, kept=100.0, added=0.0, refused="the gate asks for more"), False),
        (None, False),
    ],
)
def test_decoded_results_decide_where_there_are_any_and_else_the_outputs(figures: Figures | None, fine: bool) -> None:
    assert is_fine(figures) == fine
