"""``rwm demo``: the whole chain at laptop size, then one table that says what was made."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.common import Call, DeviceOption, SeedOption, print_json, print_table, say


def demo(
    call: Call,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A tiny version that only shows that everything runs.")
    ] = False,
    seed: SeedOption = None,
    device: DeviceOption = None,
) -> None:
    """Export, validate, fit, train a policy in imagination, evaluate and report, at laptop size."""
    from reports.demo import SMOKE, Demo, DemoConfig

    config = call.config(DemoConfig, "smoke", over=SMOKE if smoke else None)
    stages = Demo(call.home, config, call.progress).run()
    total = sum(s.seconds for s in stages)
    if call.json:
        print_json({"seconds": total, "stages": [vars(s) for s in stages]})
        return
    rows = [(s.name, s.made, s.key_number, f"{s.seconds:.0f} s", str(s.path)) for s in stages]
    print_table(f"made in {total:.0f} s", ("stage", "made", "key number", "time", "where"), rows)
    say('next: rwm runs ls, rwm sql "select * from runs", rwm policy --lam 0')
