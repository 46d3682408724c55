"""``rwm robots``: robots as other simulators read them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import Call, command, out, print_json

app = typer.Typer(help="Robots as other simulators read them.", no_args_is_help=True)


@command(app, "usd", "rwmrl.envs.usd:write_assets")
def usd(
    call: Call,
    robots: Annotated[
        list[str] | None, typer.Argument(help="Robot names or folders; all that have an MJCF when left out.")
    ] = None,
    root: Annotated[Path, typer.Option("--out", help="Folder that becomes the asset root.")] = Path("isaac-assets"),
) -> None:
    """Write robots as USD where Isaac Lab's tasks look for them, to run those without an asset server."""
    from rwmdata.robots import load_robot, robot_folders
    from rwmrl.envs.usd import write_assets

    chosen = [load_robot(name) for name in robots or robot_folders()]
    files = write_assets(chosen if robots else [robot for robot in chosen if robot.mjcf], root)
    if call.json:
        print_json({"root": str(root.resolve()), "files": [str(file) for file in files]})
        return
    for file in files:
        out.print(f"wrote {file}", highlight=False)
    call.say(f"next: ISAACSIM_ASSET_ROOT={root.resolve()} rwm data export --backend isaaclab")
