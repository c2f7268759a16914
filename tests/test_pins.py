"""pyproject.toml, the two requirements files and environment.yml say the same; so do README and Makefile."""

import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SEVEN = {"jupyterlab", "nbval", "torch", "numpy", "matplotlib", "ipywidgets", "jupyter-book"}


def requirements(lines: list[str]) -> dict[str, Requirement]:
    """Name to requirement, of those that hold on this system: Triton is for Linux alone."""
    stripped = [line.split("#")[0].strip() for line in lines]
    found = {canonicalize_name(r.name): r for r in map(Requirement, filter(None, stripped))}
    return {name: r for name, r in found.items() if r.marker is None or r.marker.evaluate()}


def pins(file: str = "requirements-test.txt") -> dict[str, str]:
    """Name to version; of a package pinned twice by Python version, the one for this Python."""
    found = {}
    for line in (ROOT / file).read_text().splitlines():
        line = line.split("#")[0].strip()
        if line and ((r := Requirement(line)).marker is None or r.marker.evaluate()):
            (spec,) = r.specifier
            assert spec.operator == "=="
            found[canonicalize_name(r.name)] = spec.version
    return found


def declared(*extras: str) -> dict[str, Requirement]:
    """What the package and these extras name; all of them without."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    return requirements([*project["dependencies"], *chain(*(optional[each] for each in extras or optional))])


def test_every_range_of_the_package_holds_its_pin():
    for name, requirement in declared().items():
        assert requirement.specifier.contains(pins()[name]), name


def test_what_is_exact_is_pinned_to_that():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    for name, requirement in requirements(tool["uv"]["constraint-dependencies"]).items():
        assert requirement.specifier.contains(pins()[name]), name


def test_the_lab_has_what_the_notebooks_need_and_no_more():
    """The same versions as the tests', so that these add and never replace."""
    lab = pins("requirements.txt")
    assert set(declared("server", "lab")) <= set(lab)
    assert lab.items() <= pins().items()
    assert not set(lab) & {"triton", "playwright", "transformers", "peft", "jupyter-book", "nbval", "pytest", "ruff"}


@pytest.mark.parametrize("kind", ["", "-test"])
def test_every_pin_but_torchs_has_hashes_and_no_other(kind):
    """With the model, which a reader of notebooks needs and whose own dependencies nobody does."""
    hashed = {}
    for entry in (ROOT / f"hashes{kind}.txt").read_text().replace("\\\n", " ").splitlines():
        if entry and not entry.startswith("#"):
            pin, *hashes = re.split(r"\s+--hash=", entry)
            assert hashes, pin
            assert all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in hashes), pin
            hashed[pin.strip()] = hashes
    lines = [line.split("#")[0].strip() for line in (ROOT / f"requirements{kind}.txt").read_text().splitlines()]
    (model,) = re.findall(r"^MODEL\s*:=\s*(\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    expected = {line for line in lines if line and not line.startswith("torch==")} | ({model} if not kind else set())
    assert set(hashed) == expected


def test_torch_is_pinned_without_a_build():
    for file in ("requirements.txt", "requirements-test.txt"):
        assert re.search(r"^torch==2\.13\.0( |$)", (ROOT / file).read_text(), re.MULTILINE)
        assert "+cpu" not in (ROOT / file).read_text()


def test_triton_is_the_one_that_a_cuda_build_of_torch_asks_for():
    """A CPU build says nothing of it in its metadata, so there the pin alone is held."""
    from importlib.metadata import requires

    asked = [r for r in map(Requirement, requires("torch")) if r.name == "triton"]
    assert all(r.specifier.contains("3.7.1") for r in asked)
    assert pins().get("triton", "3.7.1") == "3.7.1"


def test_conda_names_the_seven_with_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert conda == ["python>=3.11", "pip"]
    named = requirements([line for line in pip["pip"] if not line.startswith("-")])
    assert set(named) == SEVEN
    assert {name: str(r.specifier) for name, r in named.items()} == {name: f"=={pins()[name]}" for name in SEVEN}
    assert "-r requirements-test.txt" in pip["pip"]


def test_pins_are_what_is_installed_here():
    from importlib.metadata import version

    assert version("torch").split("+")[0] == pins()["torch"]
    assert version("nbval") == pins()["nbval"]


def test_no_file_names_a_registry():
    hosts = ("pypi" + ".org", "pythonhosted" + ".org", "download.pytorch" + ".org", "registry.npmjs" + ".org")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for file in listed.stdout.splitlines():
        text = (ROOT / file).read_text(errors="ignore") if (ROOT / file).is_file() else ""
        assert not [host for host in hosts if host in text], file


@pytest.fixture
def readme() -> str:
    return (ROOT / "README.md").read_text()


def make_dry_run(target: str) -> list[str]:
    run = subprocess.run(
        ["make", "--dry-run", "--always-make", target, "VENV=.venv", "LAB="],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.replace("-qq ", "").strip() for line in run.stdout.splitlines()]


def test_the_readmes_plain_commands_are_what_make_runs(readme):
    """Without make: set-up, then lab and test; each line stands in make's own recipe."""
    plain = "".join(re.findall(r"```bash\n(.*?)```", readme.split("<!-- plain commands -->")[1], re.DOTALL))
    commands = [line.split("#")[0].strip() for line in plain.splitlines() if line.strip()]
    recipes = make_dry_run("lab") + make_dry_run("test")
    missing = [command for command in commands if command not in recipes]
    assert not missing


def test_the_readme_names_the_two_commands_and_every_file_it_links_is_there(readme):
    assert "make lab" in readme
    assert "make test" in readme
    linked = re.findall(r"\]\(([^)#:]+)\)", readme)
    assert len(linked) >= 4
    assert [link for link in linked if not (ROOT / link).exists()] == []
