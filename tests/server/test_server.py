"""The command: one line when it is ready, one line for whatever is wrong, and an end when it is asked to."""

import os
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import openai
import pytest

from llmhw_helpers.llm.checkpoints import load_model
from llmhw_helpers.llm.tokenizer import load_tokenizer
from llmhw_helpers.server import server
from llmhw_helpers.server.options import new_parser
from llmhw_helpers.serving.engine import Engine
from llmhw_helpers.serving.mapped import ServedFile
from llmhw_helpers.serving.weights import Served

FILE = ("--weights", "file")
NAME = "SmolLM2-135M-Instruct"
WAIT = 60  # seconds


@pytest.fixture(scope="module")
def command():
    """The command itself, in a process of its own: the process, and the URL that it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "llmhw_helpers.server.cli", "--port", "0", "--threads", "1", "--n-blocks", "32"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's & turns it off
    )
    line = process.stdout.readline()
    yield process, line
    if process.poll() is None:
        process.kill()
    process.communicate()


def test_it_says_where_it_is_and_answers_as_the_engine_does(command):
    _, line = command
    assert line.startswith(f"{NAME} is served at http://127.0.0.1:")
    assert line.endswith("/v1 (Ctrl-C ends it)\n")
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    with openai.OpenAI(base_url=line.split()[4], api_key="any", timeout=WAIT) as client:
        assert client.models.list().data[0].id == NAME
        how = {"model": NAME, "messages": messages, "temperature": 0, "max_tokens": 12}
        whole = client.chat.completions.create(**how)
        streamed = [
            chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**how, stream=True)
        ]
    tokenizer = load_tokenizer()
    engine = Engine(Served(load_model()), 32, tokenizer=tokenizer)
    (tokens,) = engine.generate([tokenizer.chat_tokens(messages)], 12, stop=[tokenizer.end])
    assert whole.choices[0].message.content == "".join(streamed) == tokenizer.decode(tokens)
    assert "Paris" in tokenizer.decode(tokens)
    assert whole.usage.completion_tokens == len(tokens)


def test_a_port_that_is_taken_is_said_in_one_line_with_a_free_one(command, capsys):
    port = command[1].split(":")[2].split("/")[0]
    assert server.main(["--port", port]) == 1
    out, said = capsys.readouterr()
    assert out == ""
    assert said.startswith(f"llmhw-serve: cannot listen at 127.0.0.1 port {port}: Address already in use; port ")
    assert said.count("\n") == 1
    free = int(said.split("; port ")[1].split()[0])
    server.bind("127.0.0.1", free).close()


def test_ctrl_c_tells_whoever_streams_and_ends_it(command):
    """The last one in this file that uses the command."""
    process, line = command
    with openai.OpenAI(base_url=line.split()[4], api_key="any", timeout=WAIT, max_retries=0) as client:
        how = {"model": NAME, "prompt": "Once upon a time", "max_tokens": 500, "extra_body": {"ignore_eos": True}}
        stream = client.completions.create(**how, stream=True)
        next(stream)
        process.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError, match="the server is being stopped"):
            list(stream)
    out, err = process.communicate(timeout=WAIT)
    assert (process.returncode, out) == (0, "Stopped.\n")
    assert all(line.startswith("llmhw: compiling the decode step for this processor") for line in err.splitlines())


def test_the_installed_command_is_this_one():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["llmhw-serve"] == "llmhw_helpers.server.cli:main"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("Llama-3.2-1B-Instruct-IQ3_XS.gguf", "Llama-3.2-1B-Instruct"),
        ("Llama-3.2-1B.f16.gguf", "Llama-3.2-1B"),
        ("tiny.gguf", "tiny"),
        ("/a/Llama-3.2-1B", "Llama-3.2-1B"),
        ("/a/models--HuggingFaceTB--SmolLM2-135M/snapshots/93efa2f", "SmolLM2-135M"),
    ],
)
def test_a_models_name_is_its_files(path, name):
    assert server.model_name(Path(path)) == name


@pytest.fixture
def loads(monkeypatch, new_engine):
    """Loading takes no time, and serving ends by itself; what the command said is given back."""
    served = []

    async def serve(worker, name, listening, hosts, ready, stopped):
        served.append((worker.engine, listening.getsockname()[0]))
        ready()

    monkeypatch.setattr(server, "_load", lambda options: (new_engine(), NAME))
    monkeypatch.setattr(server, "_serve", serve)
    return served


def test_it_listens_to_this_machine_alone_unless_told_otherwise(loads, capsys):
    assert server.main(["--port", "0"]) == 0
    assert capsys.readouterr().out.count("\n") == 2
    assert server.main(["--port", "0", "--host", "0.0.0.0"]) == 0
    warning, ready, _ = capsys.readouterr().out.splitlines()
    assert warning == "Warning: whoever reaches 0.0.0.0 over the network may use this server."
    assert "http://127.0.0.1:" in ready  # what a client on this machine can use
    assert [host for _, host in loads] == ["127.0.0.1", "0.0.0.0"]


def test_what_cannot_be_is_said_in_one_line(capsys, monkeypatch):
    def said(*arguments):
        assert server.main(arguments) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        return err

    assert "no address is known for 'nowhere.invalid'" in said("--host", "nowhere.invalid")
    assert "120000000 tokens of KV cache are 5529.6 GB" in said("--port", "0", "--n-blocks", "7500000")  # 46080 B each
    monkeypatch.setattr(server.torch.cuda, "is_available", lambda: False)
    assert "torch finds no CUDA device here: leave out --device cuda" in said("--port", "0", "--device", "cuda")
    monkeypatch.setenv("LLMHW_MODEL", "/nowhere.gguf")
    assert "LLMHW_MODEL names /nowhere.gguf, which does not exist" in said("--port", "0")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert said() == "llmhw-serve: the server needs uvicorn: pip install 'llmhw-helpers[server]'\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], "70000 is no whole number from 0 to 65535"),
        (["--port", "http"], "http is no whole number"),
        (["--n-blocks", "0"], "0 is no whole number of at least 1"),
        (["--dtype", "int4"], "invalid choice: 'int4'"),
        (["--kv-dir", "here", "--kv-gb", "0"], "0 is no number of GB above 0"),
        (["--kv-dir", "here", "--kv-gb", "nan"], "nan is no number of GB above 0"),
        (["--kv-dir", "here", "--kv-gb", "2GB"], "2GB is no number of GB above 0"),
    ],
)
def test_options_out_of_their_range_are_refused(arguments, words, capsys):
    with pytest.raises(SystemExit):
        server.main(arguments)
    assert words in capsys.readouterr().err


def test_the_help_names_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit):
        server.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "/v1/chat/completions",
        "(default: 8000)",
        "(default: 127.0.0.1)",
        "--n-blocks",
        "--threads",
        "--kv-dir DIR",
    ):
        assert words in said


def test_the_options_reach_the_engine(monkeypatch):
    seen = []
    monkeypatch.setattr(server.torch, "set_num_threads", seen.append)
    options = ["--n-blocks", "9", "--block-size", "4", "--max-batch-size", "300", "--dtype", "bfloat16"]
    engine, name = server._load(new_parser().parse_args([*options, "--threads", "3", "--device", "cpu"]))
    assert (engine.blocks.n_blocks, engine.blocks.block_size, engine.scheduler.max_batch_size) == (9, 4, 300)
    assert (engine.cache.keys.dtype, name, seen) == (server.torch.bfloat16, NAME, [3])


@pytest.mark.parametrize(
    ("options", "wanted"), [((), None), (("--compiled",), True), (("--no-compiled",), False), (FILE, True)]
)
def test_the_compiled_step_is_made_before_the_first_client_comes(monkeypatch, options, wanted):
    made = []
    monkeypatch.setattr(server, "decoder_of", lambda served: made.append(served.compiled))
    engine, _ = server._load(new_parser().parse_args([*options, "--n-blocks", "9", "--device", "cpu"]))
    assert made == [engine.served.compiled] == [wanted]
    assert isinstance(engine.served, ServedFile) == (options == FILE)


@pytest.mark.parametrize("option", [["--dtype", "bfloat16"], ["--no-compiled"], ["--device", "cuda"]])
def test_a_file_is_served_as_it_lies_in_one_way_alone(monkeypatch, option):
    monkeypatch.setattr(server.torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="--weights file is for the compiled step, on a CPU and in float32") as error:
        server._load(new_parser().parse_args([*FILE, "--device", "cpu", *option]))
    assert "\n" not in str(error.value)


def test_a_folder_for_keys_and_values_reaches_the_engine(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(server.torch, "set_num_threads", lambda n: None)

    def load(*options):
        return server._load(new_parser().parse_args(["--n-blocks", "9", "--device", "cpu", *options]))[0]

    assert load().spill is None
    folder = load("--kv-dir", str(tmp_path / "kv")).spill.folder
    assert (folder.path, folder.max_bytes) == (tmp_path / "kv", 2e9)
    assert load("--kv-dir", str(tmp_path / "kv"), "--kv-gb", "0.5").spill.folder.max_bytes == 0.5e9
    (tmp_path / "file").write_text("")
    for options, words in (
        (["--kv-dir", ""], "--kv-dir names no folder: it is empty"),
        (["--kv-gb", "3"], "--kv-gb says how large the folder of --kv-dir may become: give both, or neither"),
        (["--kv-dir", str(tmp_path / "file")], f"no folder for keys and values at {tmp_path / 'file'}: File exists"),
        (
            ["--kv-dir", str(tmp_path / "kv"), "--kv-gb", "1e-4"],
            "a folder of 0.1 MB for blocks of 0.7 MB: give it more",
        ),
    ):
        assert server.main(["--port", "0", "--n-blocks", "9", "--device", "cpu", *options]) == 1
        assert capsys.readouterr() == ("", f"llmhw-serve: {words}\n")


def test_a_context_leaves_nothing_behind(new_engine):
    before = set(threading.enumerate())
    engine = new_engine()
    seen = []

    def in_the_middle():
        with server.served_at(engine) as url:
            seen.append(int(url.split(":")[2].split("/")[0]))
            server.bind("127.0.0.1", seen[0])

    with pytest.raises(server.NoPort, match="port .*: Address already in use; port .* is free"):
        in_the_middle()
    (port,) = seen
    assert [thread for thread in set(threading.enumerate()) - before if thread.name in ("server", "engine")] == []
    server.bind("127.0.0.1", port).close()
    with server.served_at(engine, port=port) as url:  # and it may be used again
        assert url == f"http://127.0.0.1:{port}/v1"


def test_an_engine_without_words_leaves_no_port_behind(new_engine):
    with server.bind("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
    with (
        pytest.raises(ValueError, match="give the engine a tokenizer"),
        server.served_at(Engine(new_engine().served, 4), port=port),
    ):
        pass
    server.bind("127.0.0.1", port).close()


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6_is_written_in_brackets():
    try:
        listening = server.bind("::1", 0)
    except server.NoPort:
        pytest.skip("this machine has no IPv6 address")
    with listening:
        assert server.url_of(listening) == f"http://[::1]:{listening.getsockname()[1]}/v1"
        assert server.is_local(listening)
