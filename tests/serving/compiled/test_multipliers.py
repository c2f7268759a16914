"""Of each format one multiplier, and compiled for none that a model does not have. What they give: `test_products`."""

import os
import subprocess
import sys

import pytest
import torch

from llmhw_helpers.llm.quantization import Scheme, quantize_model

pytest.importorskip("numba")
from llmhw_helpers.serving.compiled import held, pairs
from llmhw_helpers.serving.compiled.calls import Called

AFFINE = Scheme(4, 32, "affine")
BF16 = "by_bf16_pairs" if pairs.BF16_DOT else "by_bf16"
COLD = """
from dataclasses import replace

import torch

from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.serving.compiled import decoder, products
from llmhw_helpers.specs.models import model

sizes = {"n_layers": 1, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "d_ff": 48, "vocab_size": 50}
decoder.Decoder(Transformer(replace(model("SmolLM2-135M"), **sizes)).bfloat16())
print(*(signature[0].format for signature in products.by_rows.signatures), sep=", ")
"""


@pytest.mark.parametrize(
    ("scheme", "activations", "expected"),
    [
        (None, None, {"by_fp32"}),
        (None, None, {BF16}),
        (Scheme(8, "row"), "wide", {"by_int8"}),
        (Scheme(8, "row"), "rounded", {"by_int8_pairs"}),
        (Scheme(4, 32), "wide", {"by_int4", "by_int8"}),
        (Scheme(4, 32), "rounded", {"by_int4_rounded", "by_int8_pairs"}),
        (AFFINE, "rounded", {"by_int4_affine_rounded", "by_int8_pairs"}),
    ],
)
def test_a_model_asks_for_the_multipliers_of_its_matrices(wide_model, monkeypatch, scheme, activations, expected):
    """The table, in fp32 beside small numbers, is looked up: nothing is multiplied by it."""
    asked = set()
    monkeypatch.setattr(Called, "address", property(lambda self: asked.add(self.name) or 1))
    model = wide_model if scheme is None else quantize_model(wide_model, scheme, Scheme(8, "row"))
    held.hold(model.to(torch.bfloat16 if BF16 in expected else torch.float32), activations)
    assert asked == expected


@pytest.mark.slow
def test_nothing_else_is_compiled(tmp_path):
    surroundings = os.environ | {"LLMHW_HOME": str(tmp_path), "NUMBA_CACHE_DIR": ""}
    done = subprocess.run([sys.executable, "-c", COLD], capture_output=True, text=True, timeout=600, env=surroundings)
    assert done.stdout.strip() == ("bf16 in pairs" if pairs.BF16_DOT else "bf16"), done.stderr
