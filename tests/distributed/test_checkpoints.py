"""Checkpoints: bit for bit on any number of ranks; one that is damaged or foreign is a line, a killed save no harm."""

import json
import os
import warnings

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import FileSystemWriter

from llmhw_helpers.distributed.checkpoints import CONTENTS, CheckpointError, Checkpoints, divided
from llmhw_helpers.distributed.ranks import RankFailed, Ranks


@pytest.fixture(scope="module")
def ranks():
    with Ranks(3, timeout_s=60) as ranks:
        yield ranks


def whole(factor=1.0):
    """What one process would hold: rows that 3 ranks do not divide evenly, nested, in two formats."""
    draw = torch.Generator().manual_seed(0)
    weights = {"layer": torch.randn(10, 4, generator=draw), "norm": torch.randn(4, generator=draw).bfloat16()}
    averages = {name: torch.randn(tensor.shape, generator=draw) for name, tensor in weights.items()}
    return {
        "weights": {name: tensor * factor for name, tensor in weights.items()},
        "averages": {name: tensor * factor for name, tensor in averages.items()},
    }


def cut(state):
    """The same on ranks: matrices are divided among them."""
    return {
        group: {name: divided(tensor) if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
        for group, tensors in state.items()
    }


def same(state, factor=1.0):
    pairs = [
        (tensor, whole(factor)[group][name]) for group, tensors in state.items() for name, tensor in tensors.items()
    ]
    return all(torch.equal(a.full_tensor() if hasattr(a, "full_tensor") else a, b) for a, b in pairs)


def save_twice(folder):
    """In the foreground; and behind, while the state goes on to change and the ranks go on to talk."""
    checkpoints = Checkpoints(folder)
    checkpoints.save(cut(whole()), 1)
    state = cut(whole(2.0))
    checkpoints.save_async(state, 2)
    for tensors in state.values():
        for tensor in tensors.values():
            (tensor.to_local() if hasattr(tensor, "to_local") else tensor).zero_()
    x = torch.ones(100)
    for _ in range(20):
        dist.all_reduce(x.fill_(1.0))
    checkpoints.wait()
    return checkpoints.steps(), x[0].item(), state["weights"]["layer"].to_local().shape[0]


def load_both(folder):
    found = []
    for step, factor in ((1, 1.0), (None, 2.0)):
        state = cut(whole(0.0))
        found.append((Checkpoints(folder).load(state, step), same(state, factor)))
    return found


def test_any_number_of_ranks_goes_on_from_the_same_bits(ranks, tmp_path):
    saved = ranks.run(save_twice, tmp_path)
    assert saved == [([1, 2], 3.0, rows) for rows in (4, 4, 2)]
    assert ranks.run(load_both, tmp_path) == 3 * [[(1, True), (2, True)]]
    with Ranks(2) as fewer:
        assert fewer.run(load_both, tmp_path) == 2 * [[(1, True), (2, True)]]
    state = whole(0.0)
    assert Checkpoints(tmp_path).load(state) == 2
    assert same(state, 2.0)


def one_fails(folder, step):
    """Rank 1's disk is full."""
    checkpoints = Checkpoints(folder)
    write = FileSystemWriter.write_data
    if dist.get_rank() == 1:
        FileSystemWriter.write_data = full
    try:
        checkpoints.save(cut(whole()), step)
    except CheckpointError as error:
        return str(error)
    finally:
        FileSystemWriter.write_data = write


def full(*_):
    raise OSError(28, "No space left on device")


def refused(folder, what):
    """The same line on all ranks, though the fault is on one."""
    checkpoints, state = Checkpoints(folder), cut(whole())
    odd = dist.get_rank() == 2
    if what == "a number" and odd:
        state["weights"]["rate"] = 3e-4
    if what == "another shape" and odd:
        state["weights"]["norm"] = torch.ones(5).bfloat16()
    if what == "one more" and odd:
        state["weights"]["bias"] = torch.ones(5)
    try:
        checkpoints.save(state, step=7 + (odd and what == "another step"))
    except CheckpointError as error:
        return str(error)


def test_what_fails_on_one_rank_is_one_line_on_all(ranks, tmp_path):
    assert ranks.run(one_fails, tmp_path, 5) == 3 * [
        "saving step 5: rank 1: OSError: [Errno 28] No space left on device"
    ]
    assert ranks.run(refused, tmp_path, "a number") == 3 * [
        "weights.rate is a float, and a checkpoint holds tensors: torch.tensor() makes one"
    ]
    differ = {
        "another step": "the step is 7 on rank 0, and 8 on rank 2",
        "another shape": "weights.norm is ['bfloat16', [4]] on rank 0, and ['bfloat16', [5]] on rank 2",
        "one more": "weights.bias is missing on rank 0, and ['float32', [5]] on rank 2",
    }
    for what, line in differ.items():  # it would be saved, and could not be loaded
        assert ranks.run(refused, tmp_path, what) == 3 * [f"saving: the ranks differ: {line}"]
    assert Checkpoints(tmp_path).steps() == []


def die_while_saving(folder, rank, behind):
    """Step 1 is whole; then `rank` is gone in the middle of step 2."""
    checkpoints = Checkpoints(folder, timeout_s=20)
    if 1 not in checkpoints.steps():
        checkpoints.save(cut(whole()), 1)
    if dist.get_rank() == rank:
        FileSystemWriter.write_data = lambda *_: os._exit(9)
    (checkpoints.save_async if behind else checkpoints.save)(cut(whole(2.0)), 2)
    checkpoints.wait()


@pytest.mark.parametrize(("rank", "behind"), [(0, False), (2, True)])
def test_a_rank_that_dies_while_it_saves_leaves_the_last_good_one(ranks, tmp_path, rank, behind):
    with pytest.raises(RankFailed, match=rf"rank {rank} "):
        ranks.run(die_while_saving, tmp_path, rank, behind)
    checkpoints, state = Checkpoints(tmp_path), whole(0.0)
    assert (tmp_path / "saving-2").exists()
    assert checkpoints.load(state) == 1
    assert same(state)
    checkpoints.save(whole(2.0), 2)  # what was left is cleared away
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-2"]
    assert checkpoints.load(state) == 2
    assert same(state, 2.0)


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(whole(), step)
    return checkpoints


def part(folder):
    return next((folder / "step-2").glob("*.distcp"))


def cut_short(folder):
    part(folder).write_bytes(part(folder).read_bytes()[:-1])


def flip(folder):
    data = bytearray(part(folder).read_bytes())
    data[len(data) // 2] ^= 1
    part(folder).write_bytes(data)


def damage_contents(folder):
    (folder / "step-2" / CONTENTS).write_text('{"step": 2')


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (cut_short, r"step-2 is damaged: __0_0.distcp is missing or cut short; whole ones are of step 1"),
        (flip, r"step-2 is damaged: __0_0.distcp is not what was saved; whole ones are of step 1"),
        (lambda folder: part(folder).unlink(), r"step-2 is damaged: __0_0.distcp is missing"),
        (lambda folder: (folder / "step-2" / ".metadata").write_bytes(b""), r"step-2 is damaged: .metadata is missing"),
        (damage_contents, r"step-2: its contents.json cannot be read"),
        (lambda folder: (folder / "step-2" / CONTENTS).write_text("[]"), r"step-2: its contents.json cannot be read"),
    ],
)
def test_a_damaged_one_is_a_line_and_changes_nothing(saved, damage, line):
    damage(saved.folder)
    state = whole(0.0)
    with pytest.raises(CheckpointError, match=rf"^{line}"):
        saved.load(state)
    assert same(state, 0.0)
    assert saved.load(state, 1) == 1
    assert same(state)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda s: s["weights"].pop("norm"), "it also has weights.norm"),
        (lambda s: s["weights"].update(bias=torch.zeros(3)), "it has no weights.bias; it has weights.layer"),
        (
            lambda s: s["weights"].update(layer=torch.zeros(10, 5)),
            "weights.layer is float32 of 10 x 4, and float32 of 10 x 5 is asked for",
        ),
        (
            lambda s: s["averages"].update(layer=torch.zeros(10, 4).half()),
            "averages.layer is float32 of 10 x 4, and float16",
        ),
    ],
)
def test_one_of_another_model_is_a_line(saved, change, line):
    state = whole(0.0)
    change(state)
    with pytest.raises(CheckpointError, match=rf"^step-2 is of another model: {line}"):
        saved.load(state)


def test_another_layout_and_none_at_all(tmp_path):
    torch.save(whole(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="holds no whole checkpoint$"):
        Checkpoints(tmp_path).load(whole())
    (tmp_path / "step-3").mkdir()
    torch.save(whole(), tmp_path / "step-3" / "model.pt")
    with pytest.raises(CheckpointError, match=r"step-3 is no checkpoint of this course: it has no contents.json$"):
        Checkpoints(tmp_path).load(whole(), 3)


def test_a_step_is_saved_once_and_the_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (5, 10, 20):
        checkpoints.save(whole(), step)
    assert checkpoints.steps() == [10, 20]
    with pytest.raises(CheckpointError, match="^step-20 is there already"):
        checkpoints.save(whole(), 20)
    with pytest.raises(CheckpointError, match="^step-7 would not be kept"):  # a run that went back and goes on
        checkpoints.save(whole(), 7)
    checkpoints.save(whole(), 15)
    assert checkpoints.steps() == [15, 20]
    with pytest.raises(
        CheckpointError, match="^a step is a whole number from 0 on, not -1"
    ):  # `steps` would not know it
        checkpoints.save(whole(), -1)
    with pytest.raises(ValueError, match="at least one checkpoint is kept, not 0"):
        Checkpoints(tmp_path, keep=0)


def test_one_process_saves_in_the_foreground_and_without_a_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Checkpoints(tmp_path).save(whole(), 1)
        Checkpoints(tmp_path).load(whole())
    with pytest.raises(CheckpointError, match="save_async works among ranks"):
        Checkpoints(tmp_path).save_async(whole(), 2)


def test_what_it_holds_stands_in_plain_json(saved):
    told = json.loads((saved.folder / "step-1" / CONTENTS).read_text())
    assert told["tensors"]["weights.norm"] == ["bfloat16", [4]]
    sizes = {path.name: path.stat().st_size for path in (saved.folder / "step-1").iterdir() if path.name != CONTENTS}
    assert {name: n_bytes for name, (n_bytes, _) in told["files"].items()} == sizes


def test_a_folder_that_cannot_be_is_a_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file is no folder for checkpoints: File exists"):
        Checkpoints(tmp_path / "file")
