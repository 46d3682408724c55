"""The house rule: a package imports only itself and packages to its right."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("cli", "reports", "rwmrl", "rwmmodel", "rwmdata")
ONLY_IN = {
    "torch": ("rwmmodel", "rwmrl", "reports", "cli"),
    "rsl_rl": ("rwmrl/ppo.py", "rwmrl/run_logger.py"),
    "tensordict": ("rwmrl/rsl_config.py", "rwmrl/rsl_env.py"),
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


def module_name(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


def imported_modules(source: str, known: set[str]) -> set[str]:
    """Return the modules of ours that a source imports, functions and type checking included.

    ``from package import module`` imports the module; a package whose module is imported does not count as imported
    itself, because its ``__init__`` only passes names on.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inside & known or {node.module}
    return names & known


def import_cycle(imports: dict[str, set[str]]) -> list[str]:
    """Return modules each of which imports the next and the last the first; empty when there are none."""
    finished: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return trail[trail.index(module) :]
        if module in finished:
            return []
        for other in sorted(imports[module]):
            if cycle := visit(other, [*trail, module]):
                return cycle
        finished.add(module)
        return []

    return next((cycle for module in sorted(imports) if (cycle := visit(module, []))), [])


def test_modules_do_not_import_each_other_in_a_circle():
    sources = {module_name(path): path.read_text() for path in modules()}
    imports = {name: imported_modules(source, set(sources)) - {name} for name, source in sources.items()}
    assert sum(map(len, imports.values())) > 300
    assert import_cycle(imports) == []


def test_a_circle_is_seen_inside_functions_and_under_type_checking():
    sources = {
        "p.a": "from p import b",
        "p.b": "def f():\n    import p.c",
        "p.c": "if TYPE_CHECKING:\n    from p.a import A",
        "p.d": "import p.a",
    }
    assert import_cycle({name: imported_modules(source, set(sources)) for name, source in sources.items()}) == [
        "p.a",
        "p.b",
        "p.c",
    ]
