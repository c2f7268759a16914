"""A tokenizer.json that the library would take too much for, or stumble over, is one line."""

import json

import pytest

from llmhw_helpers.llm.model_files import BadModelFile
from llmhw_helpers.llm.tokenizer_json import read_library


def test_what_the_library_wrote_is_read(vocabularies, tmp_path):
    for library in vocabularies.values():
        library.save(str(tmp_path / "tokenizer.json"))
        assert read_library(tmp_path).to_str() == library.to_str()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda said: said["model"].update(continuing_subword_prefix="#" * 9), "range end index"),
        (lambda said: said.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}] * 2000}), "steps"),
        (lambda said: said.update(normalizer=[[[]]] * 20_000), "more values than"),
        (lambda said: said["added_tokens"][0].update(content="x" * 600_000), "a token of more than 10,000 letters"),
    ],
)
def test_what_the_library_would_stumble_over_is_refused(vocabularies, tmp_path, change, line):
    """It calls a prefix that is longer than a token impossible, with an error that is no `Exception`."""
    said = json.loads(vocabularies["Llama 2"].to_str())
    change(said)
    (tmp_path / "tokenizer.json").write_text(json.dumps(said))
    with pytest.raises(BadModelFile, match=f"no tokenizer.json that can be read .*{line}"):
        read_library(tmp_path)
