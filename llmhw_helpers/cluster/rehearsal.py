"""The program of a twin's job, on every rank: it goes on from the newest checkpoint, works, and fills in the form.

    torchrun ... -m llmhw_helpers.distributed.program llmhw_helpers.cluster.rehearsal:rehearse FOLDER/twin.json

A file named ``stop-JOB`` beside the twin asks it to stop after the step at hand: the job script makes one when Slurm's
signal says that the time is nearly up. (A signal to the ranks themselves would end torchrun.)
"""

import gc
import hashlib
import os
import resource
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from ..distributed.checkpoints import Checkpoints
from ..distributed.data_parallel import over_ranks
from ..distributed.wire import Counted, counted
from ..distributed.worker import LOOPBACK
from ..measure.energy import PackageEnergy
from ..measure.machine import this_machine
from ..measure.memory import MemoryMeter
from ..measure.probes import product_rate
from . import predictions
from .forms import BadForm, Form, form_path, read_form
from .predictions import Prepared, read_twin
from .work import WORK, Learning, Seat

WRITE_S = 1.0  # from one form to the next, at least: a shared file system has other things to do
PROBES = 3
CPU = torch.device("cpu")


def rehearse(path: str) -> str | None:
    """Run the twin at `path`; on rank 0 the form as a table.

    Raises:
        NoTwin: there is none, it is damaged, or made for another number of ranks.
        CheckpointError: the checkpoints of this job cannot be gone on from.
        NotSaved: no space for the form.
    """
    prepared = read_twin(Path(path))
    run = Rehearsal(prepared, Path(path).parent, job_number(os.environ))
    try:
        run.work()
    except Exception as error:
        run.write("failed", why=f"rank {dist.get_rank()}: {type(error).__name__}: {' '.join(str(error).split())}"[:300])
        raise
    return str(run.form) if dist.get_rank() == 0 else None


def job_number(environment: Mapping[str, str]) -> str:
    """The job's, and of a task of an array its own behind it, as `squeue` writes them.

    >>> job_number({"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2"})
    '17_2'
    >>> job_number({})
    'by-hand'
    """
    if "SLURM_ARRAY_TASK_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID", "by-hand")


class Rehearsal:
    """One run of a job's program on one rank; a job that was requeued has several.

    Attributes:
        form: as it was written last.
    """

    def __init__(self, prepared: Prepared, folder: Path, job: str):
        self.prepared, self.twin, self.folder, self.job = prepared, prepared.twin, folder, job
        self.form: Form | None = None
        self.measured: dict[str, float] = {}
        self.words = {"machine": str(this_machine()), "predicted_for": prepared.machine}
        self.facts = {"began_at": time.time(), "rank_flops_per_s_predicted": prepared.rank_flops_per_s}
        self.facts |= {"n_ranks": float(self.twin.n_ranks), "n_steps": float(self.twin.n_steps)}
        self.facts |= {"restarts": float(os.environ.get("SLURM_RESTART_COUNT", 0)), "saving_s": 0.0}
        self.losses = torch.zeros(self.twin.n_steps, dtype=torch.float64)
        self._done, self._written = 0, 0.0
        self._seconds: list[float] = []
        self._computed: list[float] = []
        self._sent: list[float] = []
        self._job_began = float(os.environ.get("JOB_BEGAN", time.time()))
        try:
            self._before = read_form(form_path(folder, job))
        except BadForm:
            self._before = None

    def work(self) -> None:
        """From the newest checkpoint to the end, or until the job is asked to stop."""
        twin = self.twin
        if dist.get_world_size() != twin.n_ranks:
            raise ValueError(f"the twin is for {twin.n_ranks} ranks, and {dist.get_world_size()} were started")
        checkpoints = Checkpoints(self.folder / f"checkpoints-{self.job}")
        self.write("running")
        with MemoryMeter() as meter:
            work = WORK[twin.task](twin, Seat.of(twin))
            state = {"losses": self.losses, "work": work.state()}
            if checkpoints.steps():
                self._done = checkpoints.load(state)
                work.loaded(self._done)
            self._count_lost()
            gc.collect()  # what cutting the model has left behind is no memory of a step
            meter.phase = "step"
            if self._done < twin.n_steps:
                self._step(work)  # the first one also warms up: it is not timed
        if "step" in meter.peaks:
            self.measured[predictions.MEMORY] = _largest(meter.peaks["step"])
        asked, energy = False, PackageEnergy()
        energy.read(time.monotonic())
        while self._done < twin.n_steps and not (asked := self._asked_to_stop()):
            if self._done % twin.checkpoint_every == 0:
                self._save(checkpoints, state)
            with counted() as wire:
                begin = time.process_time()
                self._step(work)
                self._computed.append(time.process_time() - begin)
            self._seconds.append(wire.seconds)
            self._sent.append(_sent(wire))
            if used := energy.read(time.monotonic()):  # where it may be read: of rank 0's machine
                self.facts["energy_j"] = used["package_joules"]
            self.write("running", soon=False)
        if self._done not in checkpoints.steps():
            self._save(checkpoints, state)
        self._explain(work)
        self.write("stopped" if asked else "finished")
        if not asked and dist.get_rank() == 0:
            (self.folder / f"stop-{self.job}").unlink(missing_ok=True)  # done in time

    def _step(self, work) -> None:
        self.losses[self._done] = work.step(self._done)
        self._done += 1

    def _save(self, checkpoints: Checkpoints, state: dict) -> None:
        begin = time.perf_counter()
        checkpoints.save(state, self._done)
        self.facts["saving_s"] += time.perf_counter() - begin

    def _asked_to_stop(self) -> bool:
        """Rank 0 looks, and tells: all ranks must stop after the same step."""
        asked = torch.tensor(int(dist.get_rank() == 0 and (self.folder / f"stop-{self.job}").exists()))
        dist.broadcast(asked, 0)
        return bool(asked)

    def _count_lost(self) -> None:
        """Steps that an earlier run had done and not saved; seconds of the job, and of its work, before this run."""
        lost = earlier_s = earlier_work_s = 0.0
        if self._before and self.facts["restarts"]:
            lines = self._before.lines
            lost = max(0.0, self._before.facts["steps_done"] - self._done) + self._before.facts["steps_lost"]
            earlier_s = lines[predictions.JOB].measured or 0.0
            earlier_work_s = lines[predictions.WORK].measured or 0.0
        self.facts |= {"steps_lost": lost, "earlier_s": earlier_s, "earlier_work_s": earlier_work_s}
        self.facts["resumed_at"] = float(self._done)

    def _explain(self, work) -> None:
        """Further figures, all ranks at the same time: how fast they multiply now, and send what a step sends.

        And what two runs are compared by, to the bit: a fingerprint of the losses of all steps.
        """
        self.words["losses"] = hashlib.sha256(self.losses.numpy().tobytes()).hexdigest()[:16]
        if self._computed:
            computed = over_ranks(statistics.median(self._computed), CPU) / self.twin.n_ranks
            self.facts["step_computed_s"] = computed
        amount, timing = product_rate("fp32", CPU, PROBES)
        self.facts["rank_flops_per_s"] = _least(amount / timing.best)
        self.facts["sending_s"] = _largest(_sending_s(self.twin, work))
        self.facts["process_bytes"] = _largest(_most_resident_bytes())

    def write(self, status: str, soon: bool = True, why: str = "") -> None:
        """The form, by rank 0; not `soon`: only if the last one is old enough."""
        now = time.time()
        if dist.get_rank() != 0 or (not soon and now < self._written + WRITE_S):
            return
        self._written = now
        found = dict(self.measured)
        if self._sent:
            step_s = statistics.median(self._seconds)
            found |= {predictions.STEP: step_s, predictions.SPEED: self.twin.tokens_per_step / step_s}
            # what else the machine sends is counted, too: of steps that all send the same, the least is nearest
            found[predictions.SENT] = min(self._sent)
            n_here = self._done - self.facts["resumed_at"]  # the first of them was not timed
            found[predictions.WORK] = self.facts["earlier_work_s"] + n_here * statistics.mean(self._seconds)
        job_s = self.facts.get("earlier_s", 0.0) + now - self._job_began
        found[predictions.JOB] = job_s
        if self.twin.gpu_hour is not None:
            found[predictions.price_line(self.twin)] = self.twin.n_ranks * self.twin.gpu_hour * job_s / 3600
        lines = {name: replace(line, measured=found.get(name)) for name, line in self.prepared.lines.items()}
        facts = {"steps_lost": 0.0} | self.facts | {"steps_done": float(self._done), "ended_at": now}
        words = self.words | ({"why": why} if why else {})
        self.form = Form(self.job, self.twin.plan, self.twin.task, status, lines, facts, words)
        self.form.write(self.folder)


def _least(x: float) -> float:
    return over_ranks(x, CPU, operation=dist.ReduceOp.MIN)


def _largest(x: float) -> float:
    return over_ranks(x, CPU, operation=dist.ReduceOp.MAX)


def _sent(wire: Counted) -> float:
    """Bytes of all ranks, without headers. A device that ranks share has counted for all of them."""
    if wire.device == LOOPBACK:
        return _largest(wire.sent_payload_bytes)
    counts = not wire.shared or os.environ.get("LOCAL_RANK", "0") == "0"
    return over_ranks(wire.sent_payload_bytes if counts else 0.0, CPU)


def _sending_s(twin, work) -> float:
    """Seconds of the sums of a step by themselves, the best of a few."""
    if isinstance(work, Learning) and twin.tp_size == 1:
        n, n_times, group = sum(p.numel() for p in work.model.parameters() if p.requires_grad), 1, work.seat.alike
    else:
        n, n_times, group = (
            twin.batch_size * twin.seq_len * twin.model.d_model,
            2 * twin.model.n_layers,
            work.seat.sharing,
        )
    if dist.get_world_size(group) == 1:
        return 0.0
    x, took = torch.zeros(n), []
    for _ in range(PROBES):
        dist.barrier(group)
        begin = time.perf_counter()
        for _ in range(n_times):
            dist.all_reduce(x, group=group)
        took.append(time.perf_counter() - begin)
    return min(took)


def _most_resident_bytes() -> float:
    """The most memory that this process had, as the system counts it: what a job's ``--mem`` is held against."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else 1024 * most)
