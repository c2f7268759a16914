"""A model streamed from files gives the logits of the one in memory, holds what it may, and reads the disk anew."""

import mmap
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from llmhw_helpers.costs.offload import NoRoom, layer_bytes
from llmhw_helpers.files import NotSaved
from llmhw_helpers.llm.gguf_file import BadModelFile
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.measure.pages import FileShrank
from llmhw_helpers.serving import offload as room
from llmhw_helpers.serving.decoding import ServedModel, decode, generate, new_cache, prefill
from llmhw_helpers.serving.engine import Engine
from llmhw_helpers.serving.offload import HostLayers, Offloaded, write_layers
from llmhw_helpers.serving.weights import Served
from llmhw_helpers.specs.architectures import RopeScaling

PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]


@pytest.fixture
def folder(tiny, tmp_path):
    write_layers(tiny, tmp_path)
    return tmp_path


def limit(spec, n_layers, dtype="fp32"):
    """Room for the rest and so many layers."""
    layer = layer_bytes(spec, dtype)
    return (spec.n_params * (4 if dtype == "fp32" else 2) - spec.n_layers * layer) + n_layers * layer


def logits(served):
    cache = new_cache(served, 2, 16)
    found = [prefill(served, PROMPTS, cache)]
    return torch.stack(found + [decode(served, torch.tensor([7, t]), cache) for t in range(4)])


@pytest.mark.parametrize("n_layers", [2, 3])
def test_the_logits_are_those_of_the_model_in_memory(tiny, folder, n_layers):
    expected = logits(Served(tiny))
    off = Offloaded(tiny.spec, folder, limit(tiny.spec, n_layers))
    torch.testing.assert_close(logits(off), expected, atol=1e-4, rtol=0)
    assert list(generate(off, PROMPTS[0], 6)) == list(generate(Served(tiny), PROMPTS[0], 6))
    off.close()


def test_another_function_and_stretched_positions_too(tiny_spec, random_model, tmp_path):
    stretched = RopeScaling("yarn", 8.0, original_context_length=16, attention_factor=1.2)
    network = random_model(replace(tiny_spec, activation="gelu_tanh", rope_scaling=stretched))
    write_layers(network, tmp_path)
    off = Offloaded(network.spec, tmp_path, limit(network.spec, 2))
    torch.testing.assert_close(logits(off), logits(Served(network)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("n_layers", [2, 3])
def test_it_is_what_prefill_decode_and_the_engine_take(tiny, folder, n_layers):
    off = Offloaded(tiny.spec, folder, limit(tiny.spec, n_layers))
    assert isinstance(off, ServedModel)
    assert (off.dtype, off.device, off.nbytes) == (torch.float32, torch.device("cpu"), limit(tiny.spec, n_layers))
    prompts = [PROMPTS[0], PROMPTS[1][:3]]
    found = Engine(off, 20, 4).generate(prompts, 6)
    assert found == [list(generate(Served(tiny), prompt, 6)) for prompt in prompts]


def test_in_bf16_too(tiny, tmp_path):
    network = tiny.to(torch.bfloat16)
    write_layers(network, tmp_path)
    off = Offloaded(network.spec, tmp_path, limit(network.spec, 2, "bf16"))
    torch.testing.assert_close(logits(off), logits(Served(network)), atol=0.5, rtol=0.05)
    assert off.parts.layer_bytes == layer_bytes(network.spec, "bf16")


def test_what_is_streamed_is_what_was_predicted_to_the_byte(tiny, folder):
    for n_layers, streamed in ((2, 3), (3, 0)):
        off = Offloaded(tiny.spec, folder, limit(tiny.spec, n_layers))
        assert off.bytes_so_far == 0
        logits(off)  # five passes
        assert off.bytes_so_far == 5 * off.parts.streamed_bytes == 5 * streamed * layer_bytes(tiny.spec, "fp32")


def test_of_five_layers_two_stay_and_are_not_read_again(tiny_spec, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = Transformer(replace(tiny_spec, n_layers=5))
    write_layers(model, tmp_path)
    off = Offloaded(model.spec, tmp_path, limit(model.spec, 4))
    held = [*off.model.parameters(), *(each for layer in off._resident for each in layer.values())]
    assert sum(each.nbytes for each in held) == off.parts.resident_bytes == limit(model.spec, 2)
    calls = []
    for name in ("prefetch", "fetch", "release"):
        what = getattr(off.layers, name)
        monkeypatch.setattr(off.layers, name, lambda i, what=what, name=name: (calls.append((name, i)), what(i))[1])
    torch.testing.assert_close(logits(off), logits(Served(model)), atol=1e-4, rtol=0)
    a_pass = calls[: len(calls) // 5]
    assert a_pass == [
        ("prefetch", 2),  # while the resident ones are at work
        *[("prefetch", 3), ("fetch", 2), ("release", 2)],
        *[("prefetch", 4), ("fetch", 3), ("release", 3)],
        *[("fetch", 4), ("release", 4)],
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="pages are counted on Linux")
def test_streamed_layers_leave_the_memory_so_that_the_next_pass_reads_the_disk(tiny, folder):
    off = Offloaded(tiny.spec, folder, limit(tiny.spec, 2))
    logits(off)
    if not off.layers.dropped:
        pytest.skip("no disk under the temporary folder")
    assert [file.cached_pages() for file in off.layers._files] == [0, 0, 0]
    weights = off.layers.fetch(1)
    assert weights["ffn_down.weight"].abs().sum() > 0
    assert off.layers._files[1].cached_pages() > 0
    del weights
    off.layers.release(1)
    assert off.layers._files[1].cached_pages() == 0


def test_pages_that_cannot_be_dropped_are_told(tiny, folder, monkeypatch):
    off = Offloaded(tiny.spec, folder, limit(tiny.spec, 2))
    monkeypatch.setattr(room.MappedFile, "forget", lambda self: False)
    logits(off)
    assert not off.layers.dropped


def test_a_file_that_shrinks_under_the_map_ends_in_one_line_not_in_the_program_s_death(tiny, folder):
    code = f"""
import dataclasses, torch
from llmhw_helpers.serving.offload import Offloaded
from llmhw_helpers.serving.decoding import new_cache, prefill
from llmhw_helpers.specs.models import model
spec = dataclasses.replace(
    model("SmolLM2-135M"), n_layers=3, d_model=32, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=48, vocab_size=50,
    context_length=64,
)
off = Offloaded(spec, __import__("pathlib").Path({str(folder)!r}), {limit(tiny.spec, 2)})
with open({str(folder / "layer_001.safetensors")!r}, "r+b") as file:
    file.truncate({mmap.PAGESIZE})
try:
    prefill(off, [[1, 2]], new_cache(off, 1, 8))
except OSError as error:
    print(type(error).__name__, error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"{FileShrank.__name__} the file has shrunk from")
    assert run.stdout.count("\n") == 1


@pytest.mark.parametrize("name", ["layer_001.safetensors", "outside.safetensors"])
def test_a_file_that_was_cut_or_is_missing_is_refused_at_the_door(tiny, folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BadModelFile, match=name) as error:
        Offloaded(tiny.spec, folder, limit(tiny.spec, 2))
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises((BadModelFile, FileNotFoundError), match=name):
        Offloaded(tiny.spec, folder, limit(tiny.spec, 2))


def test_a_limit_without_room_for_two_layers_is_refused(tiny, folder):
    with pytest.raises(NoRoom, match="give at least"):
        Offloaded(tiny.spec, folder, limit(tiny.spec, 1))


def test_a_full_disk_is_told_in_one_line(tiny, tmp_path, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(NotSaved, match=r"embedding not saved \(No space left on device\)"):
        write_layers(tiny, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_from_the_hosts_memory_on_a_gpu(tiny, folder):
    off = Offloaded(tiny.spec, folder, limit(tiny.spec, 2), "cuda")
    assert isinstance(off.layers, HostLayers)
    cache = new_cache(off, 1, 16)
    found = prefill(off, PROMPTS[:1], cache)
    served = Served(tiny)
    expected = prefill(served, PROMPTS[:1], new_cache(served, 1, 16))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=0)
