from __future__ import annotations

import numpy as np
import pytest

from reports.evaluate.data_stats import column_statistics, draw_histograms, sparkline
from rwmdata.episodes import Episode
from rwmdata.writer import DatasetWriter


@pytest.fixture
def dataset(home, schema):
    rows = np.random.default_rng(0).normal(size=(5000, schema.width)).astype(np.float32)
    rows[:, 1] = 3.0
    rows[0, 0] = 1e6
    rows[:, schema.contact.start :] = 0
    with DatasetWriter(home.data_dir, "set", "anymal_d", schema, 50.0, {}) as writer:
        writer.append(Episode(rows, truncated=True))
        return writer.commit()


def test_one_outlier_does_not_flatten_a_histogram_and_a_constant_column_has_one(dataset):
    first, constant, normal = column_statistics(dataset)[:3]
    assert first["max"] == 1e6 and first["q999"] < 5 and first["outside"] >= 1
    assert sum(first["counts"]) + first["outside"] == 5000 and max(first["counts"]) < 1000
    assert max(constant["counts"]) == 5000 and constant["median"] == 3.0
    assert normal["median"] == pytest.approx(0, abs=0.1) and normal["q001"] == pytest.approx(-3.09, abs=0.4)


def test_a_line_of_text_shows_the_shape():
    assert sparkline([0, 1, 2, 4], 4) == " ▂▄█"
    assert sparkline([0] * 40) == " " * 20


def test_every_group_is_drawn(dataset, tmp_path):
    files = draw_histograms(tmp_path / "new" / "folder", dataset, column_statistics(dataset))
    assert len(files) == 9 and all(f.stat().st_size > 5000 for f in files)
