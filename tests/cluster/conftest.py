"""Real Slurms for tests, brought up once a module by whoever asks for them, and gone after it."""

import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("small_cluster", ROOT / "tools" / "small_cluster.py")
small_cluster = importlib.util.module_from_spec(spec)
sys.modules["small_cluster"] = small_cluster  # where its dataclasses look for it
spec.loader.exec_module(small_cluster)


@pytest.fixture(scope="module")
def start_cluster():
    """Starts clusters as `SmallCluster` describes them, each in a folder of its own; all end with the module."""
    folders = []

    def start(kind="plain", networks=False, count=2, **settings):
        if reason := small_cluster.cannot_start(networks):
            pytest.skip(reason)
        folders.append(Path(tempfile.mkdtemp(prefix="llmhw-slurm-", dir="/tmp")))  # short enough for a socket
        cluster = small_cluster.SmallCluster(folders[-1] / "slurm", kind, networks, count, settings)
        cluster.start()
        return cluster

    yield start
    for folder in folders:
        small_cluster.stop(folder / "slurm")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def plain_cluster(start_cluster):
    """Two nodes on the loopback, without GPUs."""
    return start_cluster()
