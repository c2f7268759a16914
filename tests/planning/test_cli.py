"""The command as somebody types it: three words are enough, and what is wrong is said in a line."""

import json

import pytest

from llmhw_helpers.costs.planner import answer
from llmhw_helpers.planning.cli import main


def test_three_words_give_a_first_answer(capsys):
    assert main(["Llama-3.1-70B", "serve", "Alvis"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Llama-3.1-70B runs on ")
    assert "A40-hours" in said
    assert all(len(line) == len(line.rstrip()) for line in said.splitlines())


def test_json_is_the_planners_answer(capsys):
    assert main(["Llama-3.1-8B", "serve", "A40", "--users", "4", "--formats", "bf16", "int4", "--json"]) == 0
    request = {"model": "Llama-3.1-8B", "task": "serve", "where": "A40", "users": 4, "formats": ["bf16", "int4"]}
    assert json.loads(capsys.readouterr().out) == answer(request)


def test_a_config_is_read(capsys, tmp_path):
    config = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
    config |= {"num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256}
    config |= {"max_position_embeddings": 8192, "tie_word_embeddings": False, "rope_theta": 500000.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main([str(tmp_path / "config.json"), "serve", "A40", "--formats", "bf16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plans"][0]["memory"]["parts"]["weights"] == pytest.approx(16.06e9, 1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Llama-9", "serve", "Alvis"], "unknown model 'Llama-9'"),
        (["Llama-3.1-70B", "serve", "T4"], "Possible: "),
        (["Llama-3.1-8B", "serve", "Alvis", "--users", "0"], "users is 0"),
        (["nowhere.json", "serve", "Alvis"], "nowhere.json"),
        (["Llama-3.1-8B", "serve", "A40", "--script", "--plan", "1000"], "no number 1000"),
        (["Llama-3.1-8B", "serve", "A40", "--script", "--plan", "0"], "no number 0"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(capsys, words, message):
    assert main(words) == 1
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") <= 2
    assert not said.out


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_a_file_that_is_no_json(capsys, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert main([str(tmp_path / "config.json"), "serve", "Alvis"]) == 1
    assert "not JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["--users", "many"], ["--method", "prompt"], ["--plan", "x"], ["--rows", "0"], ["--json", "--script"]],
)
def test_words_that_the_parser_refuses(words):
    with pytest.raises(SystemExit, match="2"):
        main(["Llama-3.1-8B", "serve", "Alvis", *words])
