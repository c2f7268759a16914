"""`make portable`: the processors that it plays, the Python that it finds, and that a failure is one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("portable", ROOT / "tools" / "portable.py")
portable = importlib.util.module_from_spec(spec)
spec.loader.exec_module(portable)


@pytest.mark.parametrize(("processor", "capability"), [("avx2", "AVX2"), ("plainest", "DEFAULT")])
def test_a_processor_holds_pytorch_to_its_instructions(processor, capability):
    if processor not in portable.HERE:
        pytest.skip(f"this processor cannot play {processor}")
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    environment = os.environ | portable.PROCESSORS[processor]
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == capability


@pytest.mark.parametrize(("processor", "registers"), [("avx2", "ymm"), ("plainest", "xmm")])
def test_a_processor_holds_numba_to_its_registers(processor, registers):
    if not portable.X86:
        pytest.skip("registers have these names on x86")
    code = """
import re, numba

@numba.njit("void(f4[::1], f4[::1])")
def double(x, y):
    for i in range(x.size):
        y[i] = x[i] + x[i]

print(*sorted(set(re.findall("[xyz]mm", *double.inspect_asm().values()))))
"""
    environment = os.environ | portable.PROCESSORS[processor]
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == registers


def fake_python(folder: Path, minor: int, works: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"python3.{minor}"
    path.write_text(f"#!/bin/sh\nexit {0 if works else 127}\n")
    path.chmod(0o755)
    return path


def test_the_newest_python_that_answers_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "version_info", type("Version", (), {"minor": 11}))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert portable.newest_python() is None
    fake_python(tmp_path / "bin", 14, works=False)  # as a version manager's stand-in
    fake_python(tmp_path / "bin", 12)
    newest = fake_python(tmp_path / "pyenv" / "versions" / "3.13.0" / "bin", 13)
    assert portable.newest_python() == newest


def test_a_failure_is_the_exit_status_and_stands_in_the_table(monkeypatch, capsys):
    calls = []

    def run(python, what, processor):
        calls.append((what[0], processor))
        return (1, 2.0, "1 failed") if processor == "plainest" else (0, 1.0, "5 passed")

    monkeypatch.setattr(portable, "pytest", run)
    monkeypatch.setattr(sys, "argv", ["portable.py", "--no-python", "--as", "own", "plainest", "--unit", "tests/llm"])
    assert portable.main() == 1
    assert calls == [(what, name) for name in ("own", "plainest") for what in ("tests/llm", "--nbval")]
    *_, table = capsys.readouterr().out.split("\n\n")
    assert table.count("ok ") == 2
    assert table.count("FAILED") == 2
