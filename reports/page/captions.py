"""The question each evaluation answers, and the captions of its figures; the texts lie in ``captions.yaml``."""

from __future__ import annotations

from pathlib import Path

import yaml

from rwmdata.config import Frozen


class About(Frozen):
    """Title of an evaluation or a figure, and what it asks or shows."""

    title: str
    text: str = ""


class _Captions(Frozen):
    evaluations: dict[str, About]
    figures: dict[str, About]


_CAPTIONS = _Captions.model_validate(yaml.safe_load(Path(__file__).with_name("captions.yaml").read_text()))
EVALUATIONS = tuple(_CAPTIONS.evaluations)
"""Names of the evaluations in the order of the page."""


def about_evaluation(name: str) -> About:
    """Return what an evaluation asks; one without a text stands under its own name."""
    return _CAPTIONS.evaluations.get(name, About(title=_readable(name)))


def about_figure(stem: str) -> About:
    """Return what one sees on a figure; one without a text is named by its file."""
    return _CAPTIONS.figures.get(stem, About(title=_readable(stem), text=f"Figure {stem}.png of this evaluation."))


def _readable(name: str) -> str:
    words = name.replace("_", " ").replace("-", " ")
    return words[:1].upper() + words[1:]
