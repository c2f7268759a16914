"""A tiny model whose logits differ enough to tell a mistake, and a Prometheus."""

import copy
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
import torch
from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Library

from llmhw_helpers.llm.tokenizer import GPT2, BadText, Tokenizer
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.serving.engine import Engine
from llmhw_helpers.serving.weights import Served
from llmhw_helpers.specs.models import model


@pytest.fixture(scope="session")
def tiny_spec():
    """Grouped queries, and every width its own."""
    return replace(
        model("SmolLM2-135M"),
        **{"n_layers": 3, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "d_ff": 48},
        **{"vocab_size": 50, "context_length": 64},
    )


@pytest.fixture(scope="session")
def random_model():
    """A function that gives a model of an architecture with large weights, so that every token and layer shows."""

    def made(spec):
        torch.manual_seed(0)
        network = Transformer(spec)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.dim() == 1))
        return network

    return made


@pytest.fixture
def tiny(tiny_spec, random_model):
    """The smallest."""
    return random_model(tiny_spec)


@pytest.fixture(scope="session")
def letters():
    """A tokenizer with as many tokens as the tiny model: letters, digits, signs, the bytes of an é, and a chat's."""
    signs = [*"abcdefghijklmnopqrstuvwxyz0123456789.,:?!'-", "Ġ", "Ċ", "Ã", "©"]  # as GPT-2 writes bytes
    special = ["<|im_start|>", "<|im_end|>", "<|x|>"]
    library = Library(models.BPE({token: i for i, token in enumerate(signs + special)}, []))
    library.pre_tokenizer = GPT2
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    turn = "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    answer = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    template = "{% for message in messages %}" + turn + "{% endfor %}" + answer
    return Tokenizer(library, library.token_to_id("<|im_end|>"), template)


@pytest.fixture(scope="session")
def stumbling(letters):
    """Makes tokenizers that make text of letters, but not of one token, or not of what is left at the end."""

    def make(wrong=None, at_the_end=False):
        def characters(special=True):
            inside = letters.characters(special=special)
            push, close = inside.push, inside.close

            def stumble(token):
                if token == wrong:
                    raise BadText(f"no text for token {token}")
                return push(token)

            def stumble_at_the_end():
                if at_the_end:
                    raise BadText("no text for the rest")
                return close()

            inside.push, inside.close = stumble, stumble_at_the_end
            return inside

        tokenizer = copy.copy(letters)
        tokenizer.characters = characters
        return tokenizer

    return make


@pytest.fixture(scope="session")
def new_engine(tiny_spec, random_model, letters):
    """Makes engines that speak: the tiny model, with a longer context, and the letters."""
    served = Served(random_model(replace(tiny_spec, context_length=512)))
    return lambda n_blocks=256, block_size=4, **how: Engine(served, n_blocks, block_size, tokenizer=letters, **how)


@pytest.fixture(scope="session")
def run_prometheus(tmp_path_factory):
    """Runs a real Prometheus on loopback for as long as a context lasts: gives its URL."""
    if shutil.which("prometheus") is None:
        pytest.skip("no Prometheus here (Debian: apt-get install prometheus)")

    @contextmanager
    def run(jobs=(), rules=None, data=None):
        folder = tmp_path_factory.mktemp("prometheus")
        asked = [
            {"job_name": name, "static_configs": [{"targets": [urlsplit(url).netloc for url in urls]}]}
            for name, urls in dict(jobs).items()
        ]
        often = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
        config = {"global": often, "rule_files": [str(rules)] if rules else [], "scrape_configs": asked}
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        where = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={data or folder / 'data'}"]
        how = [f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=100y", "--log.level=error"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(["prometheus", *where, *how], stdout=log, stderr=log)
        try:
            for _ in range(600):  # seconds, at most a minute: it is there in one
                assert process.poll() is None, (folder / "log").read_text()
                with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5):
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()

    return run
