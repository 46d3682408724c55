from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from importlib import resources

import pytest


@pytest.mark.parametrize("package", ["rwmdata", "rwmmodel", "rwmrl", "reports"])
def test_every_public_name_can_be_imported_from_its_package(package):
    module = importlib.import_module(package)
    assert module.__all__
    for name in module.__all__:
        found = getattr(module, name)
        assert getattr(found, "__module__", package).startswith((package, "typing"))
    # A module imported later becomes an attribute of its package and would hide what is looked up by name.
    lazy = set(getattr(module, "_WHERE", {}))
    assert not {m.name for m in pkgutil.iter_modules(module.__path__)} & lazy
    with pytest.raises(AttributeError):
        _ = module.no_such_name


@pytest.mark.parametrize("package", ["rwmdata", "rwmmodel", "rwmrl", "reports", "cli"])
def test_type_checkers_are_told_to_read_a_package(package):
    assert resources.files(package).joinpath("py.typed").is_file()


def test_every_evaluation_is_a_public_function():
    import reports

    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(reports.__path__, "reports.")]
    found = {n for m in modules for n, o in vars(m).items() if n.startswith("evaluate_") and callable(o)}
    assert "evaluate_dynamics" in found
    assert found <= set(reports.__all__)


SLOW = ("torch", "mujoco", "numpy", "polars", "pyarrow", "duckdb", "pydantic", "matplotlib")
"""Packages that take longer to load than the help text to show."""


def test_the_help_text_loads_no_large_package():
    code = f"import sys, cli.main, rwmdata; sys.exit(', '.join(sys.modules.keys() & set({SLOW})))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr == "\n"


def test_rwmdata_loads_no_torch():
    code = "import sys; from rwmdata import *; sys.exit('torch' in sys.modules or 'mujoco' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_validate_stays_the_function_when_its_module_was_imported():
    module = importlib.import_module("rwmdata.validate")
    assert importlib.import_module("rwmdata").validate is module.validate
