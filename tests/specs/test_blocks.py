"""Block layouts equal the gguf library's table, and the sums that the names promise."""

import gguf
import pytest

from llmhw_helpers.specs.blocks import BLOCKS, block
from llmhw_helpers.specs.figures import UnknownName

IN_FILES = [each for each in BLOCKS.values() if each.gguf_type is not None]


@pytest.mark.parametrize("ours", IN_FILES, ids=lambda each: each.name)
def test_each_layout_equals_the_librarys(ours):
    theirs = gguf.GGMLQuantizationType(ours.gguf_type)
    assert theirs.name == ours.name
    assert gguf.GGML_QUANT_SIZES[theirs] == (ours.n_weights, ours.bytes)
    assert sum(ours.parts.values()) % 8 == 0


def test_the_types_left_out_are_those_whose_bits_are_entries_of_tables_or_new():
    missing = {kind.name for kind in gguf.GGMLQuantizationType} - set(BLOCKS)
    assert all(
        name.startswith(("IQ1", "IQ2", "IQ3", "TQ", "NVFP4", "Q1_0", "Q2_0", "Q8_1", "Q8_K")) for name in missing
    )


def test_bits_per_weight():
    bits = {name: each.bits_per_weight for name, each in BLOCKS.items()}
    assert (bits["Q4_0"], bits["Q4_1"], bits["Q8_0"], bits["MXFP4"]) == (4.5, 5.0, 8.5, 4.25)
    assert (bits["Q2_K"], bits["Q3_K"], bits["Q4_K"], bits["Q5_K"], bits["Q6_K"]) == (2.625, 3.4375, 4.5, 5.5, 6.5625)
    # QLoRA, arXiv:2305.14314, section 3: double quantisation takes 0.5 bits of a scale a weight down to 0.127
    assert bits["NF4"] == 4 + 0.5
    assert bits["NF4, double"] == pytest.approx(4 + 0.127, abs=5e-4)


def test_an_unknown_layout_names_its_neighbours():
    with pytest.raises(UnknownName, match="unknown block layout 'Q4'; did you mean Q4_0"):
        block("Q4")
