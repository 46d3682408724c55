"""The look of the figures: formats, and colours that stay apart for every eye."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from reports.figures import BLUE, GREEN, GREY, ORANGE, figure
from rwmdata.errors import RwmError

PALETTE = {"blue": BLUE, "orange": ORANGE, "green": GREEN, "grey": GREY}
# Full dichromacy in linear RGB, Machado, Oliveira and Fernandes 2009, severity 1.0.
DICHROMACY = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour):
    """A colour ``#rrggbb`` in linear RGB, by the sRGB transfer function."""
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """Linear RGB as CIE L*a*b* under D65; distances of about 2 are just seen."""
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / TO_XYZ.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eye", DICHROMACY)
def test_every_two_colours_stay_apart(eye):
    seen = {name: lab(np.array(DICHROMACY[eye]) @ linear(colour)) for name, colour in PALETTE.items()}
    distance = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in combinations(seen, 2)}
    assert min(distance.values()) > 15, distance


@pytest.mark.parametrize("colour", PALETTE.values(), ids=PALETTE)
def test_every_colour_is_a_line_one_sees_on_white(colour):
    """Contrast of at least 3 : 1, what WCAG 2 asks of graphics."""
    assert 1.05 / (float(TO_XYZ[1] @ linear(colour)) + 0.05) >= 3


def draw(path):
    with figure(path) as axes:
        axes[0, 0].plot([0, 1], [0, 1], color=BLUE)
    return {p.name: p.read_bytes() for p in path.parent.iterdir()}


def test_a_figure_is_a_png_and_on_request_a_vector_pdf_too(tmp_path, monkeypatch):
    assert set(draw(tmp_path / "a" / "line.png")) == {"line.png"}
    monkeypatch.setenv("RWM_FIGURES", "pdf")
    found = draw(tmp_path / "b" / "line.png")
    assert found["line.pdf"].startswith(b"%PDF") and b"/Subtype /Image" not in found["line.pdf"]
    assert found["line.png"].startswith(b"\x89PNG")
    assert draw(tmp_path / "c" / "line.png") == found


def test_an_unknown_format_is_refused_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("RWM_FIGURES", "pdf,webp")
    with pytest.raises(RwmError, match="RWM_FIGURES names webp; formats: png, pdf"):
        draw(tmp_path / "line.png")
    assert not list(tmp_path.iterdir())
