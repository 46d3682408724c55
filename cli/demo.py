"""``rwm demo``: the whole chain at laptop size, then one table that says what was made."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.common import (
    DeviceOption,
    HomeOption,
    JsonOption,
    SeedOption,
    home_of,
    print_json,
    print_table,
    progress_bar,
    say,
)


def demo(
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A tiny version that only shows that everything runs.")
    ] = False,
    home: HomeOption = ".",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Export, validate, fit, train a policy in imagination, evaluate and report, at laptop size."""
    from reports.demo import SMOKE, Demo, DemoConfig

    size: dict[str, Any] = SMOKE if smoke else {}
    config = DemoConfig(**size, seed=seed, device=device)
    stages = Demo(home_of(home), config, lambda name: progress_bar(name, json_output)).run()
    total = sum(s.seconds for s in stages)
    if json_output:
        print_json({"seconds": total, "stages": [vars(s) for s in stages]})
        return
    rows = [(s.name, s.made, s.key_number, f"{s.seconds:.0f} s", str(s.path)) for s in stages]
    print_table(f"made in {total:.0f} s", ("stage", "made", "key number", "time", "where"), rows)
    say('next: rwm runs ls, rwm sql "select * from runs", rwm policy --lam 0')
