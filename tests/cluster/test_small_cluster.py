"""The small Slurm itself: it is a real one, several stand beside each other, and it leaves nothing behind."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from small_cluster import NoCluster, SmallCluster, cannot_start, running, stop

from llmhw_helpers.specs.clusters import CLUSTERS

TOOL = "tools/small_cluster.py"


def ask(cluster, *command):
    return cluster.run(*command).stdout.split()


def test_jobs_run_on_all_nodes(plain_cluster):
    names = ask(plain_cluster, "srun", "-N2", "--ntasks-per-node=1", "printenv", "SLURMD_NODENAME")
    assert sorted(names) == ["node1", "node2"]


def test_two_clusters_stand_beside_each_other(plain_cluster, start_cluster):
    other = start_cluster("arrhenius", count=1)
    assert ask(plain_cluster, "sinfo", "--noheader", "--format=%P") == ["small*"]
    assert ask(other, "sinfo", "--noheader", "--format=%P %G") == ["gpu*", "gpu:4"]


def test_alvis_has_the_gpus_cores_and_memory_of_specs(start_cluster):
    alvis = start_cluster("alvis", count=1)
    shown = alvis.run("sinfo", "--noheader", "--Node", "--format=%G %c %m %f").stdout.split("\n")
    for node in CLUSTERS["Alvis"].nodes.values():
        n_gpus, gpu = int(node.gpus_per_node[-1].value), node.gpu_type
        cores, megabytes = int(n_gpus * node.cores_per_gpu.value), int(node.host_bytes[0].value / 1e6)
        assert f"gpu:{gpu}:{n_gpus} {cores} {megabytes} {gpu} " in [f"{line.rstrip()} " for line in shown]
    two = ["srun", "-N1", "--gpus-per-node=A40:2", "printenv", "CUDA_VISIBLE_DEVICES"]
    assert ask(alvis, *two) == ["0,1"]
    refused = alvis.run("srun", "-N1", "--gpus-per-node=A41:1", "true", timeout=20)
    assert refused.returncode
    assert "Requested node configuration is not available" in refused.stderr


def test_each_node_has_a_network_and_a_name_of_its_own(start_cluster):
    cluster = start_cluster(networks=True)
    assert sorted(ask(cluster, "srun", "-N2", "--ntasks-per-node=1", "hostname")) == ["node1", "node2"]
    first = "getent hosts $(scontrol show hostnames $SLURM_JOB_NODELIST | head -n1)"
    found = cluster.run("srun", "-N2", "--ntasks-per-node=1", "bash", "-c", first).stdout.splitlines()
    assert [line.split()[0] for line in found] == ["10.77.0.1", "10.77.0.1"]


def test_stopping_ends_every_process_and_a_second_start_is_fresh(start_cluster, tmp_path_factory):
    cluster = start_cluster(count=1)
    before = ask(cluster, "sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 4711")
    until = time.monotonic() + 30
    while not (found := [each for each in psutil.process_iter(["cmdline"]) if "4711" in (each.info["cmdline"] or ())]):
        assert time.monotonic() < until
        time.sleep(0.1)
    stop(cluster.folder)
    assert not running(cluster.folder)
    assert not [each for each in found if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    left = [
        each for each in psutil.process_iter(["cmdline"]) if str(cluster.folder) in " ".join(each.info["cmdline"] or ())
    ]
    assert not left
    cluster.start()
    assert ask(cluster, "sbatch", "--parsable", "--output=/dev/null", "--wrap=true") == before == ["1"]


def test_the_command_starts_shows_and_stops(start_cluster, tmp_path_factory):
    folder = start_cluster(count=1).folder
    again = subprocess.run([sys.executable, TOOL, "start", folder], capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith(f"small_cluster: a cluster is up in {folder}")
    shown = subprocess.run([sys.executable, TOOL, "env", folder], capture_output=True, text=True, check=True).stdout
    asked = subprocess.run(["bash", "-c", f"{shown} sinfo -ho %P"], capture_output=True, text=True, check=True)
    assert asked.stdout == "small*\n"
    subprocess.run([sys.executable, TOOL, "stop", folder], check=True)
    gone = subprocess.run([sys.executable, TOOL, "env", folder], capture_output=True, text=True, check=False)
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    if reason := cannot_start():
        pytest.skip(reason)
    (tmp_path / "state").mkdir()
    with pytest.raises(NoCluster, match="holds other files"):
        SmallCluster(tmp_path).start()
    assert (tmp_path / "state").is_dir()


@pytest.mark.parametrize(("folder", "count"), [("a b", 2), ("a#b", 2), ("ab", -1)])
def test_what_slurm_cannot_have_is_refused_before(tmp_path, folder, count):
    if reason := cannot_start():
        pytest.skip(reason)
    short = Path("/tmp") / tmp_path.name / folder
    with pytest.raises(NoCluster, match="which slurm.conf cannot name" if count > 0 else "one node of each type"):
        SmallCluster(short, count=count).start()
    assert not short.exists()


def test_damaged_notes_on_daemons_are_one_line(tmp_path):
    (tmp_path / "daemons.json").write_text('{"munged": [1')
    done = subprocess.run([sys.executable, TOOL, "stop", tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "daemons.json is damaged" in done.stderr


@pytest.mark.parametrize("command", ["start", "stop", "env"])
def test_a_file_in_the_folders_place_is_one_line(tmp_path, command):
    (tmp_path / "file").touch()
    how = [sys.executable, TOOL, command, tmp_path / "file"]
    done = subprocess.run(how, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_daemon_that_does_not_come_up_says_why(tmp_path):
    if reason := cannot_start():
        pytest.skip(reason)
    folder = tmp_path if len(str(tmp_path)) < 70 else pytest.skip("a long folder for temporary files")
    with pytest.raises(NoCluster, match=r"slurmctld did not come up: .*NoSuchSetting"):
        SmallCluster(folder, settings={"NoSuchSetting": 1}).start()
    assert not running(folder)


def test_without_slurm_it_is_said_in_a_line(monkeypatch):
    monkeypatch.setattr("small_cluster.TOOLS", "/nowhere")
    monkeypatch.setattr("small_cluster.sys.platform", "linux")
    assert cannot_start().startswith("no Slurm here: the command `munged` is missing")
    monkeypatch.setattr("small_cluster.sys.platform", "darwin")
    assert cannot_start().startswith("Slurm needs Linux")


def test_the_whole_cluster_on_paper_checks_jobs(start_cluster):
    alvis = start_cluster("alvis", count=0)
    assert len(alvis.nodes) == 160 // 8 + 44 // 4 + 332 // 4 + 296 // 4 + 32 // 4 + 4
    test = ["sbatch", "--test-only", "--wrap=true", "--time=1:00:00"]
    for good in (["--nodes=8", "--gpus-per-node=A100fat:4"], ["--constraint=NOGPU"], ["--array=1-9", "--gpus=T4:8"]):
        done = alvis.run(*test, *good)
        assert done.returncode == 0, done.stderr
    for bad, why in {
        "--nodes=9 --gpus-per-node=A100fat:4": "Requested node configuration is not available",
        "--gpus-per-node=A40:5": "Requested node configuration is not available",
        "--constraint=GPU": "Invalid feature specification",
        "--partition=alvi": "Invalid partition name specified",
        "--time=8-0": "Requested time limit is invalid",
    }.items():
        done = alvis.run(*test, *bad.split())
        assert (done.returncode, why in done.stderr) == (1, True), done.stderr
