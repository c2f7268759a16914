"""Storage: no name twice, rates of a plausible size, the quota that the portal's script also says."""

from pathlib import Path

import pytest

from llmhw_helpers.specs.figures import UnknownName
from llmhw_helpers.specs.storage import HOME_QUOTA, STORAGE, storage


def test_rates():
    assert all(5e7 < each.bytes_per_s.known() < 1e12 for each in STORAGE.values())
    assert storage("weka, one client").shared
    assert not storage("one NVMe disk").shared


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(UnknownName, match="did you mean one NVMe disk"):
        storage("one NVM disk")


def test_the_quota_is_the_one_of_the_portals_script():
    text = (Path(__file__).parents[2] / "ondemand" / "llmhw.sh").read_text()
    gib, files = HOME_QUOTA["bytes"].known() / 2**30, int(HOME_QUOTA["files"].known())
    assert f"{gib:.0f} GiB and {files:,} files" in text
