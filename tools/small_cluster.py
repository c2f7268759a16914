"""A real Slurm of several nodes on one machine, for tests and for whoever wants to try a job script at home.

    python tools/small_cluster.py start FOLDER [--as plain|alvis|arrhenius] [--networks]
    eval "$(python tools/small_cluster.py env FOLDER)"        # sbatch, squeue, srun, ... now ask this cluster
    python tools/small_cluster.py stop FOLDER

Key, sockets, logs and state lie in FOLDER; ports are free ones of the loopback. Nodes are daemons of one host, on which
jobs run as usual. With `--networks` (root alone) each node has a network and a host name of its own, as on a cluster:
what finds the first node by `scontrol show hostnames` works unchanged. GPUs are names: /dev/null stands for each.
"""

import argparse
import contextlib
import json
import os
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from llmhw_helpers.files import write_whole  # noqa: E402
from llmhw_helpers.specs.clusters import CLUSTERS, NodeType  # noqa: E402

TOOLS = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where daemons are, if not on a user's path
DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "salloc", "squeue", "sinfo", "scontrol", "scancel", "sacct", "sstat", "sprio", "scrontab")
UP_S = 60  # for all nodes of a machine that is very busy; a quiet one needs one or two
END_S = 5  # before a daemon that does not end is killed
SOCKET_PATH = 80  # longest folder in which a socket's name has room


class NoCluster(OSError):
    """There can be no small Slurm here; the message says in one line why."""


@dataclass(frozen=True)
class Nodes:
    """Nodes that are alike: how many the cluster has, with what, and the name of their GPU."""

    there: int
    cores: int
    memory_mb: int
    features: tuple[str, ...] = ()
    gpu: str | None = None  # as GRES names it: "gpu:A40"; None without GPUs
    n_gpus: int = 0


@dataclass(frozen=True)
class Kind:
    """What a cluster looks like to Slurm: its nodes, and the partition that holds all of them."""

    prefix: str
    partition: str
    nodes: tuple[Nodes, ...]
    longest: str = "UNLIMITED"


def _of(node: NodeType, feature: str | None) -> Nodes:
    """Nodes as `specs.clusters` describes them: the larger number of GPUs and the smaller memory, where they differ."""
    n_gpus = int(node.gpus_per_node[-1].value)
    gpu = f"gpu:{node.gpu_type}" if node.gpu_type else "gpu"
    memory_mb = int(node.host_bytes[0].value // 1e6)
    there, cores = int(node.n_gpus.value) // n_gpus, int(node.cores_per_gpu.value) * n_gpus
    return Nodes(there, cores, memory_mb, (feature,) if feature else (), gpu, n_gpus)


def _longest(name: str) -> str:
    return f"{int(CLUSTERS[name].longest_job.value * 60)}"  # minutes


ALVIS = tuple(_of(node, node.gpu_type) for node in CLUSTERS["Alvis"].nodes.values())
# Nodes without GPU: that there are some is in C3SE's course material; how many, and what is in them, is made up.
NO_GPU = Nodes(4, 16, 128_000, ("NOGPU",))
ARRHENIUS = tuple(_of(node, None) for node in CLUSTERS["Arrhenius"].nodes.values())
KINDS = {
    "plain": Kind("node", "small", (Nodes(2, 8, 8000),)),
    "alvis": Kind("alvis", CLUSTERS["Alvis"].partition, (*ALVIS, NO_GPU), _longest("Alvis")),
    "arrhenius": Kind("arrhenius", CLUSTERS["Arrhenius"].partition, ARRHENIUS, _longest("Arrhenius")),
}


def cannot_start(networks: bool = False) -> str:
    """Why there can be no small Slurm on this machine, in one line; empty if there can."""
    if sys.platform != "linux":
        return "Slurm needs Linux: on another system a job can be tried with the local runner alone"
    for tool in (*DAEMONS, *CLIENTS[:2]):
        if not shutil.which(tool, path=TOOLS):
            return f"no Slurm here: the command `{tool}` is missing (Debian: slurmctld slurmd slurm-client munge)"
    if networks and os.geteuid() != 0:
        return "a network for each node needs root; without --networks, nodes share this machine's"
    for tool in ("ip", "unshare", "nsenter") if networks else ():
        if not shutil.which(tool, path=TOOLS):
            return f"no network for each node: the command `{tool}` is missing (packages util-linux and iproute2)"
    return ""


class SmallCluster:
    """A Slurm in `folder`; as a context manager it is up inside, and leaves no process behind.

    Args:
        folder: where its key, sockets, logs and state go.
        kind: a name of `KINDS`.
        networks: whether each node has a network and a host name of its own.
        count: nodes of each type; 0 for as many as the cluster has, on paper: jobs are checked, and none runs.
        settings: lines of slurm.conf that take the place of those below.
    """

    def __init__(
        self,
        folder: Path,
        kind: str = "plain",
        networks: bool = False,
        count: int = 2,
        settings: Mapping[str, object] | None = None,
    ):
        self.folder, self.kind, self.networks = Path(folder).resolve(), KINDS[kind], networks
        self.on_paper, self.settings = not count, dict(settings or {})
        groups = [each for each in self.kind.nodes for _ in range(count or each.there)]
        self.nodes = {f"{self.kind.prefix}{i}": group for i, group in enumerate(groups, 1)}
        self._alike = {name: [name] for name in self.nodes}  # lines of slurm.conf, and the nodes that each describes
        if self.on_paper:
            alike = [[name for name, group in self.nodes.items() if group is each] for each in self.kind.nodes]
            first = len(self.kind.prefix)
            self._alike = {f"{self.kind.prefix}[{names[0][first:]}-{names[-1][first:]}]": names for names in alike}
        self._file = self.folder / "daemons.json"
        self._daemons: dict[str, list] = {}

    def __enter__(self) -> "SmallCluster":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        stop(self.folder)

    def start(self) -> None:
        """Bring it up; it returns when every node is idle, or all of them stand on paper.

        Raises:
            NoCluster: Slurm is missing, the folder is in use or too deep, or a daemon did not come up.
        """
        if reason := cannot_start(self.networks):
            raise NoCluster(reason)
        if len(str(self.folder)) > SOCKET_PATH:
            raise NoCluster(f"{self.folder} is too long for a socket in it: take a folder of {SOCKET_PATH} characters")
        if any(each.isspace() or each in "\"'#,=%" for each in str(self.folder)):
            raise NoCluster(f"{self.folder} has a space, or one of \"'#,=%, which slurm.conf cannot name: take another")
        if not self.nodes:
            raise NoCluster("a cluster has one node of each type, or more; 0 for all of them on paper")
        if running(self.folder):
            raise NoCluster(f"a cluster is up in {self.folder}: stop it first, or take another folder")
        try:
            self._prepare()
            self._start("munged", "login", *self._munged())
            self._wait(lambda: (self.folder / "munge.socket").exists(), "munged")
            if self.networks:
                self._make_networks()
            (self.folder / "env.json").write_text(json.dumps(self._environment()))
            self._start("slurmctld", "login", "slurmctld", "-D", "-f", self.conf)
            for name in () if self.on_paper else self.nodes:
                self._start(f"slurmd.{name}", name, "slurmd", "-D", "-N", name, "-f", self.conf)
            self._wait(self._all_idle, "slurmctld")
        except BaseException:
            stop(self.folder)
            raise

    @property
    def conf(self) -> str:
        """Its slurm.conf."""
        return str(self.folder / "slurm.conf")

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment, in which Slurm's commands ask this cluster."""
        return environment(self.folder)

    def run(self, *command: str, timeout: float = 60, **how) -> subprocess.CompletedProcess:
        """Run a command beside the cluster, as on its login node, with its text; `how` goes to subprocess.run."""
        words = [str(word) for word in command]
        how = {"env": self.environment, "capture_output": True, "text": True, "check": False} | how
        return subprocess.run(words, timeout=timeout, **how)

    def kill_node(self, name: str) -> None:
        """End the daemon of a node at once, as if the node had lost its power."""
        _kill([process for process in [_alive(self._daemons[f"slurmd.{name}"])] if process])

    def revive_node(self, name: str) -> None:
        """Start the daemon of a node again."""
        self._start(f"slurmd.{name}", name, "slurmd", "-D", "-N", name, "-f", self.conf)

    def _prepare(self) -> None:
        """The folder, with all that the daemons read, and nothing of an earlier cluster."""
        if self.folder.exists() and any(self.folder.iterdir()) and not (self.folder / "slurm.conf").exists():
            raise NoCluster(f"{self.folder} holds other files: take a new folder")
        for old in ("state", "spool", "bin"):
            shutil.rmtree(self.folder / old, ignore_errors=True)
        for old in (*self.folder.glob("*.log"), *self.folder.glob("munge.*"), self.folder / "jobcomp.txt"):
            old.unlink(missing_ok=True)
        for folder in (self.folder, self.folder / "state", *(self.folder / "spool" / name for name in self.nodes)):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        gpus = []
        for i in range(max(group.n_gpus for group in self.nodes.values())):
            device = self.folder / f"nvidia{i}"
            device.unlink(missing_ok=True)
            device.symlink_to("/dev/null")  # Slurm takes character devices alone
        for name, (one, *_) in self._alike.items():
            group = self.nodes[one]
            if group.gpu:
                type_ = f" Type={group.gpu.partition(':')[2]}" if ":" in group.gpu else ""
                devices = f"{self.folder}/nvidia[0-{group.n_gpus - 1}]"
                gpus.append(f"NodeName={name} Name=gpu{type_} Flags=nvidia_gpu_env File={devices}\n")
        (self.folder / "gres.conf").write_text("".join(gpus))
        (self.folder / "slurm.conf").write_text(self._slurm_conf())

    def _slurm_conf(self) -> str:
        ports = [6817] if self.networks else _free_ports(1)
        ports += [6818] * len(self._alike) if self.networks or self.on_paper else _free_ports(len(self._alike))
        user = pwd.getpwuid(os.geteuid()).pw_name
        login = "login(10.77.0.254)" if self.networks else f"{_host()}(127.0.0.1)"
        settings = {
            "ClusterName": self.kind.prefix,
            "SlurmctldHost": login,
            "SlurmctldPort": ports[0],
            "AuthType": "auth/munge",
            # a job that goes back into the queue waits until what let it start has expired: 120 s unless said
            "AuthInfo": f"socket={self.folder}/munge.socket,cred_expire=5",
            "SlurmUser": user,
            "SlurmdUser": user,
            "StateSaveLocation": self.folder / "state",
            "SlurmdSpoolDir": f"{self.folder}/spool/%n",
            "SlurmctldPidFile": f"{self.folder}/state/slurmctld.pid",
            "SlurmdPidFile": f"{self.folder}/spool/%n.pid",
            "SlurmctldLogFile": f"{self.folder}/slurmctld.log",
            "SlurmdLogFile": f"{self.folder}/slurmd.%n.log",
            "MailProg": "/bin/true",
            "MpiDefault": "none",
            "ProctrackType": "proctrack/linuxproc",  # no cgroups: the machine's own may be out of reach
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/linux",
            "JobAcctGatherFrequency": 1,
            "JobAcctGatherParams": "OverMemoryKill",
            "AccountingStorageType": "accounting_storage/none",  # sacct would need a database
            "JobCompType": "jobcomp/filetxt",
            "JobCompLoc": self.folder / "jobcomp.txt",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            "SlurmdParameters": "config_overrides",  # nodes have what is written here, not what this machine has
            "ReturnToService": 2,
            "SchedulerParameters": "batch_sched_delay=0,sched_min_interval=100000,bf_interval=1",
            "KillWait": 3,
            "MinJobAge": 3600,
            "EnforcePartLimits": "ALL",  # refuse what can never run
            "MessageTimeout": 30,
            "GresTypes": "gpu",
        }
        if self.on_paper:  # nodes that would be switched on when a job needs them
            settings |= {"ResumeProgram": "/bin/true", "SuspendProgram": "/bin/true", "SuspendTime": -1}
        settings |= self.settings
        lines = [f"{name}={value}" for name, value in settings.items()]
        for port, (name, (one, *_)) in zip(ports[1:], self._alike.items(), strict=True):
            group = self.nodes[one]
            where = f"NodeAddr={name}" if self.networks else f"NodeHostname={_host()} NodeAddr=127.0.0.1"
            has = f"CPUs={group.cores} RealMemory={group.memory_mb}"
            has += f" Gres={group.gpu}:{group.n_gpus}" if group.gpu else ""
            has += f" Feature={','.join(group.features)}" if group.features else ""
            has += " State=CLOUD" if self.on_paper else ""
            lines.append(f"NodeName={name} {where} Port={port} {has}")
        share = min(group.memory_mb // group.cores for group in self.nodes.values())
        limits = f"DefMemPerCPU={share} MaxTime={self.kind.longest} State=UP"
        lines.append(f"PartitionName={self.kind.partition} Nodes=ALL Default=YES {limits}")
        return "\n".join(lines) + "\n"

    def _munged(self) -> list[str]:
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "state/munged.pid"}
        files |= {"log-file": "munged.log", "seed-file": "munge.seed"}
        return ["munged", "--foreground", "--force", *(f"--{key}={self.folder / name}" for key, name in files.items())]

    def _make_networks(self) -> None:
        """A switch in the login node's network, and a wire from it to each node, which a sleeping process holds."""
        hosts = ["127.0.0.1 localhost", "10.77.0.254 login"]
        switch = ["link add switch type bridge", "addr add 10.77.0.254/24 dev switch", "link set switch up"]
        self._ip("login", "link set lo up", *switch)
        for i, name in enumerate(self.nodes, 1):
            hosts.append(f"10.77.0.{i} {name}")
            self._start(f"holder.{name}", name, "sleep", "infinity")
            there = self._daemons[f"holder.{name}"][0]
            self._wait(lambda there=there: psutil.Process(there).name() == "sleep", f"holder.{name}")
            self._ip("login", f"link add port{i} type veth peer name eth0 netns {there}")
            self._ip("login", f"link set port{i} master switch up")
            self._ip(name, "link set lo up", f"addr add 10.77.0.{i}/24 dev eth0", "link set eth0 up")
        (self.folder / "hosts").write_text("\n".join(hosts) + "\n")
        commands = self.folder / "bin"
        commands.mkdir(exist_ok=True)
        enter = shlex.join(self._enter("login"))
        for client in CLIENTS:
            if found := shutil.which(client, path=TOOLS):
                (commands / client).write_text(f'#!/bin/sh\nPATH=${{PATH#{commands}:}} exec {enter} {found} "$@"\n')
                (commands / client).chmod(0o755)

    def _enter(self, name: str) -> list[str]:
        """What runs a command in the network and under the host name of a node."""
        holder = self._daemons["munged" if name == "login" else f"holder.{name}"][0]
        return ["nsenter", "--target", str(holder), "--net", "--uts", "--mount", "--wd=."]

    def _ip(self, name: str, *commands: str) -> None:
        for line in commands:
            done = subprocess.run(
                [*self._enter(name), "ip", *line.split()], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise NoCluster(f"no network for {name}: ip {line}: {done.stderr.strip()}")

    def _start(self, name: str, node: str, *command: str) -> None:
        """Start a daemon on a node, and remember it: its number, and since when it runs."""
        words = [shutil.which(command[0], path=TOOLS), *command[1:]]
        holds = name == "munged" or name.startswith("holder.")
        if self.networks and holds:  # a network lives as long as somebody in it
            mount = 'hostname "$0" && touch "$1" && mount --bind "$1" /etc/hosts && shift && exec "$@"'
            words = ["unshare", "--net", "--uts", "--mount", "sh", "-c", mount, node, f"{self.folder}/hosts", *words]
        elif self.networks:
            words = [*self._enter(node), *words]
        with open(self.folder / f"{name}.out", "wb") as out:
            how = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out, "start_new_session": True}
            process = subprocess.Popen(words, env=os.environ | {"PATH": TOOLS, "SLURM_CONF": self.conf}, **how)
        self._daemons[name] = [process.pid, psutil.Process(process.pid).create_time()]
        write_whole(self._file, json.dumps(self._daemons).encode())

    def _wait(self, ready, daemon: str) -> None:
        late = time.monotonic() + UP_S
        while not ready():
            if not _alive(self._daemons[daemon]) or time.monotonic() > late:
                logs = [self.folder / f"{daemon}.out", self.folder / f"{daemon}.log"]
                said = [line for log in logs if log.exists() for line in log.read_text(errors="replace").splitlines()]
                errors = [line for line in said if "error" in line.lower() or "fatal" in line.lower()] or said
                raise NoCluster(f"{daemon} did not come up: {'; '.join(errors[-2:]) or 'it says nothing'}")
            time.sleep(0.05)

    def _all_idle(self) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            states = self.run("sinfo", "--all", "--noheader", "--Node", "--format=%t", timeout=10)
            if self.on_paper:
                return states.returncode == 0
            return states.stdout.split() == ["idle"] * len(self.nodes)
        return False

    def _environment(self) -> dict[str, str]:
        return {"SLURM_CONF": self.conf, "PATH": (f"{self.folder}/bin:" if self.networks else "") + TOOLS}


def environment(folder: Path) -> dict[str, str]:
    """This process's environment, in which Slurm's commands ask the cluster in `folder`; NoCluster if there is none."""
    return os.environ | exports(folder)


def exports(folder: Path) -> dict[str, str]:
    """What has to be set for Slurm's commands to ask the cluster in `folder`; NoCluster if none is up."""
    if not running(folder):
        raise NoCluster(f"no cluster is up in {folder}: start one with small_cluster.py start {folder}")
    return json.loads((Path(folder).resolve() / "env.json").read_text())


def running(folder: Path) -> list[str]:
    """The daemons of the cluster in `folder` that are alive."""
    return [name for name, who in _remembered(Path(folder).resolve()).items() if _alive(who)]


def stop(folder: Path) -> None:
    """End the cluster in `folder` with the jobs that run; files stay. Nothing happens where none is up."""
    folder = Path(folder).resolve()
    _kill([process for who in _remembered(folder).values() if (process := _alive(who))])
    _kill(_of_jobs(folder))
    for name in ("daemons.json", "env.json"):
        (folder / name).unlink(missing_ok=True)


def _kill(processes: list[psutil.Process]) -> None:
    """End processes at once: some daemons do not listen when another is gone, and nothing here has to be kept."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    late = time.monotonic() + END_S
    while any(map(_runs, processes)) and time.monotonic() < late:
        time.sleep(0.01)


def _of_jobs(folder: Path) -> list[psutil.Process]:
    """What belongs to jobs of the cluster in `folder`: those that hold a step, by their open log, and what they run."""
    found, conf = [], f"{folder}/slurm.conf"
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "slurmstepd":
                own = any(log.path.startswith(f"{folder}/slurmd.") for log in process.open_files())
            else:
                own = process.environ().get("SLURM_CONF") == conf and "SLURM_JOB_ID" in process.environ()
            found += [process] if own and process.pid != os.getpid() else []
    return found


def _remembered(folder: Path) -> dict[str, list]:
    try:
        return json.loads((folder / "daemons.json").read_text())
    except OSError:
        return {}
    except ValueError:
        raise NoCluster(f"{folder}/daemons.json is damaged: end its daemons by hand, and delete the folder") from None


def _alive(who: list) -> psutil.Process | None:
    """The process with this number, if it is the one that began at that time, and has not ended."""
    pid, began = who
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.create_time() == began and _runs(process):
            return process
    return None


def _runs(process: psutil.Process) -> bool:
    """Whether it has not ended; one whose parent has not asked how it ended has."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def main() -> int:
    """Start, stop or describe a cluster; 1 and a line where that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["start", "stop", "env"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--as", dest="kind", choices=KINDS, default="plain", help="what it looks like")
    parser.add_argument("--networks", action="store_true", help="a network and a host name for each node (root)")
    parser.add_argument("--nodes", type=int, default=2, help="nodes of each type (0: all, on paper)")
    asked = parser.parse_args()
    try:
        if asked.command == "start":
            cluster = SmallCluster(asked.folder, asked.kind, asked.networks, asked.nodes)
            cluster.start()
            print(f"up: {len(cluster.nodes)} nodes{' on paper' if cluster.on_paper else ''}")
        elif asked.command == "stop":
            stop(asked.folder)
        else:
            for name, value in exports(asked.folder).items():
                print(f"export {name}={shlex.quote(value)}")
    except OSError as error:  # NoCluster, and folders that nobody can make
        print(f"small_cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
