"""``rwm report``: one page that shows how far a model or policy can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import Call, out, print_json, say
from rwmdata.errors import RwmError


def report(
    call: Call,
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Model, policy, training or evaluation runs; the newest model or policy when left out."),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Put two runs side by side.")] = False,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write the page there; else into a run of its own.")
    ] = None,
) -> None:
    """Write one self-contained HTML page: lineage, key numbers, figures, learning curves, commands."""
    from reports.page.compare import build_comparison
    from reports.page.report import build_report

    names = runs or []
    if compare and len(names) != 2:
        raise RwmError(f"--compare takes two runs, {len(names)} were named.", "rwm report --compare A B")
    if compare:
        page = build_comparison(call.home, names[0], names[1], out_file)
    else:
        page = build_report(call.home, names, out_file)
    if call.json:
        print_json(page)
        return
    for notice in page["missing"]:
        say(notice["text"] + (f" Try: {notice['command']}" if notice["command"] else ""))
    out.print(f"wrote {page['page']}")
