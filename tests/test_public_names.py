from __future__ import annotations

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["rwmdata", "rwmmodel", "rwmrl", "reports"])
def test_every_public_name_can_be_imported_from_its_package(package):
    module = importlib.import_module(package)
    assert module.__all__
    for name in module.__all__:
        found = getattr(module, name)
        assert getattr(found, "__module__", package).startswith((package, "typing"))
    with pytest.raises(AttributeError):
        _ = module.no_such_name


def test_rwmdata_and_the_help_text_load_no_torch():
    code = "import sys, cli.main, rwmdata; sys.exit('torch' in sys.modules or 'mujoco' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
