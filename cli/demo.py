"""``rwm demo``: from recordings to a robot that walks, then one table that says what was made."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.common import Call, DeviceOption, SeedOption, print_json, print_table, say


def demo(
    call: Call,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Simulate the rows and fit a model to them, with nothing shipped.")
    ] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A tiny version that only shows that everything runs.")
    ] = False,
    seed: SeedOption = None,
    device: DeviceOption = None,
) -> None:
    """Recordings in, a robot that walks out: convert, go on with a shipped model, train in it, score, film, report."""
    from reports.demo.chain import StageResult

    beside = ("smoke", "from_scratch")
    if from_scratch:
        from reports.demo import from_scratch as scratch

        options = call.config(scratch.FromScratchConfig, *beside, over=scratch.SMOKE if smoke else None)
        stages: list[StageResult] = scratch.FromScratch(call.home, options, call.progress).run()
    else:
        from reports.demo import walking

        config = call.config(walking.WalkingConfig, *beside, over=walking.TINY if smoke else None)
        stages = walking.Walking(call.home, config, call.progress).run()
    total = sum(s.seconds for s in stages)
    if call.json:
        print_json({"seconds": total, "stages": [vars(s) for s in stages]})
        return
    rows = [(s.name, s.made, s.key_number, f"{s.seconds:.0f} s", str(s.path)) for s in stages]
    print_table(f"made in {total:.0f} s", ("stage", "made", "key number", "time", "where"), rows)
    say(f"open {stages[-1].path}")
    say('next: rwm runs ls, rwm sql "select * from runs", rwm policy --lam 0')
