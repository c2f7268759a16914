import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def notebooks():
    """Names of the notebooks that exist."""
    return sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.fixture(scope="session")
def course_map():
    """First cells of the course map on the book's first page, by notebook name."""
    section = (ROOT / "book/intro.md").read_text().split("## The course map")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (\[?\d\d_[^|]*?) \|", section, re.MULTILINE)
    return {re.search(r"\d\d_\w+", cell)[0]: cell for cell in cells}
