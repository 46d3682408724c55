"""Rows from arrays without column names, one a group, recorded at a rate of their own."""

from __future__ import annotations

import numpy as np
import polars as pl

from rwmdata.formats.logs import resample
from rwmdata.formats.mapping import PER_LEG, Assembler


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
    names = {group: [f"{group}/{j}" for j in range(part.shape[1])] for group, part in values.items()}
    frame = pl.concat([pl.DataFrame(part, names[group]) for group, part in values.items()], how="horizontal")
    held = {name for group in (*PER_LEG, "termination", "action") for name in names.get(group, [])}
    rate = assembler.mapping.model_copy(update={"time": None, "rate_hz": recorded_hz})
    at_rate = resample(frame, rate, assembler.robot.control_dt_s, held, where)
    return assembler.rows(lambda group, _: at_rate.select(names[group]).to_numpy(), where)
