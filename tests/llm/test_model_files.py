"""What the readers share."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llmhw_helpers.llm import snapshot_folder
from llmhw_helpers.llm.adapters import TENSORS, load_adapter
from llmhw_helpers.llm.lora import BadAdapter
from llmhw_helpers.llm.model_files import BadModelFile, check_architecture, check_safetensors
from llmhw_helpers.llm.runs import BadCheckpoint, read_run


@pytest.mark.parametrize("found", [None, "mamba", "Llama", ["llama"], {"llama": 1}, 3])
def test_another_architecture_is_named_with_the_one_that_is_read(found):
    check_architecture(Path("m.gguf"), "llama")
    with pytest.raises(BadModelFile) as error:
        check_architecture(Path("m.gguf"), found)
    assert str(error.value) == f"m.gguf holds the architecture {found!r}; the course reads llama"


@pytest.mark.parametrize("rest", ['"a": [' + "[]," * 50_000 + "0]", '"a": {"shape": [' + "1," * 50_000 + "1]}"])
def test_a_header_of_many_small_things_is_refused_before_the_library_reads_it(tmp_path, tiny, rest):
    header = f'{{"__metadata__": {{}}, {rest}}}'.encode()
    path = tmp_path / TENSORS
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match=r"5\d,\d{3} (lists|values) .*in \d+,\d{3} letters of header|lists and 5\d,"):
        check_safetensors(path)
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 4, "peft_type": "LORA"}')
    with pytest.raises(BadAdapter, match="of header"):
        load_adapter(tiny, tmp_path)
    with pytest.raises(BadCheckpoint, match="of header"):
        read_run(path)
    with pytest.raises(BadModelFile, match="of header"):
        list(snapshot_folder._read(path))


def test_files_of_many_tensors_are_read(tmp_path):
    """Of short names, one number each, and metadata: the smallest that there is a use for."""
    tensors = {f"{i}": torch.ones(1) for i in range(20_000)}
    save_file(tensors, tmp_path / "a.safetensors", {"losses": json.dumps([i / 7 for i in range(50_000)])})
    check_safetensors(tmp_path / "a.safetensors")
