"""The tests and the notebooks as other processors, and on the newest Python of this machine.

PyTorch, oneDNN, MKL and numba can be held to a smaller instruction set, so that one machine stands for several: what
hangs on the luck of one processor's rounding, on its units or on its speed shows here and not on a student's laptop.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
X86 = platform.machine().lower() in ("x86_64", "amd64")
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
AVX2 |= {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c"}
PLAINEST = {"ATEN_CPU_CAPABILITY": "default", "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
SSE = PLAINEST | {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
PROCESSORS = {
    "own": {},
    "avx2": AVX2,  # most laptops: no unit for bf16, none for int8
    "plainest": SSE if X86 else PLAINEST,
}
HERE = [name for name in PROCESSORS if X86 or name != "avx2"]  # an Arm processor cannot play an x86 one
UNIT = ["tests", "llmhw_helpers", "--doctest-modules", "-n", "2", "--dist", "loadscope"]
UNIT += ["-m", "not browser and not faults"]
NOTEBOOKS = ["--nbval", "notebooks/", "-n", "2", "--dist", "loadfile"]  # two at a time: each meets a busy machine
NEWEST = 14  # Python 3.N that the course is made for


def pytest(python: Path | str, what: list[str], processor: str) -> tuple[int, float, str]:
    """Run pytest as `processor`: exit status, seconds, and its closing line. Its output is shown as it comes."""
    start, last = time.perf_counter(), ""
    command = [str(python), "-m", "pytest", "-q", *what]
    environment = os.environ | PROCESSORS[processor] | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return run.returncode, time.perf_counter() - start, last


def newest_python() -> Path | None:
    """The newest Python here that the course is made for, if it is newer than this one."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    folders += sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.*/bin"))
    for minor in range(NEWEST, sys.version_info.minor, -1):
        for folder in folders:
            python = folder / f"python3.{minor}"
            if os.access(python, os.X_OK) and _answers(python):
                return python
    return None


def _answers(python: Path) -> bool:
    """A version manager's stand-in is there, and says only that its Python is not chosen."""
    try:
        return subprocess.run([python, "--version"], capture_output=True, check=False, timeout=30).returncode == 0
    except OSError:
        return False


def environment_of(python: Path) -> Path:
    """A .venv of its own for `python`, made by the same Makefile as the course's; its Python."""
    folder = f".venv-{python.name.removeprefix('python')}"
    subprocess.run(["make", "tools", f"PYTHON={python}", f"VENV={folder}"], cwd=ROOT, check=True)
    return ROOT / folder / "bin" / "python"


def main() -> int:
    """Run what was asked for, and close with a table; 0 if all of it passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--as", dest="processors", nargs="+", choices=HERE, default=HERE, help="which processors")
    parser.add_argument("--unit", nargs="*", help="folders of tests, for less than all; without any: no unit tests")
    parser.add_argument("--no-notebooks", action="store_true", help="leave the notebooks out")
    parser.add_argument("--no-python", action="store_true", help="leave the newest Python out")
    asked = parser.parse_args()
    unit = UNIT if asked.unit is None else [*asked.unit, *UNIT[UNIT.index("-n") :]]
    parts = {"unit": unit} if asked.unit is None or asked.unit else {}
    parts |= {} if asked.no_notebooks else {"notebooks": NOTEBOOKS}
    runs = [(sys.executable, processor, part) for processor in asked.processors for part in parts]
    if not asked.no_python and (python := newest_python()):
        runs += [(environment_of(python), "own", part) for part in parts]
    rows, failed = [], 0
    for python, processor, part in runs:
        name = f"{part}, Python {_version(python)}, as {processor}"
        print(f"\n{name} ...", flush=True)
        status, seconds, last = pytest(python, parts[part], processor)
        failed += status != 0
        rows.append(f"{name:40} {'ok' if status == 0 else 'FAILED':8}{seconds:6.0f} s  {last.strip('= ')}")
    print("\n" + "\n".join(rows))
    return min(failed, 1)


def _version(python: Path | str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
