"""Datasets made from datasets: merge, filter, split anew; and removal. A committed dataset is never modified."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rwmdata.atomic import commit_folder, remove_folder
from rwmdata.catalog import Dataset
from rwmdata.episodes import Episode, read_episodes
from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmdata.manifest import DatasetManifest, Provenance, made_by
from rwmdata.progress import Progress, silent
from rwmdata.spikes import far_spikes
from rwmdata.splits import WINDOW_ROWS, deal
from rwmdata.text import quoted
from rwmdata.views import open_views, refuse_writing
from rwmdata.writer import DatasetWriter, created_now, new_dataset_path

Part = tuple[Dataset, set[int] | None]
"""A dataset and the numbers of the episodes to take from it; all when None."""


def merge(home: Home, sources: Sequence[Dataset], name: str, seed: int = 0, progress: Progress = silent) -> Dataset:
    """Write the episodes of several datasets of one robot, one after the other, as a new dataset.

    Raises:
        RwmError: Fewer than two datasets, they differ in robot, rate or columns, share rows, or the name is
            taken.
    """
    if len(sources) < 2:
        raise RwmError("Merging takes at least two datasets.", "rwm data merge A B --name C")
    first = sources[0]
    for other in sources[1:]:
        for what in ("robot", "control_hz", "joints", "legs", "extension"):
            ours, theirs = getattr(first.manifest, what), getattr(other.manifest, what)
            if ours != theirs:
                raise RwmError(
                    f"'{first.name}' and '{other.name}' differ in {what}: {ours} and {theirs}.", "rwm data ls"
                )
    _refuse_shared_rows(sources)
    origin = made_by("rwm data merge", {"seed": seed}) | {"datasets": [about(d) for d in sources]}
    return _rewrite(home, [(d, None) for d in sources], name, origin, seed, progress)


def _refuse_shared_rows(sources: Sequence[Dataset]) -> None:
    """Refuse datasets that hold the same files: their rows would be in the new dataset twice, and in several splits."""
    holder: dict[str, Dataset] = {}
    for dataset in sources:
        contents = {shard.sha256 for shard in dataset.manifest.shards}
        for shared in contents & holder.keys():
            raise RwmError(f"'{holder[shared].name}' and '{dataset.name}' hold the same rows.", "merge one of them")
        holder |= dict.fromkeys(contents, dataset)


def filter_episodes(
    home: Home,
    source: Dataset,
    where: str,
    name: str,
    cut_spikes: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> Dataset:
    """Write the episodes for which an SQL condition holds as a new dataset.

    Args:
        home: Where both datasets are.
        source: The dataset.
        where: Condition over the view ``episodes``: ``length > 100 and not terminated and behaviour = 'expert'``.
        name: Name of the new dataset.
        cut_spikes: Leave out the rows with values far outside of what their column holds; episodes are cut there.
        seed: Seed of its split.
        progress: Called after each episode.

    Raises:
        RwmError: The condition is not SQL over those columns, or holds for no episode.
    """
    import duckdb

    # The condition sees the one dataset only, and a comment at its end does not hide what follows.
    query = f"select episode from (select * from episodes where dataset = $1) where (\n{where}\n) order by episode"
    with open_views(home, ("episodes",), report=lambda _: None, only=[source]) as connection:
        try:
            refuse_writing(connection, query)
            kept = [int(row[0]) for row in connection.execute(query, [source.name]).fetchall()]
            columns = [row[0] for row in connection.execute("describe episodes").fetchall()]
        except duckdb.Error as exc:
            reason = str(exc).splitlines()[0]
            raise RwmError(f"The condition '{where}' failed: {reason}", "rwm sql 'describe episodes'") from exc
    if not kept:
        hint = f"columns: {', '.join(columns)}; rwm sql looks at them"
        raise RwmError(f"No episode of '{source.name}' fits '{where}'.", hint)
    origin = made_by("rwm data filter", {"cut_spikes": cut_spikes, "seed": seed})
    origin |= {"datasets": [about(source)], "where": where}
    if not cut_spikes:
        return _rewrite(home, [(source, set(kept))], name, origin, seed, progress)
    spikes = far_spikes(source)
    rows = np.unique(np.concatenate([np.zeros(0, int), *(found.rows for found in spikes)]))
    ends = source.episodes.start + source.episodes.length
    left_out = [int(np.isin(np.searchsorted(ends, found.rows, "right"), kept).sum()) for found in spikes]
    origin["notes"] = [
        f"{count} rows were left out, episodes cut there: {found.column} {found}"
        for count, found in zip(left_out, spikes, strict=True)
        if count
    ]
    return _rewrite(home, [(source, set(kept))], name, origin, seed, progress, rows)


def split_anew(
    home: Home, source: Dataset, name: str, shares: dict[str, float], seed: int = 0, window: int = WINDOW_ROWS
) -> Dataset:
    """Assign a dataset's episodes to new splits, as a new dataset that shares the files of the old one.

    Args:
        home: Where both datasets are.
        source: The dataset.
        name: Name of the new dataset.
        shares: Relative size of each split.
        seed: Seed of the assignment.
        window: Rows that an episode needs to count; too few such episodes are divided by time.

    Raises:
        RwmError: A share is not positive, there are fewer episodes than splits, or the name is taken.
    """
    if min(shares.values(), default=0.0) <= 0.0:
        raise RwmError(f"Shares must be positive, not {shares}.", "--train 0.8 --val 0.1 --test 0.1")
    source.verify_manifest()
    if gone := [path for path in source.shard_paths if not path.is_file()]:
        raise RwmError(f"{gone[0]} is missing.", f"rwm data validate {quoted(source.name)}")
    splits = deal(source.manifest.episodes.length, seed, shares, window)
    if len(source.episodes) < len(shares) and not splits.rows:
        raise RwmError(
            f"'{source.name}' has {len(source.episodes)} episodes, fewer than {len(shares)} splits.",
            "rwm data merge, with more episodes",
        )
    target = new_dataset_path(home.data_dir, name)
    origin = made_by("rwm data split", {"window": window if window != WINDOW_ROWS else None, "seed": seed})
    origin |= {"datasets": [about(source)], "shares": shares, **_missing(source)}
    origin |= {"notes": splits.notes} if splits.notes else {}
    dealt = {"splits": splits.episodes, "split_rows": splits.rows}
    changes = {"name": name, "created": created_now(home.data_dir), "provenance": origin, **dealt}
    manifest = DatasetManifest.model_validate({**source.manifest.model_dump(), **changes})
    with commit_folder(target) as folder:
        for path in source.shard_paths:
            try:
                os.link(path, folder / path.name)
            except OSError:  # The file system has no hard links.
                shutil.copyfile(path, folder / path.name)
        manifest.write(folder)
    return Dataset.open(target)


def remove(home: Home, source: Dataset | Path) -> list[str]:
    """Delete a dataset, or the folder of one that cannot be opened; readers see all of it or nothing.

    Of a dataset behind a symbolic link only the link is removed.

    Returns:
        Ids of the runs made from it, whose dataset is gone now.

    Raises:
        RwmError: It cannot be removed.
    """
    folder = source.path if isinstance(source, Dataset) else source
    made_from = [r.id for r in home.runs() if r.meta.parents.get("dataset") == folder.name]
    remove_folder(folder)
    return made_from


def about(dataset: Dataset) -> Provenance:
    """Return what a dataset made from this one records about it."""
    m = dataset.manifest
    return {"name": m.name, "created": m.created, "rows": m.rows, "provenance": m.provenance}


def _rewrite(
    home: Home,
    parts: Sequence[Part],
    name: str,
    origin: Provenance,
    seed: int,
    progress: Progress,
    without: np.ndarray | None = None,
) -> Dataset:
    """Write a new dataset from parts of others, ``without`` some rows of the first."""
    like, _ = parts[0]
    lengths = [[d.manifest.episodes.length[k] for k in numbers] if numbers else [d.rows] for d, numbers in parts]
    total = sum(map(sum, lengths))
    origin |= _missing(*(dataset for dataset, _ in parts))
    with DatasetWriter(home.data_dir, name, like.robot, like.schema, like.control_hz, origin, seed) as writer:
        for dataset, numbers in parts:
            starts = dataset.episodes.start[sorted(numbers) if numbers else slice(None)]
            for start, episode in zip(starts, read_episodes(dataset, numbers), strict=True):
                for piece in [episode] if without is None else _pieces(episode, without - start):
                    writer.append(piece)
                progress(writer.rows, total, {})
        return writer.commit()


def _missing(*sources: Dataset) -> Provenance:
    """Return the provenance's entry about groups that one of the sources does not have, none where all have all."""
    missing = {group for source in sources for group in source.manifest.provenance.get("missing_groups", [])}
    return {"missing_groups": sorted(missing)} if missing else {}


def _pieces(episode: Episode, without: np.ndarray) -> Iterator[Episode]:
    """Give what is left of an episode without some of its rows; all but its end are truncated, single rows left out."""
    length = len(episode.rows)
    cuts = without[(without >= 0) & (without < length)]
    for first, last in zip([0, *(cuts + 1)], [*cuts, length], strict=True):
        if last - first >= min(length, 2):
            command = None if episode.command is None else episode.command[first:last]
            reward = None if episode.reward is None else episode.reward[first:last]
            rows, truncated = episode.rows[first:last], episode.truncated or last < length
            yield replace(episode, rows=rows, truncated=truncated, command=command, reward=reward)
