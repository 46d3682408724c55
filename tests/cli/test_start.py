"""Started in a folder of somebody else, the toolkit runs its own code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", ["cli", "cli.main"])
@pytest.mark.parametrize("package", ["reports", "rwmdata"])
def test_a_package_of_the_same_name_in_the_current_folder_is_not_imported(tmp_path, module, package):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("print('not ours')")
    command = [sys.executable, "-m", module, "data", "ls"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "not ours" not in done.stdout + done.stderr
    assert f"{package}/__init__.py' would be imported in place of" in done.stderr and "try:" in done.stderr
