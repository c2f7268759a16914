"""What else is read from outside, damaged: records of runs and jobs, what services and commands answer, requests.

As in `test_damaged_files.py`, which has the files of models: read as it stands, or refused in one short line.
"""

import gzip
import json
import random
import re
import struct
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, replace
from functools import cache
from io import StringIO
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from damage import (
    NO_FILES,
    Reader,
    damaged,
    damaged_json,
    damaged_safetensors,
    fault,
    memory_of,
    spoilt,
    try_damaged_files,
    try_what_is_no_file,
)
from safetensors.torch import load

from llmhw_helpers.cluster import local_runner, runs
from llmhw_helpers.cluster.directives import BadJob, check, directives
from llmhw_helpers.cluster.forms import BadForm, Form, Line, read_form
from llmhw_helpers.cluster.predictions import prepare, read_twin
from llmhw_helpers.cluster.slurm import NoSlurm, Slurm, UnknownJob
from llmhw_helpers.cluster.twin import NoTwin, Twin, small_model
from llmhw_helpers.costs.requests import BadRequest, read_request
from llmhw_helpers.course.recorded_runs import PARTS, recorded_runs, write_runs
from llmhw_helpers.course.report import NOTEBOOKS
from llmhw_helpers.course.stored_ledgers import BadNotebook, stored_report
from llmhw_helpers.distributed.checkpoints import CheckpointError, Checkpoints
from llmhw_helpers.llm import runs as run_files
from llmhw_helpers.llm.corpora import BadCorpus, Batches, open_corpus, write_corpus
from llmhw_helpers.llm.lora import BadAdapter
from llmhw_helpers.llm.model_files import BadModelFile
from llmhw_helpers.llm.runs import BadCheckpoint, read_run, write_run
from llmhw_helpers.llm.templates import BadText
from llmhw_helpers.llm.training import Plan, Trainer
from llmhw_helpers.llm.transformer import NotThisFamily, Transformer
from llmhw_helpers.measure import prometheus
from llmhw_helpers.measure.calibration import Calibration, Rate
from llmhw_helpers.measure.machine import Machine
from llmhw_helpers.measure.nsys import SAMPLE, BadStats, read_stats
from llmhw_helpers.measure.prometheus import BadQuery, Prometheus
from llmhw_helpers.measure.scrapes import NoAnswer, histogram_quantile, read_page
from llmhw_helpers.measure.series import NoSeries, Series
from llmhw_helpers.measure.trace_files import BadTrace
from llmhw_helpers.measure.traces import Trace
from llmhw_helpers.planning import cli
from llmhw_helpers.server.fields import Refused
from llmhw_helpers.server.protocol import read_ask, read_json
from llmhw_helpers.serving.compiled.folder import CodeFolder
from llmhw_helpers.serving.kv_folder import KVFolder
from llmhw_helpers.serving.offload import DiskLayers
from llmhw_helpers.specs.figures import UnknownName
from llmhw_helpers.specs.measured import FILE, BadRow, measured_rows
from llmhw_helpers.specs.models import model
from llmhw_helpers.specs.settings import OneLine

# The valid files, and what is read of them.


def corpus(folder: Path) -> None:
    write_corpus(folder / "tokens.bin", [range(40)], 40)


def read_corpus(folder: Path) -> None:
    batches = Batches(open_corpus(folder / "tokens.bin"), 2, 4)
    batches.check_vocabulary(2**31)
    assert batches(0).shape == (2, 5)


TENSORS = {"w": torch.ones(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "n": torch.tensor(3)}


def run(folder: Path) -> None:
    write_run(folder / "run.safetensors", TENSORS, {"step": 3, "losses": [2.0, 1.5], "seed": 1})


def spoilt_run(name: str, content: bytes, rng: random.Random) -> bytes:
    """Half of them with a checksum that is right."""
    if rng.random() < 0.5:
        return damaged_safetensors(content, rng)
    about = damaged_json({"step": 3, "losses": [2.0, 1.5], "seed": 1}, rng).decode(errors="replace")
    crc = str(run_files._checksum(TENSORS, about))
    said = rng.choice(({"about": about}, {"about": about}, {}))
    return run_files.save(TENSORS, {"format": run_files.FORMAT, "crc32": crc, **said})


def training() -> Trainer:
    torch.manual_seed(0)
    spec = replace(
        model("SmolLM2-135M"),
        **{"n_layers": 1, "d_model": 8, "n_heads": 2, "n_kv_heads": 1, "head_dim": 4, "d_ff": 12, "vocab_size": 20},
    )
    return Trainer(Transformer(spec), lambda i: torch.arange(8).view(2, 4) + i, Plan(4, 1))


def saved_training(folder: Path) -> None:
    trainer = training()
    trainer.run(1)
    trainer.save(folder / "training.safetensors")


@cache
def untrained() -> tuple[Trainer, dict[str, torch.Tensor]]:
    trainer = training()
    return trainer, {name: each.detach().clone() for name, each in trainer.parameters.items()}


def resume(folder: Path) -> None:
    """From where it was, or with nothing changed."""
    trainer, before = untrained()
    torch.manual_seed(0)
    random_numbers = torch.get_rng_state()
    try:
        if trainer.resume(folder / "training.safetensors"):
            assert trainer.step >= 0
    except BadCheckpoint:
        assert all(torch.equal(each, before[name]) for name, each in trainer.parameters.items())
        assert torch.equal(random_numbers, torch.get_rng_state())
        raise
    finally:
        trainer.step, trainer.losses = 0, []
        with torch.no_grad():
            for name, each in trainer.parameters.items():
                each.copy_(before[name])


def spoilt_training(name: str, content: bytes, rng: random.Random) -> bytes:
    """Other entries of the file, and most with a checksum that is right."""
    tensors = load(content)
    (length,) = struct.unpack_from("<Q", content)
    said = json.loads(content[8 : 8 + length])["__metadata__"]
    if rng.random() < 0.5:
        at = rng.choice(list(tensors))
        others = (
            tensors[at].flatten()[:1].clone(),
            tensors[at].to(torch.int16),
            torch.zeros(0),
            tensors["model.output_norm.weight"],
        )
        tensors[rng.choice((at, at, "rng.cpu", "x"))] = rng.choice(others)
        if rng.random() < 0.3:
            del tensors[at]
    else:
        said["about"] = damaged_json(json.loads(said["about"]), rng).decode(errors="replace")
    if rng.random() < 0.9:
        said["crc32"] = str(run_files._checksum(tensors, said["about"]))
    return run_files.save({name: each.clone() for name, each in tensors.items()}, said)


def trace(folder: Path) -> None:
    thread = {"ph": "X", "pid": 7, "tid": 7}
    events = [
        {"ph": "M", "name": "process_name", "pid": 7, "args": {"name": "python"}},
        {**thread, "cat": "user_annotation", "name": "step", "ts": 10.0, "dur": 90.0},
        {**thread, "cat": "cpu_op", "name": "aten::mm", "ts": 12.0, "dur": 20.0},
        {**thread, "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 14, "dur": 3, "args": {"correlation": 5}},
        {**thread, "cat": "cpu_op", "name": "aten::item", "ts": 40.0, "dur": 9.5, "tid": 8},
        {"ph": "X", "cat": "kernel", "name": "gemm", "pid": 0, "tid": 1, "ts": 20.0, "dur": 9.0}
        | {"args": {"device": 0, "stream": 7, "correlation": 5}},
    ]
    content = json.dumps({"schemaVersion": 1, "traceEvents": events}).encode()
    (folder / "trace.json").write_bytes(content)
    (folder / "trace.json.gz").write_bytes(gzip.compress(content))


def spoilt_trace(name: str, content: bytes, rng: random.Random) -> bytes:
    if not name.endswith(".gz"):
        return spoilt(name, content, rng)
    if rng.random() < 0.5:
        return damaged(content, rng)
    return gzip.compress(spoilt("trace.json", gzip.decompress(content), rng), 1)


def read_traces(folder: Path) -> None:
    for name in ("trace.json", "trace.json.gz"):
        found = Trace.read(folder / name)
        assert found.seconds >= 0
        str(found.longest()).encode()
        found.busy(), found.gaps(), found.loading(), found.synchronisations(), found.launches()
        for span in found.spans:
            found.within(span).longest(2)
            found.stack(span.lane, span.start_s), found.ranges_around(span)


def series(folder: Path) -> None:
    values = np.array([0.5, np.nan, 1.0])
    columns, marks = {"cpu": values, "gpu": values}, [(0.5, "step")]
    Series(np.array([1.0, 2.0, 3.0]), columns, {"cpu": "", "gpu": "B/s"}, marks, begin_s=0.5).save(folder / "a.json")


def read_series(folder: Path) -> None:
    found = Series.read(folder / "a.json")
    repr(found).encode()
    assert len(found.durations) <= len(found)
    for name in found.columns:
        assert len(found[name]) == len(found)
    found.between(0.5, 1.5).times("step")


PAGE = """# HELP steps_total Steps.
# TYPE steps_total counter
steps_total{rank="0"} 10
steps_total{rank="1",host="a\\"b"} 12 1700000000
# TYPE wait_seconds histogram
wait_seconds_bucket{le="0.1"} 3
wait_seconds_bucket{le="+Inf"} 4
wait_seconds_sum 1.5e-1
wait_seconds_count 4
"""


def read_metrics(folder: Path) -> None:
    page = read_page((folder / "page.txt").read_bytes().decode(errors="replace"))
    for name in page.samples:
        page.total(name), page.by(name, "rank")
    if "wait_seconds_bucket" in page.samples:
        buckets = {le: n for le, n in page.by("wait_seconds_bucket", "le").items() if le in ("0.1", "+Inf")}
        histogram_quantile(0.5, buckets)


VECTOR = {"resultType": "vector", "result": [{"metric": {"__name__": "up", "rank": "0"}, "value": [3.5, "1"]}]}
ANSWERS = {
    "query.json": VECTOR,
    "scalar.json": {"resultType": "scalar", "result": [3.5, "2"]},
    "query_range.json": {
        "resultType": "matrix",
        "result": [{"metric": {"rank": "0"}, "values": [[97.0, "1"], [98.0, "NaN"], [99.0, "2"]]}],
    },
    "targets.json": {"activeTargets": [{"scrapeUrl": "http://a/metrics", "lastError": "", "health": "up"}]},
}


def answers(folder: Path) -> None:
    for name, data in ANSWERS.items():
        (folder / name).write_text(json.dumps({"status": "success", "data": data}))


def ask_prometheus(folder: Path) -> None:
    def fetch(url: str, *_: object) -> bytes:
        what = url.rpartition("/")[2].partition("?")[0]
        return (folder / ("scalar.json" if url.endswith("query=1") else f"{what}.json")).read_bytes()

    with patch.object(prometheus, "fetch", fetch):
        here = Prometheus()
        assert all(isinstance(each.value, float) for each in here.query("up") + here.query("1"))
        assert len(here.range("up", last_s=4, end=100.0)) == 5
        here.range("up", last_s=4, end=100.0, label="rank")
        json.dumps(here.targets())


SHOWN = """JobId=17 ArrayJobId=17 ArrayTaskId=2 JobName=two lines
   UserId=me(1000) GroupId=me(1000)
   JobState=RUNNING Reason=None Dependency=(null)
   Restarts=0 BatchFlag=1 ExitCode=0:0
   RunTime=00:01:05 TimeLimit=1-00:00:00 TimeMin=N/A
   SubmitTime=2026-11-01T10:05:00 EligibleTime=2026-11-01T10:05:00
   StartTime=2026-11-01T10:06:00 EndTime=2026-11-02T10:06:00
   Partition=alvis NodeList=alvis1-[01-02] NumNodes=2 NumCPUs=4-8 NumTasks=2
   TRES=cpu=4,mem=1500M,node=2,gres/gpu=2 TresPerNode=gres:gpu:A40:1
   WorkDir=/home/me
   StdOut=/home/me/a b.out
"""
QUEUED = "17_2|RUNNING|None|alvis|me|2|alvis1-01|4|1:05|1-00:00:00|2026-11-01T10:05:00|N/A|gres:gpu:A40:1|a|b\n"
ACCOUNTS = """17|CANCELLED by 1000|None|alvis|me|2|a[1-2]|4|65|1-00:00:00|2026-11-01T10:05:00|Unknown|Unknown|cpu=4,mem=1.5G,gres/gpu=2|0:9|00:02.5|||a|b
17.batch|COMPLETED|None|alvis|me|1|a1|4|65||2026-11-01T10:05:00|Unknown|Unknown|cpu=4|0:0|00:02.5|207596K|2|gres/gpuutil=70|batch
"""  # noqa: E501
USED = "17.0|00:02:00|200M|2|gres/gpuutil=70\n"
COMMANDS = {"squeue.txt": QUEUED, "scontrol.txt": SHOWN, "sacct.txt": ACCOUNTS, "sstat.txt": USED}


class Printed(Slurm):
    """Slurm's commands have printed what lies in a folder; the names of its nodes are always the same."""

    def __init__(self, folder: Path, finished: bool):
        self.folder, self.finished = folder, finished

    def _ask(self, *command: str, or_else: str | None = None) -> str:
        if command[1:3] == ("show", "hostnames"):
            return "a1\na2\n"
        if command[0] == "scontrol" and self.finished:
            raise NoSlurm("Invalid job id specified")
        return (self.folder / f"{command[0]}.txt").read_bytes().decode(errors="replace")


def ask_slurm(folder: Path) -> None:
    for finished in (False, True):
        slurm = Printed(folder, finished)
        assert all(job.waited_s is None or job.id for job in slurm.queue())
        slurm.tasks(17)
        str(slurm.efficiency(17))


GB, GFLOP = Rate("B/s", 10e9, 10e9, 0.0), Rate("FLOP/s", 100e9, 100e9, 0.0)
MACHINE = Calibration(Machine("a processor", 2, 8 << 30, None, None), "today", {"fp32": GFLOP}, {}, GB, GB, None)


def twin(folder: Path) -> None:
    prepare(Twin("serve", "a", small_model(model("Llama-3.1-8B")), answer=4), folder / "twin.json", MACHINE)


def read_prepared(folder: Path) -> None:
    found = read_twin(folder / "twin.json")
    json.dumps(asdict(found.twin))
    assert found.twin.model.n_params > 0
    assert all(isinstance(line.unit, str) for line in found.lines.values())


def form(folder: Path) -> None:
    lines = {"a step": Line("s", 1.0, 2.0, "memory"), "the job": Line("s", 3.0)}
    Form("17", "a plan", "serve", "running", lines, {"steps_done": 3.0}, {"machine": "a"}).write(folder)


def local_job(folder: Path) -> None:
    spool = folder / local_runner.FOLDER / "17"
    spool.mkdir(parents=True)
    (spool / "job.json").write_text(json.dumps({"cwd": str(folder), "tasks": [1, 2]}))
    for task in (1, 2):
        state = local_runner.JobState(f"17_{task}", "a", "RUNNING", "None", 1.0, 2.0)
        (spool / f"state-{task}.json").write_text(json.dumps(asdict(state)))
    (spool / "runner.json").write_text("[1, 2.0]")


def read_local(folder: Path) -> None:
    for number in ("17", "17_2"):
        states = runs.Submission(number, folder, True).states()
        assert all(isinstance(state.state, str) and isinstance(state.done, bool) for state in states)


def kept_states(folder: Path) -> None:
    state = local_runner.JobState("17", "a", "COMPLETED", "None", 1.0, 2.0, 3.0, 0)
    (folder / ".slurm-17.json").write_text(json.dumps([asdict(state)]))


def read_kept_states(folder: Path) -> None:
    with patch.object(runs, "Slurm", side_effect=NoSlurm("it is away")):
        states = runs.Submission("17", folder, False).states()
        assert all(isinstance(state.state, str) for state in states)


BLOCK = [torch.arange(6.0).view(2, 3), torch.ones(4, dtype=torch.bfloat16)]


def blocks(folder: Path) -> None:
    kept = KVFolder(folder)
    assert kept.write(bytes(16), BLOCK)
    kept.flush()


def read_block(folder: Path) -> None:
    """Found as it was, or not found."""
    out = [torch.zeros_like(each) for each in BLOCK]
    found = KVFolder(folder).read(bytes(16), out)
    assert all(torch.equal(each, was if found else torch.zeros_like(was)) for each, was in zip(out, BLOCK, strict=True))


STATE = {"w": torch.arange(6.0).view(2, 3), "deep": {"b": torch.ones(4)}}


def checkpoint(folder: Path) -> None:
    Checkpoints(folder).save(STATE, 1)


def read_checkpoint(folder: Path) -> None:
    """As it was saved, or not at all."""
    out = {"w": torch.zeros(2, 3), "deep": {"b": torch.zeros(4)}}
    assert Checkpoints(folder).load(out) == 1
    assert torch.equal(out["w"], STATE["w"])


def rows(folder: Path) -> None:
    lines = FILE.read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "rows.csv").write_text("".join(lines[:6]), encoding="utf-8")


@cache
def tokenizer():
    from llmhw_helpers.llm.tokenizer import load_tokenizer

    return load_tokenizer()


def bodies(folder: Path) -> None:
    both = {"max_tokens": 4, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 3, "n": 2, "stop": ["a", "b"]}
    both |= {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": False, "model": "a", "user": "me"}
    both |= {"logprobs": None, "presence_penalty": 0, "logit_bias": {}}
    parts = [{"type": "text", "text": "how"}, {"type": "text", "text": "are you"}]
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": parts, "name": "me"}]
    (folder / "completion.json").write_text(json.dumps(both | {"prompt": ["hello", "you"]}))
    (folder / "chat.json").write_text(json.dumps(both | {"messages": messages, "max_completion_tokens": 4}))


def read_bodies(folder: Path) -> None:
    for name in ("completion", "chat"):
        found = read_ask(read_json((folder / f"{name}.json").read_bytes()), name == "chat", tokenizer(), ["a"], 64)
        assert found.prompts
        assert all(0 < len(each) + found.n_new <= 64 for each in found.prompts)


def wish(folder: Path) -> None:
    said = {"model": "Llama-3.1-8B", "task": "serve", "where": "Alvis", "users": 4, "formats": ["bf16", "int4"]}
    said |= {"prompt": 1000, "answer": 300, "max_loss": 0.03, "tokens_per_s": 10.0, "utilisation": 0.9, "n_gpus": 4}
    (folder / "wish.json").write_text(json.dumps(said))


def read_wish(folder: Path) -> None:
    with suppress(json.JSONDecodeError, UnicodeDecodeError, RecursionError):  # JSON is whoever asks' own
        said = json.loads((folder / "wish.json").read_bytes())
        assert read_request(said).users > 0


def config(folder: Path) -> None:
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    sizes |= {"num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": True, **sizes}))


def plan(folder: Path) -> None:
    said = StringIO()
    with redirect_stdout(said), patch("sys.stderr", said):
        status = cli.main([str(folder / "config.json"), "serve", "A40", "--rows", "2"])
    assert status in (0, 1)
    assert status == 0 or len(said.getvalue()) < 1500, said.getvalue()


SCRIPT = """#!/bin/bash -l
# a twin
#SBATCH --job-name=twin --nodes=2
#SBATCH --time=1-00:00:30 --signal=B:USR1@60
#SBATCH --array=1-9:2%2 --output=%x-%A_%a.out --requeue
srun hostname
"""


def read_script(folder: Path) -> None:
    check(directives((folder / "job.sh").read_bytes().decode(errors="replace")))


def layers(folder: Path) -> None:
    for i in range(2):
        content = run_files.save({"a.weight": torch.ones(2, 3), "b.weight": torch.ones(3, dtype=torch.bfloat16)})
        (folder / f"layer_{i:03}.safetensors").write_bytes(content)


def read_layers(folder: Path) -> None:
    found = DiskLayers(folder, 2)
    try:
        for i in range(2):
            assert all(each.numel() for each in found.fetch(i).values())
    finally:
        found.close()


def notebook(folder: Path) -> None:
    table = {"predicted": ["~1.23 ms", "~2 B"], "bound": ["memory", "-"], "measured": ["~4.56 ms ↑", ""]}
    rows = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cells[i]}</td>" for cells in table.values())}</tr>'
        for i, name in enumerate(("a", "b"))
    )
    head = "".join(f"<th>{name}</th>" for name in ("", *table))
    page = f"<table><caption>Ledger of 00</caption><tr>{head}</tr>{rows}</table>"
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["~a processor, 2 cores, 8 GiB of memory, no GPU\n"]}
    ]
    outputs += [{"output_type": "display_data", "data": {"text/plain": "a", "text/html": [page]}, "metadata": {}}]
    cells = [{"cell_type": "markdown", "source": "a"}, {"cell_type": "code", "source": "a", "outputs": outputs}]
    (folder / f"{NOTEBOOKS[0]}.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4, "metadata": {}}))


def read_notebook(folder: Path) -> None:
    found = stored_report(folder)
    assert "\n" not in found.machine
    assert all(isinstance(each.predicted, float) or each.predicted is None for each in found.entries)


def spoilt_notebook(name: str, content: bytes, rng: random.Random) -> bytes:
    """Half of them in the table that it shows."""
    if rng.random() < 0.5:
        return damaged_json(json.loads(content), rng)
    said = json.loads(content)
    shown = said["cells"][1]["outputs"][1]["data"]
    shown["text/html"] = swapped(name, shown["text/html"][0].encode(), rng).decode(errors="replace")
    return json.dumps(said).encode()


def some_runs(folder: Path) -> None:
    values = np.array([0.5, 0.25, 1.0])
    series = Series(np.array([1.0, 2.0, 3.0]), {"cpu_percent": values}, {"cpu_percent": "%"}, [(0.5, "step")])
    write_runs(folder / PARTS["seen"], [("healthy", series), ("straggler", series)])


def read_runs(folder: Path) -> None:
    with patch("llmhw_helpers.course.recorded_runs.FOLDER", folder):
        for kind, found in recorded_runs.__wrapped__("seen"):
            assert isinstance(kind, str)
            assert all(len(found[name]) == len(found) for name in found.columns)


CODE = {"a.nbi": b"an index of functions", "a.1.nbc": b"the code of one"}


def code(folder: Path) -> None:
    (folder / "room").mkdir()
    for name, content in CODE.items():
        (folder / "room" / name).write_bytes(content)
    with patch.object(CodeFolder, "_sweep"), CodeFolder(folder).open():  # as a process leaves what it has made
        pass


def read_code(folder: Path) -> None:
    """What is left is as it was made."""
    with redirect_stderr(StringIO()), CodeFolder(folder).open():
        left = {path.name: path.read_bytes() for path in (folder / "room").iterdir()}
    assert left.items() <= CODE.items()


def text(name: str, content: str):
    return lambda folder: (folder / name).write_bytes(content.encode())


OTHERS = (b"", b"-1", b"1e400", b"nan", b"inf", b"9" * 5000, b"\0", b"\xff", b"a" * 5000, b"0", b"1_0", b"\xd9\xa3")


def swapped(name: str, content: bytes, rng: random.Random) -> bytes:
    """A text of lines, words and numbers: some are others', missing, or of another kind."""
    if rng.random() < 0.3:
        return damaged(content, rng)
    pieces = re.split(rb'(?<=[ |,=\n:{}"])', content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(pieces))
        other = rng.choice(OTHERS) + pieces[at][-1:]
        pieces[at] = rng.choice((other, rng.choice(pieces), pieces[at] * 2, b""))
    return b"".join(pieces)


READERS = {
    "corpus": Reader(corpus, read_corpus, (BadCorpus,), ("tokens.bin", "tokens.bin.json"), 200),
    "checkpoint of a run": Reader(
        run,
        lambda folder: read_run(folder / "run.safetensors"),
        (BadCheckpoint,),
        ("run.safetensors",),
        200,
        spoilt_run,
    ),
    "training": Reader(saved_training, resume, (BadCheckpoint,), ("training.safetensors",), 60, spoilt_training),
    "trace": Reader(trace, read_traces, (BadTrace,), ("trace.json", "trace.json.gz"), 100, spoilt_trace),
    "series": Reader(series, read_series, (NoSeries, ValueError), ("a.json",), 200),
    "nsys stats": Reader(
        text("stats.csv", SAMPLE),
        lambda folder: read_stats(folder / "stats.csv"),
        (BadStats,),
        ("stats.csv",),
        100,
        swapped,
    ),
    "page of numbers": Reader(text("page.txt", PAGE), read_metrics, (NoAnswer,), ("page.txt",), 100, swapped),
    "Prometheus' answers": Reader(answers, ask_prometheus, (NoAnswer, BadQuery, ValueError), tuple(ANSWERS), 200),
    "Slurm's answers": Reader(
        lambda folder: [(folder / name).write_text(said) for name, said in COMMANDS.items()],
        *(ask_slurm, (NoSlurm, UnknownJob, ValueError), tuple(COMMANDS), 200, swapped),
    ),
    "twin": Reader(twin, read_prepared, (NoTwin,), ("twin.json",), 200),
    "form": Reader(form, lambda folder: str(read_form(folder / "job-17.json")), (BadForm,), ("job-17.json",), 200),
    "local job": Reader(local_job, read_local, (BadJob,), ("job.json", "state-1.json", "runner.json"), 100),
    "kept states": Reader(kept_states, read_kept_states, (runs.NotSubmitted,), (".slurm-17.json",), 100),
    "block of a cache": Reader(blocks, read_block, (), (f"{bytes(16).hex()}.kv",), 60),
    "checkpoint of ranks": Reader(
        checkpoint, read_checkpoint, (CheckpointError,), ("contents.json", ".metadata", "__0_0.distcp"), 60
    ),
    "measured rows": Reader(
        rows, lambda folder: measured_rows(folder / "rows.csv"), (BadRow,), ("rows.csv",), 100, swapped
    ),
    "bodies of requests": Reader(bodies, read_bodies, (Refused,), ("completion.json", "chat.json"), 300),
    "wish for a plan": Reader(wish, read_wish, (BadRequest, UnknownName, ValueError), ("wish.json",), 100),
    "config of a plan": Reader(config, plan, (), ("config.json",), 40),
    "job script": Reader(text("job.sh", SCRIPT), read_script, (BadJob, UnknownName), ("job.sh",), 100, swapped),
    "executed notebook": Reader(
        notebook, read_notebook, (BadNotebook,), (f"{NOTEBOOKS[0]}.ipynb",), 200, spoilt_notebook
    ),
    "recorded runs": Reader(some_runs, read_runs, (NoSeries,), (PARTS["seen"],), 200),
    "compiled code": Reader(code, read_code, (), ("sums.json", *CODE), 100),
    "layer files": Reader(
        layers, read_layers, (BadModelFile,), ("layer_000.safetensors", "layer_001.safetensors"), 100
    ),
}
ANSWERED = ("page of numbers", "Prometheus' answers", "Slurm's answers", "bodies of requests", "wish for a plan")


def test_every_documented_error_is_one_line_whatever_it_is_told():
    """Of a kind that makes it so: no reader has to think of it. Plain ValueErrors are `Settings`', which does."""
    kinds = {error for reader in READERS.values() for error in reader.errors} - {ValueError}
    kinds |= {BadModelFile, BadAdapter, BadText, NotThisFamily}
    assert len(kinds) > 20
    assert all(issubclass(kind, OneLine) for kind in kinds)
    assert max(len(str(kind("a\nb\x1cc" + "d" * 10_000))) for kind in kinds) < 1000
    assert {str(kind("a\nb\x1cc")) for kind in kinds} == {"a b c"}


SHAPES = {
    "lists of lists": "[" + "[[]]," * 200_000 + "0]",
    "names": "{" + ",".join(f'"{i:x}":0' for i in range(700_000)) + "}",
    "texts": "[" + '"ab",' * 2_000_000 + "0]",
}
RECORDS = ("trace", "series", "form", "twin", "kept states", "executed notebook", "recorded runs")
RECORDS += ("Prometheus' answers",)
# Of names and texts these two may have any number: their events and values have the same few names.
ANY_NUMBER = {(name, what) for name in ("trace", "Prometheus' answers") for what in ("names", "texts")}


@pytest.mark.parametrize(("name", "shape"), [each for each in product(RECORDS, SHAPES) if each not in ANY_NUMBER])
def test_no_record_takes_more_memory_than_ten_times_its_size(name, shape, tmp_path):
    """And 20 MB, for small ones."""
    reader = READERS[name]
    reader.make(tmp_path)
    assert fault(lambda: reader.read(tmp_path), reader.errors) is None
    (tmp_path / reader.files[0]).write_text(content := f'{{"a": {SHAPES[shape]}}}')
    most = memory_of(lambda: reader.read(tmp_path), reader.errors)
    assert most < 10 * len(content) + 20e6, f"{most / len(content):.0f} times its size"


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("Slurm's answers", "scontrol.txt", "JobId=17\n" + "a\n" * 3_000_000),
        ("Slurm's answers", "scontrol.txt", "JobId=17 " + "a=1 " * 1_500_000),
        ("config of a plan", "config.json", '"' + "a" * 6_000_000 + '"'),
    ],
    ids=["lines", "words", "a name"],
)
def test_what_is_long_takes_no_longer_than_its_length(name, file, content, tmp_path):
    """Six megabytes in a second or so, where the square of their length would be a minute or more."""
    READERS[name].make(tmp_path)
    (tmp_path / file).write_text(content)
    assert fault(lambda: READERS[name].read(tmp_path), READERS[name].errors) is None


def test_slurm_that_says_nothing_of_a_job_is_refused(tmp_path):
    for name in COMMANDS:
        (tmp_path / name).write_text("\n")
    with pytest.raises(NoSlurm, match="scontrol answers in a form that is not known here: 'JobId'"):
        Printed(tmp_path, False).job(17)


# Blocks of a cache and compiled code have tests of it beside those of their folders.
NOT_HERE = (*ANSWERED, "job script", "block of a cache", "compiled code")


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("name", [name for name in READERS if name not in NOT_HERE])
def test_what_is_no_record_is_refused_in_one_short_line(name, kind, tmp_path):
    try_what_is_no_file(READERS[name], kind, tmp_path, (FileNotFoundError, OSError))


@pytest.mark.parametrize("name", READERS)
def test_whatever_is_answered_or_recorded_it_is_read_or_refused_in_one_short_line(name, tmp_path):
    try_damaged_files(name, READERS[name], tmp_path)
