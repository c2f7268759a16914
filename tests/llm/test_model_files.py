"""What the readers share."""

from pathlib import Path

import pytest

from llmhw_helpers.llm.model_files import BadModelFile, check_architecture


@pytest.mark.parametrize("found", [None, "mamba", "Llama", ["llama"], {"llama": 1}, 3])
def test_another_architecture_is_named_with_the_one_that_is_read(found):
    check_architecture(Path("m.gguf"), "llama")
    with pytest.raises(BadModelFile) as error:
        check_architecture(Path("m.gguf"), found)
    assert str(error.value) == f"m.gguf holds the architecture {found!r}; the course reads llama"
