"""Memory of known sizes, seen from outside torch and NumPy."""

import pytest

from llmhw_helpers.measure.processes import added_bytes

MEGABYTES = 1e6


@pytest.mark.parametrize("size", [50, 200])
def test_it_sees_what_an_array_takes(size):
    found = added_bytes("import numpy", f"numpy.ones({size} * 125_000)")
    assert found == pytest.approx(size * MEGABYTES, rel=0.05)


def test_it_sees_what_was_there_for_a_moment():
    """300 MB are alive together; what stays is 100."""
    run = "numpy.add(numpy.ones(12_500_000), numpy.ones(12_500_000))"
    assert added_bytes("import numpy", run) == pytest.approx(300 * MEGABYTES, rel=0.05)


def test_what_the_setup_took_does_not_count():
    found = added_bytes("import numpy\nthere = numpy.ones(25_000_000)", "there.sum()")
    assert found < 20 * MEGABYTES


def test_a_failure_says_why():
    with pytest.raises(RuntimeError, match="the measured code failed: ZeroDivisionError: division by zero"):
        added_bytes("", "1 / 0")
