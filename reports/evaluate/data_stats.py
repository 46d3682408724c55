"""How the columns of a dataset are distributed: quantiles, text histograms, and a figure per column group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from reports.figures import BLUE, figure
from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError

BINS = 40
BARS = " ▁▂▃▄▅▆▇█"
QUANTILES = (0.001, 0.5, 0.999)


def column_statistics(dataset: Dataset, bins: int = BINS) -> list[dict[str, Any]]:
    """Return for every column its group, unit, mean, std, extremes, quantiles and histogram.

    Histograms span the 0.1 and 99.9 % quantiles, so that one outlier does not flatten them; what lies beyond is
    counted as ``outside``.
    """
    rows, statistics = dataset.matrix(), []
    for j, column in enumerate(dataset.manifest.columns):
        values = rows[:, j]
        low, median, high = (float(q) for q in np.quantile(values, QUANTILES))
        counts, edges = np.histogram(values, bins, (low, high) if high > low else (low - 0.5, low + 0.5))
        histogram = {"counts": counts.tolist(), "edges": edges.tolist(), "outside": int(len(values) - counts.sum())}
        statistics.append({**column.model_dump(), "q001": low, "median": median, "q999": high, **histogram})
    return statistics


def sparkline(counts: list[int], width: int = 20) -> str:
    """Return a histogram as one line of text."""
    parts = [sum(part) for part in np.array_split(np.array(counts), width)]
    top = max(parts) or 1
    return "".join(BARS[int(np.ceil(p / top * (len(BARS) - 1)))] for p in parts)


def draw_histograms(folder: Path, dataset: Dataset, statistics: list[dict[str, Any]]) -> list[Path]:
    """Draw one figure per column group, every column a panel of its own; return the files.

    Raises:
        RwmError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise RwmError(f"Cannot write {folder}: {exc.strerror}.", "--out FOLDER") from exc
    written = []
    for group in dict.fromkeys(column["group"] for column in statistics):
        members = [column for column in statistics if column["group"] == group]
        columns = min(4, len(members))
        lines = -(-len(members) // columns)
        path = folder / f"{dataset.name}-{group}.png"
        with figure(path, lines, columns, (4 * columns, 2.8 * lines + 0.6)) as axes:
            for ax, column in zip(axes.ravel(), members, strict=False):
                edges = np.array(column["edges"])
                share = 100 * np.array(column["counts"]) / dataset.rows
                ax.bar(edges[:-1], share, np.diff(edges), align="edge", color=BLUE)
                ax.set_title(column["name"].removeprefix(f"{group}_"), fontsize=12)
                ax.tick_params(labelsize=10)
            for ax in axes.ravel()[len(members) :]:
                ax.axis("off")
            for ax in axes[:, 0]:
                ax.set_ylabel("rows (%)", fontsize=11)
            for ax in axes[-1]:
                ax.set_xlabel(members[0]["unit"], fontsize=11)
            title = f"{group}, {dataset.name}: {dataset.rows:,} rows; the outermost bars hold the tails"
            axes[0, 0].figure.suptitle(title)
        written.append(path)
    return written
