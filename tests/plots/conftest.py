"""Figures are closed after each test, and none is shown."""

import pytest
from matplotlib import pyplot


@pytest.fixture(autouse=True)
def _closed(monkeypatch):
    monkeypatch.setattr(pyplot, "show", lambda *_, **__: pytest.fail("a figure was shown"))
    yield
    pyplot.close("all")
