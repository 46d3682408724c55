"""``rwm doctor``: what this machine can run."""

from __future__ import annotations

from dataclasses import asdict

import typer

from cli.common import Call, print_json, print_table


def doctor(call: Call) -> None:
    """Say what this machine can run, why not the rest, and what to install; exit code 1 without any simulator."""
    from rwmrl.doctor import diagnose

    findings = diagnose()
    if call.json:
        print_json({"findings": [asdict(f) for f in findings]})
    else:
        rows = [(f.topic, f.name, "yes" if f.ok else "no", f.found, f.needed_for, f.hint) for f in findings]
        print_table("this machine", ("", "what", "usable", "found", "needed for", "how to get it"), rows)
    if not any(f.ok for f in findings if f.topic == "simulator"):
        raise typer.Exit(1)
