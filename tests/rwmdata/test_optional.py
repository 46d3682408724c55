from __future__ import annotations

import pytest

from rwmdata.errors import RwmError
from rwmdata.optional import optional_import


def test_a_missing_package_is_reported_with_the_extra_that_installs_it():
    with pytest.raises(RwmError) as error, optional_import("X needs the package y", extra="z", advice=", soon"):
        import no_such_package  # noqa: F401
    assert error.value.message == "X needs the package y: No module named 'no_such_package'."
    assert error.value.hint == "pip install 'rwm[z]', soon"
