"""The list of slow cases: of tests that exist, and none of them left out as a whole."""

from pathlib import Path

from tests.conftest import slow_cases

ROOT = Path(__file__).parents[1]


def test_listed_cases_are_of_tests_that_exist():
    listed = slow_cases()
    assert len(listed) > 100
    for name in listed:
        file, _, case = name.partition("::")
        function = case.partition("[")[0]
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), name


def test_listed_cases_have_the_mark(request):
    """So that `-m` chooses by it; every case here is one of parameters, whose test has others."""
    assert all("[" in name for name in slow_cases())
    chosen = {item.nodeid: item for item in request.session.items}
    if request.config.option.markexpr == "not slow":
        assert not slow_cases() & set(chosen)
    for name in slow_cases() & set(chosen):
        assert chosen[name].get_closest_marker("slow")
