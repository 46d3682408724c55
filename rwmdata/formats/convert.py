"""Foreign recordings to a dataset, whatever their format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.formats.base import DEFAULT_ROBOT, Format, Request
from rwmdata.formats.checks import Sample
from rwmdata.formats.csv66 import CsvFormat
from rwmdata.formats.files import without_copies, without_leftovers
from rwmdata.formats.hdf5 import Hdf5Format
from rwmdata.formats.lerobot import LeRobotFormat
from rwmdata.formats.logs import LogFormat
from rwmdata.formats.mapping import load_mapping
from rwmdata.formats.minari import MinariFormat
from rwmdata.formats.rosbag import RosbagFormat
from rwmdata.home import Home
from rwmdata.manifest import made_by
from rwmdata.progress import Progress, silent
from rwmdata.robots import load_robot
from rwmdata.shipped import RECORDINGS, SAMPLE
from rwmdata.writer import DatasetWriter

FORMATS: list[type[Format]] = [LeRobotFormat, MinariFormat, Hdf5Format, RosbagFormat, LogFormat, CsvFormat]
"""All formats, in the order in which they are tried on a source."""


def convert(
    home: Home,
    sources: Sequence[Path],
    name: str,
    robot: str | None = None,
    mapping: Path | None = None,
    episode_ends: str = "auto",
    extension: Sequence[str] = (),
    joint_order: str | None = None,
    quaternions: str | None = None,
    rate_hz: float | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Dataset:
    """Turn recordings into a dataset: 66-column CSV, Isaac Lab's HDF5, LeRobot, Minari, ROS bags, or a log by mapping.

    Args:
        home: Where the dataset goes.
        sources: Files, folders of CSV files, or the folder of a LeRobot or Minari dataset; all of one format.
            What other programs left (``._a.csv``, ``a.csv~``) and files with the content of another are not read, and
            noted. ``sample`` stands for the recordings that come along.
        name: Name of the new dataset.
        robot: Robot that was recorded; when None, the one that an HDF5 file is of, else anymal_d.
        mapping: File that says where the column groups are.
        episode_ends: CSV only: ``auto`` takes marked ends and those implied by physics, ``file`` only marked ones,
            ``none`` makes each file one episode.
        extension: Names of the extension columns of a CSV, between action and contact.
        joint_order: HDF5 only: order of the joints in the recording, ``robot``, ``legs``, ``types`` or their names.
        quaternions: HDF5 only: ``wxyz`` or ``xyzw``; when None, what the file says or its motion shows.
        rate_hz: HDF5 only: rows per second; when None, what the file says.
        seed: Seed of the split.
        progress: Called after each file.

    Raises:
        RwmError: The sources differ in format, one is missing, damaged or not laid out as expected, or a value is not
            finite. File and place are named and nothing is written.
    """
    layout = load_mapping(mapping) if mapping else None
    shipped = Path(SAMPLE)
    sources = [RECORDINGS if source == shipped and not source.exists() else source for source in sources]
    sources, notes = without_leftovers(sources)
    form = find_format(sources, mapping is not None)
    special = {"episode_ends": episode_ends != "auto", "extension": bool(extension), "rate_hz": rate_hz is not None}
    special |= {"joint_order": joint_order is not None, "quaternions": quaternions is not None}
    for option in (name for name, given in special.items() if given and name not in form.reads):
        raise RwmError(f"{form.label} files are converted without --{option.replace('_', '-')}.", "leave it out")
    spec = load_robot(robot or form.robot_of(sources) or DEFAULT_ROBOT)
    hints = (joint_order, quaternions, rate_hz)
    recordings = form(Request(sources, spec, layout, episode_ends, extension, robot is not None, *hints))
    if form.copies_are_left_out:
        recordings.files, copies = without_copies(recordings.files)
        notes += copies
    recordings.notes = notes + recordings.notes
    options: dict[str, str | float | None] = {
        "mapping": mapping.name if mapping else None,
        "extension": ",".join(extension),
        "seed": seed,
    }
    options |= {"joint_order": joint_order, "quaternions": quaternions, "rate_hz": rate_hz}
    options |= {"episode_ends": episode_ends} if special["episode_ends"] else {}
    hz, origin = 1 / spec.control_dt_s, made_by("rwm data convert", options)
    sample = Sample(recordings.schema, hz, sorted(recordings.missing)) if layout and layout.check else None
    with DatasetWriter(home.data_dir, name, spec.name, recordings.schema, hz, origin, seed) as writer:
        for count, file in enumerate(recordings.files, start=1):
            for episode in recordings.read(file):
                writer.append(episode)
                if sample:
                    sample.add(episode.rows)
            progress(count, len(recordings.files), {"rows": float(writer.rows)})
        if sample:
            sample.check_units()
        if sample and robot is None:
            sample.check_robot(spec)
        writer.provenance |= recordings.provenance()
        return writer.commit()


def find_format(sources: Sequence[Path], mapped: bool) -> type[Format]:
    """Return the format of the sources; ``mapped`` says that there is a mapping file.

    Raises:
        RwmError: They are of several formats, or there is none.
    """
    if not sources:
        raise RwmError("There is no recording among the files named.", "rwm data convert FILE... --name NAME")
    formats = {next(f for f in FORMATS if f.sniff(source, mapped)) for source in sources}
    if len(formats) != 1:
        labels = " and ".join(sorted(f.label for f in formats))
        raise RwmError(f"{labels} files cannot be mixed in one dataset.", "convert them separately, then merge")
    return formats.pop()
