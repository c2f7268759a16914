"""Every shell script is clean, and the page about them names nothing that does not exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHELLCHECK = Path(sys.executable).parent / "shellcheck"
FOLDER = REPOSITORY / "ondemand"
SCRIPTS = [*FOLDER.glob("*.sh"), *FOLDER.glob("*.slurm"), *(path for path in [REPOSITORY / ".ci/run"] if path.exists())]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
    result = subprocess.run([SHELLCHECK, "-s", "bash", script], capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stdout


def test_shellcheck_on_the_images_sections():
    text = (FOLDER / "llmhw.def").read_text()
    for name in ("post", "test", "environment", "runscript"):
        body = re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", text, re.MULTILINE | re.DOTALL)[1]
        command = [SHELLCHECK, "-s", "sh", "--exclude=SC1091", "-"]  # the venv's activate is not here to be read
        result = subprocess.run(command, input=body, capture_output=True, text=True, timeout=30)
        assert result.returncode == 0, f"%{name}\n{result.stdout}"


def test_scripts_that_are_called_by_name_are_executable():
    assert all(path.stat().st_mode & 0o111 for path in FOLDER.glob("*.sh"))


def test_page_names_files_and_options_that_exist():
    page = (FOLDER / "README.md").read_text()
    named = set(re.findall(r"ondemand/[\w.-]+", page)) - {"ondemand/results"}
    assert {"ondemand/install.sh", "ondemand/nbval.slurm", "ondemand/llmhw.def"} <= named
    assert [name for name in named if not (REPOSITORY / name.rstrip(".")).exists()] == []
    usage = subprocess.run([FOLDER / "install.sh", "--help"], capture_output=True, text=True, timeout=10).stdout
    installs = [line for line in page.splitlines() if line.startswith("ondemand/install.sh")]
    options = {word for line in installs for word in line.split() if word.startswith("--")}
    assert options == {"--project", "--image", "--modules"}
    assert all(option in usage for option in options)
