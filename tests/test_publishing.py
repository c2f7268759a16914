"""What a publisher and a reader from elsewhere ask of the folder: how to cite it, which version it is, what changed."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from setuptools.config.pyprojecttoml import read_configuration

import llmhw_helpers

ROOT = Path(__file__).parents[1]
# All that the Citation File Format 1.2.0 knows at the top of a file, and what it demands there.
KNOWN = {
    "abstract",
    "authors",
    "cff-version",
    "commit",
    "contact",
    "date-released",
    "doi",
    "identifiers",
    "keywords",
    "license",
    "license-url",
    "message",
    "preferred-citation",
    "references",
    "repository",
    "repository-artifact",
    "repository-code",
    "title",
    "type",
    "url",
    "version",
}
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
    assert "license" not in citation or citation["license"] == project["license"]


def test_the_version_is_written_once_and_setuptools_finds_it(project, citation):
    assert project["dynamic"] == ["version"]
    read = read_configuration(ROOT / "pyproject.toml", expand=True)["project"]["version"]
    assert read == llmhw_helpers.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == read
    assert citation["version"] == read


def test_the_repositorys_address_is_the_same_everywhere_or_nowhere(project, citation):
    address = project["urls"].get("Repository")
    assert citation.get("repository-code") == address, f"CITATION.cff has to say: repository-code: {address}"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not address or address in readme, f"README.md has to say where the course is: git clone {address}"


def test_the_changelog_names_every_notebook():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\*\*(\d\d_\w+)\*\*", changes)) == {
        path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")
    }
