"""What vLLM runs where: held against its own table, and against logs of servers that started."""

import pytest

from llmhw_helpers.specs.accelerators import accelerator
from llmhw_helpers.specs.models import model
from llmhw_helpers.specs.serving_flavours import serving_flavour
from llmhw_helpers.specs.serving_support import PUBLISHED, serves


@pytest.mark.parametrize(
    ("of", "runs", "does_not"),
    [  # the rows of vLLM's table, Volta to Hopper and AMD; MXFP4 by logs
        ("AWQ int4", ["T4", "A40", "L4", "H100"], ["V100", "MI300X", "M2 Max"]),
        ("GPTQ int4", ["V100", "T4", "A100-80GB", "H100"], ["MI300X"]),
        ("INT8 W8A8", ["T4", "A40", "H100"], ["V100", "MI300X"]),
        ("FP8 W8A8", ["L40S", "H100", "MI300X"], ["T4", "A100-80GB", "MI250X GCD"]),
        ("bf16", ["A40", "H100", "MI300X"], ["T4", "V100"]),
        ("MXFP4", ["A100-80GB", "H100"], ["MI300X"]),
    ],
)
def test_the_table(of, runs, does_not):
    for name in runs:
        assert serves(accelerator(name), serving_flavour(of))[0] in ("hardware", "fits"), name
    for name in does_not:
        assert serves(accelerator(name), serving_flavour(of))[0] == "no", name


def test_what_no_source_says_is_unknown():
    assert serves(accelerator("T4"), serving_flavour("MXFP4"))[0] == "unknown"
    assert serves(accelerator("A40"), serving_flavour("INT8 W8A16"))[0] == "unknown"


def test_published_formats_are_of_models_that_there_are():
    for name, of in PUBLISHED.items():
        assert model(name)
        assert serving_flavour(of)
