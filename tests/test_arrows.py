"""The house rule: a package imports only itself and packages to its right."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("cli", "reports", "rwmrl", "rwmmodel", "rwmdata")
ONLY_IN = {
    "torch": ("rwmmodel", "rwmrl", "reports", "cli"),
    "rsl_rl": ("rwmrl/ppo.py",),
    "tensordict": ("rwmrl/ppo.py",),
    "mujoco": ("rwmrl/envs", "rwmrl/backends.py"),
}


def imported(path: Path) -> set[str]:
    """Return the top-level names a module imports anywhere, functions and type checking included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def modules() -> list[Path]:
    return [p for package in ORDER for p in sorted((ROOT / package).rglob("*.py"))]


def wrong_arrows(path: Path, names: set[str]) -> list[str]:
    relative = path.relative_to(ROOT).as_posix()
    to_the_left = ORDER[: ORDER.index(relative.split("/")[0])]
    wrong = [f"{relative} imports {name}, which lies to its left" for name in names & set(to_the_left)]
    for name, places in ONLY_IN.items():
        if name in names and not relative.startswith(places):
            wrong.append(f"{relative} imports {name}, allowed only in {', '.join(places)}")
    return wrong


def test_every_import_points_to_the_right():
    assert modules()
    assert [w for path in modules() for w in wrong_arrows(path, imported(path))] == []


@pytest.mark.parametrize(
    ("module", "names"), [("rwmdata/x.py", {"torch"}), ("rwmmodel/x.py", {"rwmrl"}), ("rwmrl/x.py", {"rsl_rl"})]
)
def test_a_wrong_arrow_is_seen(module, names):
    assert len(wrong_arrows(ROOT / module, names)) == 1


def test_files_stay_readable():
    """A module over 400 lines has lost its one subject."""
    assert [f"{p.relative_to(ROOT)}" for p in modules() if len(p.read_text().splitlines()) > 400] == []
