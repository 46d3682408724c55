"""Two hosts share a home: what one builds, the other leaves alone; nothing is lost, and what is read is whole.

A host is a PID namespace where the kernel allows one, else a process group under a host name of its own.
``RWM_DRILL=50`` takes two minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rwmdata.atomic import TMP_MARK
from rwmdata.fsck import check_home
from tests.drill.hosts import FAKE, ROLES

SECONDS = 2.4 * float(os.environ.get("RWM_DRILL", "0.5"))
NAMESPACE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")
ROOT = Path(__file__).parents[2]


def namespaces_allowed() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize("kind", ["namespace", "name"])
def test_two_hosts_at_one_home_lose_nothing(home, tmp_path, kind):
    if (kind == "namespace") != namespaces_allowed():
        pytest.skip("the kernel allows PID namespaces" if kind == "name" else "the kernel allows no PID namespaces")
    home.data_dir.mkdir(parents=True)
    hosts = []
    for label in ("a", "b"):
        command = [sys.executable, "-m", "tests.drill.hosts", str(home.root), label, str(SECONDS)]
        environment = {k: v for k, v in os.environ.items() if k != FAKE} | {"PYTHONPATH": str(ROOT)}
        if kind == "name":
            environment[FAKE] = f"host-{label}"
        prefix = NAMESPACE if kind == "namespace" else ()
        hosts.append(subprocess.Popen([*prefix, *command], cwd=ROOT, env=environment))
    assert [host.wait(SECONDS + 120) for host in hosts] == [0, 0]
    said = {(label, role): json.loads((tmp_path / f"{label}.{role}.json").read_text())
            for label in ("a", "b") for role in ROLES}  # fmt: skip
    assert not [(who, what["fault"]) for who, what in said.items() if what["fault"]]
    counts = sum((Counter(what["counts"]) for what in said.values()), Counter())
    assert min(counts[what] for what in ("exports", "kills", "looks", "reads")) > 0, counts
    assert check_home(home) == [] and not list(home.root.rglob(f"{TMP_MARK}*"))
    if table := os.environ.get("RWM_DRILL_TABLE"):
        with open(table, "a") as lines:
            lines.write(f"two hosts ({kind}), {SECONDS:.0f} s: {dict(counts)}\n")
