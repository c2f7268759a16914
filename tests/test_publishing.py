"""What a publisher and a reader from elsewhere ask of the folder: how to cite it, which version it is, what changed."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import llmhw_helpers

ROOT = Path(__file__).parents[1]
# All that the Citation File Format 1.2.0 knows at the top of a file, and what it demands there.
KNOWN = set(
    "abstract authors cff-version commit contact date-released doi identifiers keywords license license-url message "
    "preferred-citation references repository repository-artifact repository-code title type url version".split()
)
NEEDED = {"authors", "cff-version", "message", "title"}


@pytest.fixture
def citation() -> dict:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


@pytest.fixture
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_citation_is_what_its_format_allows(citation):
    """https://github.com/citation-file-format/citation-file-format, schema-guide.md of 1.2.0."""
    assert set(citation) >= NEEDED
    assert set(citation) <= KNOWN
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] in {"software", "dataset"}
    assert all(author.get("name") or author.get("family-names") for author in citation["authors"])
    for key in ("message", "title", "version", "abstract"):
        assert isinstance(citation[key], str), f"{key} has to be text, in quotation marks where it looks like a number"
    assert len(citation["keywords"]) == len(set(citation["keywords"]))


def test_the_citation_says_what_the_course_says_elsewhere(citation, project):
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert citation["title"] == config["title"]
    assert citation["title"] in project["description"]
    assert " AND ".join(citation["license"]) == project["license"]
    assert citation["version"] == llmhw_helpers.__version__
