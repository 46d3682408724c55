"""``rwm export-policy``: a policy as files for a robot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import HomeOption, JsonOption, home_of, out, print_json, print_table, say


def export_policy(
    policy: Annotated[
        str | None, typer.Argument(help="Policy file or run; the newest policy run when left out.")
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder to write into.")] = Path("deploy"),
    robot: Annotated[str | None, typer.Option("--robot", help="Robot name or folder; the policy's own.")] = None,
    home: HomeOption = ".",
    json_output: JsonOption = False,
) -> None:
    """Write a policy as ONNX, TorchScript and rsl_rl checkpoint, and a JSON of orders, scales, gains and rate."""
    from rwmrl.deploy import export_policy as export

    checkpoint = home_of(home).policy(policy)
    if policy is None:
        say(f"policy {checkpoint.id} (the newest)", json_output)
    found = export(checkpoint.file, out_dir, robot)
    if json_output:
        print_json(found)
        return
    rows = [(name, f"actions differ by {value:.1e} at most") for name, value in found["check"].items()]
    print_table(f"policy of {found['robot']}, {found['control_hz']:g} Hz", ("file", "check"), rows)
    out.print(f"wrote {out_dir}", highlight=False)
