"""Facts and predictions on an Arm processor: `specs` and `costs` under qemu, which plays another processor.

They need the standard library alone, so that Debian's Python for aarch64 is enough: it is unpacked into a folder, and
nothing is installed. pytest comes from this environment, where it is plain Python. Where qemu or Debian's packages are
missing, one line says so.
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ["specs", "costs"]
PLAIN = {*sys.stdlib_module_names, "pytest", "llmhw_helpers"} - {
    "subprocess"
}  # qemu starts one program, not its children
START = """
import platform, sys
sys.path[:0] = sys.argv.pop(1).split(":")
import pytest
print(f"Python {platform.python_version()} on {platform.machine()}", flush=True)
sys.exit(pytest.main(sys.argv[1:]))
"""


def fetch(folder: Path) -> Path:
    """Unpack Debian's Python for aarch64 into `folder`, with a package list of its own; the interpreter."""
    state, root = folder / "state", folder / "root"
    for each in (state / "lists/partial", state / "cache/archives/partial", root):
        each.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    here = {
        "State": state,
        "State::lists": state / "lists",
        "State::status": state / "status",
        "Cache": state / "cache",
    }
    options = [f"-oDir::{name}={value}" for name, value in here.items()]
    options += ["-oAPT::Architecture=arm64", "-oAPT::Architectures::=arm64", "-oAPT::Sandbox::User="]
    for what in (["update"], ["install", "-y", "--no-install-recommends", "--download-only", "python3"]):
        subprocess.run(["apt-get", "-qq", *options, *what], check=True, stdout=subprocess.DEVNULL)
    for package in (state / "cache/archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, root], check=True)
    return (root / "usr/bin/python3").resolve()


def functions(path: Path) -> list[ast.FunctionDef]:
    """Those of a file."""
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


def plain(path: Path) -> bool:
    """Whether a test needs nothing but the standard library, pytest and these rooms."""
    conftest = path.with_name("conftest.py")  # which needs torch, the oracle
    fixtures = {each.name for each in functions(conftest) if each.decorator_list} if conftest.exists() else set()
    asked = {each.arg for function in functions(path) for each in function.args.args}
    if asked & fixtures:
        return False
    for node in ast.walk(ast.parse(path.read_text())):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        for name in names:
            package, _, rest = name.partition(".")
            if package not in PLAIN or (package == "llmhw_helpers" and rest and rest.split(".")[0] not in ROOMS):
                return False
    return True


def main() -> int:
    """Run what can be; pytest's status, or 0 with a line where this machine cannot play an Arm one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = parser.parse_known_args()[1]
    missing = [name for name in ("qemu-aarch64-static", "apt-get", "dpkg-deb") if shutil.which(name) is None]
    if missing:
        print(f"on Arm: skipped, as there is no {' and no '.join(missing)} here (Debian: apt install qemu-user-static)")
        return 0
    tests = [path for room in ROOMS for path in sorted((ROOT / "tests" / room).glob("test_*.py"))]
    run = [str(path.relative_to(ROOT)) for path in tests if plain(path)]
    print(f"on Arm: {len(run)} files of {len(tests)}, and the examples of {' and '.join(ROOMS)}")
    with tempfile.TemporaryDirectory(prefix="llmhw-arm-") as folder:
        try:
            python = fetch(Path(folder))
        except subprocess.CalledProcessError as error:
            print(f"on Arm: skipped, as Debian's Python for aarch64 cannot be had: {error}")
            return 0
        libraries = os.pathsep.join([str(ROOT), str(Path(pytest.__file__).parents[1])])
        start = ["qemu-aarch64-static", "-L", f"{folder}/root", python, "-c", START, libraries]
        how = ["-c", os.devnull, f"--rootdir={ROOT}", "--noconftest", "-p", "no:cacheprovider"]
        how += ["--import-mode=importlib", "-q", "--doctest-modules", *options]
        what = [*run, *(f"llmhw_helpers/{room}" for room in ROOMS)]
        alone = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        return subprocess.run([*start, *how, *what], cwd=ROOT, env=alone, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
