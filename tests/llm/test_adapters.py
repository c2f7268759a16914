"""Adapter files: peft reads ours and we read peft's; what is damaged or foreign is refused, nothing is unpickled."""

import dataclasses
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch
from damage import nobody_waits_for
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from llmhw_helpers.files import NotSaved
from llmhw_helpers.llm.adapters import APPLIED, CONFIG, HARMLESS, HEAD, OFF, TENSORS, load_adapter, save_adapter
from llmhw_helpers.llm.checkpoints import load_model
from llmhw_helpers.llm.lora import BadAdapter, LoRALinear, adapters, add_lora, remove_lora
from llmhw_helpers.llm.transformer import Transformer

EVERY = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
TOKENS = torch.arange(40).reshape(2, 20)
ATOL = 1e-4


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory, small_llama):
    folder = tmp_path_factory.mktemp("base")
    small_llama().save_pretrained(folder)
    return folder


def spread(model):
    torch.manual_seed(1)
    for layer in adapters(model).values():
        layer.B.data.normal_(std=0.1)
    return model


def adapted(snapshot, targets=("attn_q", "attn_v"), rank=4):
    model = load_model(snapshot)
    torch.manual_seed(0)
    add_lora(model, rank, 6.0, targets)
    return spread(model)


@torch.inference_mode()
def logits(model):
    result = model(TOKENS)
    return result if isinstance(result, torch.Tensor) else result.logits


@pytest.mark.parametrize("targets", [("attn_q", "attn_v"), EVERY, ("output",), ("ffn_down", "output")])
def test_peft_loads_ours_and_gives_the_same_logits(snapshot, tmp_path, targets):
    model = adapted(snapshot, targets)
    save_adapter(model, tmp_path / "a")
    theirs = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(snapshot), tmp_path / "a")
    torch.testing.assert_close(logits(theirs), logits(model), atol=ATOL, rtol=ATOL)
    assert not torch.allclose(logits(model), logits(load_model(snapshot)), atol=100 * ATOL)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear", ["down_proj", "lm_head"]])
@pytest.mark.parametrize("rslora", [False, True])
def test_we_load_pefts(snapshot, tmp_path, targets, rslora):
    config = LoraConfig(r=4, lora_alpha=6, target_modules=targets, use_rslora=rslora, task_type="CAUSAL_LM")
    theirs = get_peft_model(LlamaForCausalLM.from_pretrained(snapshot), config)
    torch.manual_seed(2)
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    theirs.save_pretrained(tmp_path / "a")  # where the head is adapted, the base's head is in it, too
    assert (HEAD in load_file(tmp_path / "a" / TENSORS)) == ("lm_head" in targets)
    ours = load_model(snapshot)
    load_adapter(ours, tmp_path / "a")
    torch.testing.assert_close(logits(ours), logits(theirs), atol=ATOL, rtol=ATOL)
    assert sum(p.numel() for p in ours.parameters() if p.requires_grad) == theirs.get_nb_trainable_parameters()[0]


def saved_by_peft(snapshot, folder, **settings):
    """An adapter of peft's, trained, so to say."""
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | settings
    torch.manual_seed(3)
    theirs = get_peft_model(LlamaForCausalLM.from_pretrained(snapshot), LoraConfig(**settings))
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "eva"},
        {"lora_dropout": 0.5},
        {"target_modules": r".*\.(q|v)_proj"},
        {"layers_to_transform": [0, 2], "layers_pattern": "layers"},
        {"layers_to_transform": 1},
        {"target_modules": ["layers.0.self_attn.q_proj", "down_proj"]},
    ],
    ids=str,
)
def test_settings_that_leave_the_base_as_it_is_are_read_as_peft_does(snapshot, tmp_path, settings):
    theirs = saved_by_peft(snapshot, tmp_path / "a", **settings).eval()
    ours = load_model(snapshot)
    load_adapter(ours, tmp_path / "a")
    torch.testing.assert_close(logits(ours), logits(theirs), atol=ATOL, rtol=ATOL)
    assert not torch.allclose(logits(ours), logits(load_model(snapshot)), atol=100 * ATOL)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"init_lora_weights": "pissa"}, "began with init_lora_weights = pissa, .* path_initial_model_for_weight"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = olora"),
        ({"init_lora_weights": "mica"}, "init_lora_weights = mica"),
        ({"alora_invocation_tokens": [91, 92]}, "LORA with alora_invocation_tokens"),
        ({"trainable_token_indices": [5]}, "LORA with trainable_token_indices"),
        ({"use_qalora": True, "qalora_group_size": 4}, "LORA with use_qalora"),
        ({"use_dora": True}, "LORA with use_dora"),
        ({"rank_pattern": {"q_proj": 8}}, "LORA with rank_pattern"),
        ({"alpha_pattern": {"q_proj": 8}}, "LORA with alpha_pattern"),
        ({"exclude_modules": ["q_proj"]}, "LORA with exclude_modules"),
        ({"lora_bias": True}, "LORA with lora_bias"),
    ],
    ids=str,
)
def test_settings_that_change_what_is_computed_are_refused_as_peft_saves_them(snapshot, tmp_path, settings, said):
    saved_by_peft(snapshot, tmp_path / "a", **settings)
    refused(snapshot, tmp_path / "a", said)


def test_an_adapter_that_peft_has_converted_belongs_to_the_whole_base(snapshot, tmp_path):
    settings = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], init_lora_weights="pissa")
    theirs = get_peft_model(LlamaForCausalLM.from_pretrained(snapshot), settings)
    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(tmp_path / "start")
    theirs.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "a", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    ours = load_model(snapshot)
    load_adapter(ours, tmp_path / "a")
    torch.testing.assert_close(logits(ours), logits(theirs.eval()), atol=10 * ATOL, rtol=10 * ATOL)


def test_every_setting_of_pefts_has_been_thought_of():
    """Off as peft writes it; those that are not off by themselves are applied, or change nothing."""
    written = LoraConfig().to_dict()
    assert not {key for key, value in written.items() if key not in APPLIED | HARMLESS and value not in OFF}
    assert written.keys() >= APPLIED | HARMLESS


def test_layers_that_peft_left_out_stay_as_they_are(snapshot, tmp_path):
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], layers_to_transform=[1], task_type="CAUSAL_LM")
    theirs = get_peft_model(LlamaForCausalLM.from_pretrained(snapshot), config)
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    theirs.save_pretrained(tmp_path / "a")
    ours = load_model(snapshot)
    load_adapter(ours, tmp_path / "a")
    torch.testing.assert_close(logits(ours), logits(theirs), atol=ATOL, rtol=ATOL)


def test_what_is_saved_is_loaded_to_the_bit(snapshot, tmp_path):
    model = adapted(snapshot)
    save_adapter(model, tmp_path / "a")
    other = load_model(snapshot)
    load_adapter(other, tmp_path / "a")
    assert torch.equal(logits(other), logits(model))
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == [CONFIG, TENSORS]


def test_on_the_real_model_peft_gives_the_same_logits(tmp_path):
    from transformers import AutoModelForCausalLM

    from llmhw_helpers.llm.checkpoints import find_model

    path, model = find_model(), load_model()
    torch.manual_seed(0)
    add_lora(model, 8, 16.0)
    save_adapter(spread(model), tmp_path / "a")
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(theirs, tmp_path / "a")
    torch.testing.assert_close(logits(theirs), logits(model), atol=2e-3, rtol=1e-3)


def test_in_another_format_of_the_base_it_is_the_same_adapter(snapshot, tmp_path):
    save_adapter(adapted(snapshot), tmp_path / "a")
    load_adapter(load_model(snapshot, dtype=torch.bfloat16), tmp_path / "a")


@pytest.fixture
def saved(snapshot, tmp_path):
    save_adapter(adapted(snapshot), tmp_path / "a")
    return tmp_path / "a"


def refused(snapshot, folder, said, error=BadAdapter):
    model = load_model(snapshot)
    with pytest.raises(error, match=said) as caught:
        load_adapter(model, folder)
    assert "\n" not in str(caught.value)
    assert not adapters(model)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 1}, "another base: .* has no layer blk.1.attn_"),
        ({"hidden_size": 64}, "another base, or damaged: blk.0.attn_q has A"),
        ({"num_key_value_heads": 4}, "another base, or damaged: blk.0.attn_v has A"),
    ],
)
def test_an_adapter_for_another_shape_is_refused(tmp_path, saved, small_llama, changes, said):
    small_llama(**changes).save_pretrained(tmp_path / "other")
    tensors = load_file(saved / TENSORS)
    save_file(tensors, saved / TENSORS)  # without our own word on the base, as peft writes it
    refused(tmp_path / "other", saved, said)


def test_an_adapter_for_another_base_of_the_same_shape_is_refused(tmp_path, saved, small_llama):
    other = small_llama()
    other.model.norm.weight.data.mul_(1.1)
    other.save_pretrained(tmp_path / "other")
    refused(tmp_path / "other", saved, "was trained on another base")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"use_dora": True}, r"another kind \(LORA with use_dora\); plain LoRA is read here"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"bias": "all"}, "another kind .*biases"),
        ({"peft_type": "IA3"}, r"another kind \(IA3\)"),
        ({"peft_type": None}, r"another kind \(None\)"),
        ({"r": "four"}, "does not say r and lora_alpha"),
        ({"lora_alpha": 10**400}, "does not say r and lora_alpha"),
        ({"lora_alpha": None}, "does not say r and lora_alpha"),
        ({"r": 8}, "another base, or damaged"),
        ({"r": True}, "does not say r and lora_alpha"),
        ({"lora_alpha": "6"}, "does not say r and lora_alpha"),
        ({"use_rslora": "false"}, "use_rslora is false, neither true nor false"),
        ({"use_tomorrow": {"a": 1}}, r"another kind \(LORA with use_tomorrow\)"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights = loftq"),
        ({"init_lora_weights": ["pissa"]}, "init_lora_weights = "),
        ({"target_modules": ["q_proj"]}, "holds an adapter of .*v_proj, which its description leaves out"),
        ({"target_modules": ["proj"]}, "which its description leaves out"),
        ({"target_modules": 5}, "says target_modules 5, .*, from which its layers cannot be told"),
        (
            {"layers_to_transform": [0]},
            r"holds an adapter of model\.layers\.[12]\..*, which its description leaves out",
        ),
        ({"layers_to_transform": "0"}, "layers_to_transform 0, .* from which its layers cannot be told"),
        ({"layers_pattern": "blocks"}, "layers_pattern blocks, from which its layers cannot be told"),
        ({"target_modules": ".*", "layers_to_transform": [0]}, "from which its layers cannot be told"),
        ({"lora_alpha": 12.0}, "the two files are of different adapters"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(snapshot, saved, changes, said):
    config = json.loads((saved / CONFIG).read_text())
    (saved / CONFIG).write_text(json.dumps(config | changes))
    refused(snapshot, saved, said)


@pytest.mark.parametrize("junk", [None, [], {}, "", "x", -1, 0, 1.5, True, [None], ["a"], {"a": 1}, [[]], 10**400])
def test_junk_in_any_setting_is_read_or_refused_in_one_line(snapshot, saved, junk):
    config, model = json.loads((saved / CONFIG).read_text()), load_model(snapshot)
    for key in [*LoraConfig().to_dict(), "of_tomorrow"]:
        (saved / CONFIG).write_text(json.dumps(config | {key: junk}))
        said = ""
        try:
            load_adapter(model, saved)
        except BadAdapter as error:
            said = str(error)
        assert "\n" not in said
        remove_lora(model)


@pytest.mark.parametrize("said", ["a\nb", "", "nan", "12"])
def test_a_scale_beside_the_tensors_that_is_another_or_none_is_refused(snapshot, saved, said):
    save_file(load_file(saved / TENSORS), saved / TENSORS, {"format": "pt", "lora_alpha": said})
    refused(snapshot, saved, "the two files are of different adapters")


def test_missing_files_say_what_makes_them(snapshot, saved, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(snapshot, tmp_path / "empty", r"save_adapter\(model, folder\) makes one", FileNotFoundError)
    (saved / TENSORS).unlink()
    refused(snapshot, saved, f"no {TENSORS} in", FileNotFoundError)


@pytest.mark.parametrize(("name", "said"), [(CONFIG, "cannot be read: no file"), (TENSORS, f"{TENSORS} is no file")])
def test_a_pipe_is_refused_and_nobody_waits_for_it(snapshot, saved, name, said):
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with nobody_waits_for(saved / name):
        refused(snapshot, saved, said)


class Bomb:
    def __reduce__(self):
        return os._exit, (3,)


def test_a_pickle_is_never_opened(snapshot, saved):
    (saved / TENSORS).unlink()
    (saved / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    refused(snapshot, saved, "is a pickle, which may run any program", FileNotFoundError)
    (saved / TENSORS).write_bytes(pickle.dumps(Bomb()))
    refused(snapshot, saved, "truncated or damaged")


@given(cut=st.integers(0, 3000))
def test_a_truncated_file_is_refused(snapshot, saved_bytes, tmp_path_factory, cut):
    folder, model = tmp_path_factory.mktemp("cut"), load_model(snapshot)
    for name, content in saved_bytes.items():
        (folder / name).write_bytes(content)
    (folder / TENSORS).write_bytes(saved_bytes[TENSORS][:cut])
    with pytest.raises(BadAdapter, match="truncated or damaged"):
        load_adapter(model, folder)
    (folder / CONFIG).write_bytes(saved_bytes[CONFIG][: 1 + cut // 20])
    with pytest.raises(BadAdapter, match="is damaged"):
        load_adapter(model, folder)


@pytest.fixture(scope="module")
def saved_bytes(snapshot, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    save_adapter(adapted(snapshot), folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.popitem(), "a layer's A or B is missing"),
        (lambda t: t.clear(), "a layer's A or B is missing"),
        (lambda t: t.update(strange=torch.zeros(1)), "another kind of model: it adapts 'strange'"),
        (lambda t: next(iter(t.values())).fill_(torch.nan), "not finite"),
        (lambda t: t.update({next(iter(t)): torch.zeros(3, 3)}), "another base, or damaged"),
        (
            lambda t: t.update({key: value.to(torch.int8) for key, value in t.items()}),
            "which are no numbers as they are",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(snapshot, saved, spoil, said):
    tensors = load_file(saved / TENSORS)
    spoil(tensors)
    save_file(tensors, saved / TENSORS)
    refused(snapshot, saved, said)


def test_a_full_disk_keeps_the_adapter_before(snapshot, saved, monkeypatch):
    model, before = adapted(snapshot), (saved / TENSORS).read_bytes()
    next(iter(adapters(model).values())).A.data.zero_()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(NotSaved, match="adapter not saved .No space left on device.; adapter_model.safetensors is as"):
        save_adapter(model, saved)
    assert (saved / TENSORS).read_bytes() == before
    load_adapter(load_model(snapshot), saved)


def test_nothing_to_save_is_said(snapshot, tmp_path):
    model = load_model(snapshot)
    with pytest.raises(BadAdapter, match="there are none"):
        save_adapter(model, tmp_path / "a")
    add_lora(model, 4, 8.0)
    model.blk[0].attn_q = LoRALinear(model.blk[0].attn_q.base, 2, 8.0)
    with pytest.raises(BadAdapter, match="differ in rank or scale"):
        save_adapter(model, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_loading_twice_asks_for_the_first_to_be_taken_off(snapshot, saved):
    model = load_model(snapshot)
    load_adapter(model, saved)
    with pytest.raises(BadAdapter, match="take them off first"):
        load_adapter(model, saved)
    remove_lora(model)
    load_adapter(model, saved)


@pytest.mark.parametrize("spoil", [lambda head: head + 1, lambda head: head[1:]])
def test_another_head_than_the_bases_is_refused(snapshot, tmp_path, spoil):
    save_adapter(adapted(snapshot, ("output",)), tmp_path)
    tensors = load_file(tmp_path / TENSORS) | {HEAD: load_model(snapshot).output.weight.detach().clone()}
    save_file(tensors, tmp_path / TENSORS)
    load_adapter(load_model(snapshot), tmp_path)
    save_file(tensors | {HEAD: spoil(tensors[HEAD])}, tmp_path / TENSORS)
    refused(snapshot, tmp_path, "holds another head than base\\w* has")


def test_a_tied_head_has_no_adapter_of_its_own(small_llama, saved, tmp_path):
    small_llama(tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    model = load_model(tmp_path / "tied")
    assert isinstance(model, Transformer)
    assert dataclasses.replace(model.spec).tied_embeddings
    tensors = {f"base_model.model.lm_head.lora_{k}.weight": torch.zeros(4, 4) for k in "AB"}
    save_file(tensors, saved / TENSORS)
    refused(tmp_path / "tied", saved, "has no layer output")
    save_file({HEAD: torch.zeros(4, 4)}, saved / TENSORS)
    refused(tmp_path / "tied", saved, "has no layer output")


SAVER = """
import os, sys
from pathlib import Path
import torch
from llmhw_helpers.llm.adapters import save_adapter
from llmhw_helpers.llm.checkpoints import load_model
from llmhw_helpers.llm.lora import adapters, add_lora
torch.set_num_threads(1)
base, folder, number, step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
model = load_model(base)
add_lora(model, 4, 8.0)
print("ready", flush=True)
while number < 40 or step == 1:
    for layer in adapters(model).values():
        layer.A.data.fill_(number), layer.B.data.fill_(number)
        layer.scale = number / 4
    save_adapter(model, folder)
    number += step
"""


@contextmanager
def saver(snapshot, folder, number, step):
    call = [sys.executable, "-c", SAVER, str(snapshot), str(folder), str(number), str(step)]
    with subprocess.Popen(call, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.read(5) == b"ready"
            yield process
        finally:
            process.kill()


def of_one_save(model, folder):
    """Its number; A, B and the scale all say it."""
    made = load_adapter(model, folder)
    found = {float(layer.A[0, 0]) for layer in made.values()} | {float(layer.B[0, 0]) for layer in made.values()}
    found |= {layer.scale * 4 for layer in made.values()}
    remove_lora(model)
    assert len(found) == 1, found
    return found.pop()


@pytest.mark.slow
def test_killed_at_any_moment_the_adapter_before_or_the_new_one_is_there(snapshot, tmp_path):
    model, last, waits = load_model(snapshot), 0, random.Random(0)
    for _ in range(2):
        with saver(snapshot, tmp_path / "a", int(last) + 1, 1) as process:
            while not (tmp_path / "a" / CONFIG).exists():
                time.sleep(0.01)
            for _ in range(20):  # stopped where it is, it looks as if killed there
                time.sleep(waits.random() / 50)
                process.send_signal(signal.SIGSTOP)
                found = of_one_save(model, tmp_path / "a")
                assert found >= last
                last = found
                process.send_signal(signal.SIGCONT)
        assert of_one_save(model, tmp_path / "a") >= last
    save_adapter(adapted(snapshot), tmp_path / "a")
    assert sorted(os.listdir(tmp_path / "a")) == [CONFIG, TENSORS]


@pytest.mark.slow
def test_two_processes_save_to_one_folder_while_a_third_loads(snapshot, tmp_path):
    model, found = load_model(snapshot), set()
    with saver(snapshot, tmp_path / "a", 1, 2) as odd, saver(snapshot, tmp_path / "a", 2, 2) as even:
        while odd.poll() is None or even.poll() is None:
            if (tmp_path / "a" / CONFIG).exists():
                found.add(of_one_save(model, tmp_path / "a"))
    assert [odd.returncode, even.returncode] == [0, 0]
    assert found <= set(range(1, 40))
    assert of_one_save(model, tmp_path / "a") in (38, 39)


def test_the_description_is_emptied_before_the_tensors_change(snapshot, saved, monkeypatch):
    replace, names = os.replace, []
    monkeypatch.setattr(os, "replace", lambda old, new: names.append(new.name) or replace(old, new))
    save_adapter(adapted(snapshot), saved)
    assert names == [CONFIG, TENSORS, CONFIG]


def test_a_save_that_was_not_finished_loads_here_and_is_refused_by_peft(snapshot, saved):
    expected = load_adapter(load_model(snapshot), saved)
    (saved / CONFIG).write_bytes(b"")
    again = load_adapter(load_model(snapshot), saved)
    assert all(
        torch.equal(again[name].A, layer.A) and again[name].scale == layer.scale for name, layer in expected.items()
    )
    with pytest.raises(ValueError, match="Expecting value"):
        PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(snapshot), saved)
