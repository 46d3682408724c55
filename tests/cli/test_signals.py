"""A command that is told to end cleans up, says so, and exits as the signal wants."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from rwmdata.fsck import check_home


def test_an_export_that_gets_sigterm_leaves_nothing_and_says_so(home):
    command = [
        "data",
        "export",
        "--transitions",
        "10000000",
        "--num-envs",
        "8",
        "--name",
        "d",
        "--home",
        str(home.root),
    ]
    process = subprocess.Popen([sys.executable, "-m", "cli", *command], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 100
    while not list(home.data_dir.glob(".tmp-*")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM and "interrupted by SIGTERM" in said and "Traceback" not in said
    assert list(home.data_dir.iterdir()) == [] and check_home(home) == []
