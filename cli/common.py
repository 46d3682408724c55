"""What every command shares: how it is declared and called, options, output as tables or as JSON."""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, get_type_hints

import typer
from rich.table import Table
from typer.core import TyperCommand

from cli.progress import FIRST, PlainConsole, progress_bar, say
from rwmdata import progress as rwm_progress
from rwmdata.errors import RwmError
from rwmdata.limits import LARGEST
from rwmdata.text import shown
from rwmdata.wandb_log import wandb_package

if TYPE_CHECKING:  # Help is shown without these.
    from rwmdata.catalog import Dataset
    from rwmdata.config import Frozen, Model
    from rwmdata.home import Home
    from rwmdata.runs import Checkpoint, Run

PIPE_WIDTH = 200
"""Columns of a table that no terminal shows: ids and paths stay whole."""

out = PlainConsole(soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def _installed(project: str | None) -> str | None:
    """Refuse a project of Weights & Biases before the work begins where the package is missing."""
    if project is not None:
        wandb_package()
    return project


# None is "not given": the default stands in the configuration or function a command hands its options to.
HomeOption = Annotated[str, typer.Option("--home", envvar="RWM_HOME", help="Folder that holds data/ and runs/.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="Seed; the same seed gives the same result.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
RobotOption = Annotated[
    str | None, typer.Option("--robot", help="Robot name (anymal_d, go2, ...), or folder with a robot.yaml.")
]
BackendOption = Annotated[
    str | None, typer.Option("--backend", help="Simulator: auto, mujoco (embedded), isaaclab or mjlab.")
]
DatasetArgument = Annotated[str | None, typer.Argument(help="Dataset name or path; the newest when left out.")]
FittedArgument = Annotated[
    str | None, typer.Argument(help="Dataset name or path; the one the model was fitted on when left out.")
]
ModelOption = Annotated[str | None, typer.Option("--model", help="Model run or model file; the newest when left out.")]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Any other option, KEY=VALUE, or PART.KEY=VALUE; may be repeated. A wrong KEY lists all."
    ),
]
WandbOption = Annotated[
    str | None,
    typer.Option("--wandb", callback=_installed, help="Project of Weights & Biases that the metrics go to as well."),
]

Result = TypeVar("Result")
Options = Mapping[str, object] | None


@dataclass(frozen=True)
class Call:
    """A call of a command: where it works, how it prints, and which options it was given.

    Attributes:
        home: Folder that holds data/ and runs/.
        json: Print one JSON object and nothing else.
        given: Options and arguments that were given, by parameter; those left out are not there.
        names: What the user calls each parameter: ``--lam``.
    """

    home: Home
    json: bool
    given: Mapping[str, Any]
    names: Mapping[str, str]

    def chosen(self, *parameters: str, **renamed: str) -> dict[str, Any]:
        """Return those of the parameters that were given, to be passed on; ``new=old`` renames one."""
        wanted = {name: name for name in parameters} | renamed
        return {new: self.given[old] for new, old in wanted.items() if old in self.given}

    def unread(self, model: type[Frozen], beside: Sequence[str]) -> list[str]:
        """Return the given options, as the user calls them, that are neither of a configuration nor in ``beside``."""
        from rwmdata.config import option_paths, path_of

        known = {*beside, *option_paths(model), "settings", *(["preset"] if model.default_preset else [])}
        return [self.names[name] for name in self.given if name not in known and path_of(model, name) not in known]

    def config(self, model: type[Model], *beside: str, under: Options = None, over: Options = None) -> Model:
        """Return the configuration made of the options that were given.

        Args:
            model: Its class.
            beside: Parameters that the command reads itself; all others are options of the configuration.
            under: Options that lie under those that were given, over the preset.
            over: Options that lie over those that were given.

        Raises:
            RwmError: An option was given that the configuration does not have, or a value is not valid.
        """
        from rwmdata.config import build, label_of, read_settings

        if unread := self.unread(model, beside):
            raise RwmError(f"A {label_of(model)} does not read {', '.join(unread)}.", "the command without it")
        options = {k: v for k, v in self.given.items() if k not in beside}
        preset, settings = options.pop("preset", None), read_settings(options.pop("settings", ()))
        return build(model, preset, under or {}, options, settings, over or {})

    def say(self, text: str) -> None:
        """Say something to the person on standard error, unless only JSON is wanted."""
        say(text, self.json)

    def progress(self, label: str) -> AbstractContextManager[rwm_progress.Progress]:
        """Give a progress callback that shows how far the work is, unless only JSON is wanted."""
        return progress_bar(label, self.json)

    def work(self, label: str, function: Callable[..., Result], *arguments: object, **options: object) -> Result:
        """Call a function that takes long, and show how far it is."""
        with self.progress(label) as progress:
            return function(*arguments, progress=progress, **options)

    def dataset(self, name: str | None) -> Dataset:
        """Return the dataset of that name, else the newest, and say which."""
        dataset = self.home.dataset(name)
        if name is None:
            self.say(f"dataset {dataset.name} (the newest)")
        return dataset

    def run(self, kind: str, run_id: str | None) -> Run:
        """Return the run of that kind by id, prefix or path, else the newest finished one, and say which."""
        run = self.home.run(kind, run_id)
        if run_id is None:
            self.say(f"{kind} {run.id} (the newest)")
        return run

    def model(self, name: str | None) -> Checkpoint:
        """Return the model named by run or by file, else the newest one, and say which.

        Raises:
            RwmError: There is none of that name, or the file is not a world model.
        """
        from rwmmodel.checkpoint import load_model

        checkpoint = self.home.model(name)
        if name is None:
            self.say(f"model {checkpoint.id} (the newest)")
        if checkpoint.run is None:
            load_model(checkpoint.file)
        return checkpoint

    def fitted(self, name: str | None, checkpoint: Checkpoint) -> Dataset:
        """Return the dataset of that name, else the one a run's model was fitted on, else the newest, and say which."""
        own = checkpoint.parent("dataset")
        if name is None and own is not None:
            self.say(f"dataset {own} (the model was fitted on it)")
        return self.dataset(name or own)

    def policy(self, name: str | None) -> str:
        """Return the policy file named by run or by file (the newest when not named); a behaviour's name as it is."""
        checkpoint = self.home.policy() if name is None else self.home.find_policy(name)
        if name is None and checkpoint:
            self.say(f"policy {checkpoint.id} (the newest)")
        if checkpoint:
            self.say_assumptions(checkpoint)
        return str(checkpoint.file) if checkpoint else str(name)

    def robot_of(self, policy: str) -> dict[str, object]:
        """Return the robot of a policy file as an option; none where it does not say, or is a behaviour's name."""
        from pathlib import Path

        from rwmrl.policy_file import robot_of

        file = Path(policy)
        robot = robot_of(file) if file.is_file() else None
        return {"robot": robot} if robot else {}

    def say_assumptions(self, checkpoint: Checkpoint) -> None:
        """Say what is taken for granted about a policy that was trained elsewhere."""
        from rwmrl.foreign_policy import assumptions

        if checkpoint.run is None and (text := assumptions(checkpoint.file)):
            self.say(f"note: {text}")

    def show_run(self, run: Run, next_command: str) -> None:
        """Print a finished run's key numbers and where it lies."""
        if not FIRST:
            return
        if self.json:
            print_json(run.meta.summary | {"run": run.id, "path": str(run.path)})
            return
        rows = [(k, v) for k, v in run.meta.summary.items() if not isinstance(v, list | dict)]
        print_table(f"{run.kind} {run.id}", ("what", "value"), rows)
        out.print(f"wrote {run.path}")
        say(f"next: {next_command}")


class Command(TyperCommand):
    """A command whose help states the defaults of what it hands its options to."""

    reads: ClassVar[tuple[str, ...]] = ()
    """Configuration classes and functions, ``module:name``; imported when help is shown."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, the defaults looked up; without those of a package that is missing."""
        for place in self.reads:
            with suppress(ImportError, RwmError):
                target = imported(place)
                for param in self.params:
                    if param.default is None and param.name:
                        param.default = _default(target, param.name)
        super().format_help(ctx, formatter)


def imported(place: str) -> Any:
    """Return what ``module:name`` stands for."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _default(target: object, name: str) -> object:
    """Return the default of an option of a configuration class or function; None where there is none to show."""
    from rwmdata.config import Frozen, default_of

    if isinstance(target, type) and issubclass(target, Frozen):
        value = target.default_preset if name == "preset" else default_of(target, name)
    else:
        parameter = inspect.signature(target).parameters.get(name) if callable(target) else None
        value = parameter.default if parameter else None
    if isinstance(value, tuple):
        texts = [f"{part:g}" if isinstance(part, float) else str(part) for part in value]
        return ("; " if any("," in text for text in texts) else ",").join(texts)
    return value if isinstance(value, bool | int | float | str) else None


Body = Callable[..., None]


def command(app: typer.Typer, name: str, *reads: str) -> Callable[[Body], Body]:
    """Make a command of a function: it takes a :class:`Call`, and gets the options ``--home`` and ``--json``.

    Args:
        app: Where the command goes.
        name: Its name.
        reads: Configuration classes and functions that its options go to, ``module:name``; help states their defaults.
    """

    def register(body: Body) -> Body:
        hints = get_type_hints(body, include_extras=True)
        names = {key: _name(key, hint) for key, hint in hints.items()}

        @wraps(body)
        def entry(*, home: str, json_output: bool, **options: Any) -> None:
            from rwmdata.home import Home

            given = {key: value for key, value in options.items() if value not in (None, [], ())}
            refuse_no_numbers(given, names)
            body(Call(Home.resolve(home), json_output, given, names), **options)

        keyword = inspect.Parameter.KEYWORD_ONLY
        own = list(inspect.signature(body).parameters.values())[1:]
        parameters = [
            *(p.replace(kind=keyword, annotation=hints[p.name]) for p in own),
            inspect.Parameter("home", keyword, default=".", annotation=HomeOption),
            inspect.Parameter("json_output", keyword, default=False, annotation=JsonOption),
        ]
        entry.__annotations__ = {p.name: p.annotation for p in parameters}
        entry.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        app.command(name, cls=type("Command", (Command,), {"reads": reads}))(entry)
        return body

    return register


def refuse_no_numbers(given: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Refuse NaN, infinity and whole numbers that no library takes, as an option's value.

    Raises:
        RwmError: There is one.
    """
    for key, value in given.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise RwmError(f"{names[key]} is {number}; a finite number is expected.", f"{names[key]} NUMBER")
            if isinstance(number, int) and abs(number) > LARGEST:
                raise RwmError(f"{names[key]} is {number}; at most {LARGEST} is expected.", f"{names[key]} NUMBER")


def _name(parameter: str, hint: object) -> str:
    """Return what the user calls a parameter of a command: its first option."""
    # The first of an option's names is where its default would be.
    options = [o for o in getattr(hint, "__metadata__", ()) if hasattr(o, "param_decls")]
    names = [name for o in options for name in (o.default, *(o.param_decls or ())) if str(name).startswith("--")]
    return str(names[0]).partition("/")[0] if names else f"--{parameter.replace('_', '-')}"


def print_json(value: Any) -> None:
    """Print one JSON object on standard output; numbers that JSON does not have, NaN and infinities, are null."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, default=str, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_out(text: str) -> None:
    """Write a text of many lines on standard output: as it is into a file or a pipe, as it is shown to a terminal."""
    sys.stdout.write("\n".join(map(shown, text.split("\n"))) if sys.stdout.isatty() else text)


def confirm(question: str) -> None:
    """Ask whether to go on; any other answer than yes ends the command."""
    typer.confirm(shown(question), abort=True, err=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; numbers are right-aligned, floats with four significant digits."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for i, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(r[i], int | float) or r[i] is None for r in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell(v) for v in row))
    out.print(table)


def cell(value: Any) -> str:
    """Return a table cell's text."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
