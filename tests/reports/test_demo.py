"""``rwm demo``: both chains at a tiny size, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rwmdata.runs import Run


@pytest.mark.parametrize("words", [(), ("--from-scratch",)])
def test_every_stage_leaves_what_it_says(rwm, words):
    printed = json.loads(rwm("demo", "--smoke", *words, "--json"))
    stages = {stage["name"]: stage for stage in printed["stages"]}
    assert all(Path(stage["path"]).exists() for stage in stages.values())
    page = Path(stages["report"]["path"])
    assert page.suffix == ".html" and printed["seconds"] == pytest.approx(sum(s["seconds"] for s in stages.values()))
    if not words:
        model = Run.open(Path(stages["fit"]["path"]))
        assert model.meta.config["warm_start"].partition("#")[0].endswith("assets/models/anymal_d/shipped.safetensors")
        assert Path(stages["twin"]["path"]).read_bytes()[:3] == b"GIF"
        assert stages["score"]["key_number"].count("do not fall") == 2
