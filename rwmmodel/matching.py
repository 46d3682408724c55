"""Whether a model is of a dataset's robot, columns and rate."""

from __future__ import annotations

from rwmdata.catalog import Dataset
from rwmdata.errors import RwmError
from rwmdata.text import quoted
from rwmmodel.ensemble import DynamicsEnsemble


def refuse_mismatch(dataset: Dataset, name: str, model: DynamicsEnsemble) -> None:
    """Refuse a dataset of other sizes, another robot, other columns or another rate than those of the model ``name``.

    Raises:
        RwmError: They differ.
    """
    schema, info, fit = dataset.schema, model.info, f"rwm fit {quoted(dataset.name)}"
    wanted, dims = (model.config.state_dim, model.config.action_dim), (schema.dims["state"], schema.dims["action"])
    if dims != wanted:
        raise RwmError(
            f"Model {name} takes {wanted[0]} state and {wanted[1]} action columns, "
            f"dataset '{dataset.name}' ({dataset.robot}) has {dims[0]} and {dims[1]}.",
            fit,
        )
    if info is None:
        return
    rates = f"{info.control_hz:g}", f"{dataset.control_hz:g}"
    sides = ("robot", info.robot, dataset.robot), ("rows a second", *rates)
    faults = [f"{what} {mine} and not {theirs}" for what, mine, theirs in sides if mine != theirs]
    if not faults and info.columns != schema.csv_names:
        faults = ["columns of other names"]
    if faults:
        raise RwmError(f"Model {name} does not fit '{dataset.name}': it has {', '.join(faults)}.", fit)
