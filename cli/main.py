"""The ``rwm`` command: parse, call one function, print."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Any

# Read by torch's thread pool when it is loaded: how long a waiting thread spins before it gives way. The default spins
# so long that a fit on a machine that is also doing something else becomes many times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import typer
from typer.core import TyperGroup

from cli import (
    bench,
    data_edit,
    demo,
    doctor,
    evaluate,
    fit,
    model,
    policy,
    report,
    robots,
    runs,
    sql,
    train,
    visualize,
)
from cli.common import command
from cli.progress import err
from rwmdata.errors import RwmError
from rwmdata.processes import Ended, ended_by_signals, signal_received

INTERRUPTED = 130
"""What typer exits with on Ctrl-C."""
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
"""A disk that is full, or a place that must not be written."""
NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)
"""A path that can be none: a name of 300 characters, or a file where a folder is needed."""
NO_MEMORY = ("can't allocate memory", "out of memory", "Maximum allowed", "array is too big")
"""What torch and NumPy say where there is no memory."""

PANELS = {
    "The whole chain": ("demo", "report"),
    "Data": ("data", "sql"),
    "Models": ("fit", "model"),
    "Policies": ("policy", "sweep", "train", "import-policy", "export-policy"),
    "Evidence": ("eval", "visualize", "bench"),
    "What was made, and this machine": ("runs", "robots", "doctor"),
}
"""Commands in the order of the work; help shows each group by itself."""
PANEL = {name: panel for panel, names in PANELS.items() for name in names}


class InOrderOfWork(TyperGroup):
    """Lists its commands by ``PANELS``; a command that is not there is a fault."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands."""
        return sorted(super().list_commands(ctx), key=[*PANEL].index)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by name, with the heading that help lists it under; None where there is none."""
        found: Any = super().get_command(ctx, cmd_name)
        if found is not None:
            found.rich_help_panel = PANEL[cmd_name]
        return found


app = typer.Typer(
    name="rwm",
    cls=InOrderOfWork,
    help="Robotic world models: rollouts -> dataset -> dynamics ensemble -> policy -> evidence.",
    epilog="Begin with: rwm demo. Then step by step: rwm data export, rwm fit, rwm policy, rwm eval policy, "
    "rwm report. Every command takes the newest dataset, model or policy where none is named.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
command(app, "demo", "reports.demo.walking:WalkingConfig")(demo.demo)
app.add_typer(data_edit.app, name="data")
command(app, "fit", "rwmmodel.fit_config:FitConfig")(fit.fit)
app.add_typer(model.app, name="model")
command(app, "policy", "rwmrl.policy_config:PolicyConfig")(policy.policy)
app.add_typer(policy.sweep_app, name="sweep")
command(app, "import-policy", "rwmrl.foreign_policy:Reading")(policy.import_policy)
command(app, "export-policy")(policy.export_policy)
command(app, "train", "rwmrl.simulator_training:TrainConfig")(train.train)
command(app, "visualize", "reports.visualize.view:SimulatedViewConfig", "reports.visualize.view:RecordedViewConfig")(
    visualize.visualize
)
app.add_typer(evaluate.app, name="eval")
app.add_typer(runs.app, name="runs")
app.add_typer(robots.app, name="robots")
command(app, "sql")(sql.sql)
command(app, "report")(report.report)
app.add_typer(bench.app, name="bench")
command(app, "doctor")(doctor.doctor)


def run() -> None:
    """Run the command line; faults the user can fix end in one sentence and exit code 1."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return _run()
    # One of several processes: threads that torch keeps for their group may abort one that exits the ordinary way.
    code: object = 0
    try:
        _run()
    except SystemExit as exc:
        code = exc.code or 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def _run() -> None:
    try:
        with ended_by_signals():
            _work()
    except (Exception, SystemExit, Ended) as exc:  # Ended where a signal came once all was done.
        number = signal_received()
        code = exc.code if isinstance(exc, SystemExit) else 1
        if code in (0, None) or (number is None and code != INTERRUPTED):
            raise
        by = f" by {signal.Signals(number).name}" if number else ""
        err.print(f"interrupted{by}; what was committed stays; go on with: rwm runs resume")
        sys.exit(INTERRUPTED if number is None else 128 + number)


def _work() -> None:
    """Run the command; an exception after a signal is the signal's, whatever a library made of it."""
    try:
        app()
    except RwmError as exc:
        err.print(f"error: {exc.message}", style="red")
        if exc.hint:
            err.print(f"try:   {exc.hint}")
        sys.exit(1)
    except OSError as exc:
        if exc.errno not in UNWRITABLE + NO_PATH:
            raise
        err.print(f"error: {exc.strerror}: {exc.filename or 'a file'}.", style="red")
        room = "make room, or --home FOLDER; then rwm runs resume"
        err.print(f"try:   {room if exc.errno in UNWRITABLE else 'another name or path'}")
        sys.exit(1)
    except (MemoryError, RuntimeError, ValueError) as exc:
        if not isinstance(exc, MemoryError) and not any(words in str(exc) for words in NO_MEMORY):
            raise
        err.print("error: There is not enough memory for sizes like these.", style="red")
        err.print("try:   fewer robots, rows, members or units")
        sys.exit(1)


if __name__ == "__main__":
    run()
