"""``rwm visualize``: real robots beside their imagined twins."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import BackendOption, Call, DeviceOption, RobotOption, SeedOption, out, print_json
from cli.evaluate import PolicyOption, show_scalars
from rwmdata.errors import RwmError

if TYPE_CHECKING:
    from reports.visualize.scene import Scene
    from rwmdata.catalog import Dataset
    from rwmdata.runs import Checkpoint
    from rwmmodel.ensemble import DynamicsEnsemble

BESIDE = ("dataset", "model", "no_twin", "browser", "port", "host")
"""Parameters that the command reads itself."""


def visualize(
    call: Call,
    dataset: Annotated[
        str | None, typer.Argument(help="Dataset whose episode is shown; a policy in the simulator when left out.")
    ] = None,
    episode: Annotated[int | None, typer.Option("--episode", help="Episode of the dataset; the first is 0.")] = None,
    policy: PolicyOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="Model run or file that imagines the twin; the newest, or the dataset's own, when left out."
        ),
    ] = None,
    no_twin: Annotated[bool | None, typer.Option("--no-twin", help="Show the real robots alone.")] = None,
    robot: RobotOption = None,
    backend: BackendOption = None,
    robots: Annotated[int | None, typer.Option(help="Robots side by side.")] = None,
    settle: Annotated[int | None, typer.Option(help="Control steps before the history begins.")] = None,
    steps: Annotated[int | None, typer.Option(help="Control steps imagined; a recorded episode to its end.")] = None,
    resync: Annotated[
        int | None, typer.Option(help="Give the twin the real history again every so many steps; once when left out.")
    ] = None,
    overlay: Annotated[bool | None, typer.Option("--overlay", help="Draw the twin in the real robot's place.")] = None,
    browser: Annotated[bool | None, typer.Option("--browser", help="Show it in the browser; writes no files.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port of the browser view; 8080 when left out.")] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address it listens on; this machine alone when left out.")
    ] = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
) -> None:
    """Show a policy in the simulator, or a recorded episode, beside what a model imagines under the same actions.

    Writes an animated picture, a filmstrip, curves and a table; or serves a page with --browser until Ctrl-C.
    """
    from reports.visualize.view import (
        RecordedViewConfig,
        SimulatedViewConfig,
        recorded_scene,
        simulated_scene,
        visualize_episode,
        visualize_policy,
    )

    if not browser and (port is not None or host is not None):
        raise RwmError("--port and --host are of the browser view.", "rwm visualize --browser")
    if model is not None and no_twin:
        raise RwmError("--no-twin contradicts --model: a model is there to imagine the twin.", "one of the two")
    if dataset is not None or episode is not None:
        recorded = call.config(RecordedViewConfig, *BESIDE)
        source = call.dataset(dataset)
        if episode is None:
            call.say(f"episode {recorded.episode}; another one: --episode N")
        checkpoint = None if no_twin else _model_for(call, model, source)
        if browser:
            scene, twin_model = call.work("visualize", recorded_scene, source, checkpoint, recorded)
            _serve(call, scene, twin_model, recorded.resync)
            return
        show_scalars(call, call.work("visualize", visualize_episode, call.home, source, checkpoint, recorded))
        return
    walking = call.policy(policy)
    simulated = call.config(SimulatedViewConfig, *BESIDE, under=call.robot_of(walking), over={"policy": walking})
    checkpoint = None if no_twin else _model_for(call, model, None)
    if browser:
        scene, twin_model = call.work("visualize", simulated_scene, checkpoint, simulated)
        _serve(call, scene, twin_model, simulated.resync)
        return
    show_scalars(call, call.work("visualize", visualize_policy, call.home, checkpoint, simulated))


def _serve(call: Call, scene: Scene, model: DynamicsEnsemble | None, resync: int | None) -> None:
    """Serve the page of a scene until Ctrl-C."""
    from reports.visualize.browser import BrowserView

    view = BrowserView(scene, model, resync, **call.chosen("host", "port"))
    if call.json:
        print_json({"url": view.url})
    else:
        out.print(f"open {view.url} (Ctrl-C ends)")
    sys.stdout.flush()
    view.serve()


def _model_for(call: Call, name: str | None, dataset: Dataset | None) -> Checkpoint | None:
    """Return the model named, else the dataset's own or the newest, and say which; None where there is none."""
    from reports.visualize.view import model_of

    if name is not None:
        return call.model(name)
    if dataset is None:
        fits = [r for r in call.home.runs("model") if r.meta.status == "finished"]
        found = fits[0].checkpoint if fits else None
    else:
        found = model_of(call.home, dataset)
    of = f" fitted on {dataset.name}" if dataset else ""
    call.say(f"model {found.id} (the newest{of})" if found else f"no model{of}: shown without a twin")
    return found
