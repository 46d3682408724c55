"""Rows from arrays without column names, one a group, recorded at a rate of their own."""

from __future__ import annotations

import numpy as np

from rwmdata.formats.mapping import Assembler
from rwmdata.formats.resample import to_control_rate


def rows_at_rate(assembler: Assembler, values: dict[str, np.ndarray], recorded_hz: float, where: str) -> np.ndarray:
    """Return the rows of an episode ``(T, width)`` at the robot's control rate, resampled as logs are.

    Args:
        assembler: Builds them.
        values: Recorded values of each group that is not computed, ``(n, k)``.
        recorded_hz: Their rate.
        where: Names the episode in errors.

    Raises:
        RwmError: The recording is too slow, or does not fit the mapping.
    """
    count = max((len(part) for part in values.values()), default=0)
    stamps = np.arange(count) / recorded_hz
    rows = assembler.rows(lambda group, _: values[group], where, stamps)
    return to_control_rate(rows, stamps, assembler.schema, assembler.robot.control_dt_s, where)
