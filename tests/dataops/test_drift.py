"""What drift is measured against."""

from __future__ import annotations

import pytest

from catalog.errors import UsageError
from dataops.drift import furthest
from tests.dataops.conftest import Selection


def test_the_cells_are_those_of_a_fit_which_knows_how_far_its_windows_lie(selection: Selection) -> None:
    assert -1 <= furthest(selection.pool) <= 1
    with pytest.raises(UsageError, match="target-cells@1 does not say how far"):
        furthest(selection.catalog.snapshot("target-cells"))
