"""Scales against the products written out; whole snapshots that have them are in test_snapshot_folder."""

from pathlib import Path

import pytest
import torch

from llmhw_helpers.llm.model_files import BadModelFile
from llmhw_helpers.llm.scaled_weights import METHODS, check_scale, scaled, scheme

HERE = Path("folder")


@pytest.mark.parametrize("begin", [0, 3, 4])
@pytest.mark.parametrize(
    ("shape", "block", "spread"),
    [
        ((), None, (10, 12)),
        ((1,), None, (10, 12)),
        ((1, 1), (128, 128), (10, 12)),
        ((10,), None, (1, 12)),
        ((10, 1), None, (1, 12)),
        ((10, 3), (1, 4), (1, 4)),
        ((3, 3), (4, 5), (4, 5)),
    ],
    ids=str,
)
def test_rows_of_a_matrix_get_their_part_of_the_scales(shape, block, spread, begin):
    torch.manual_seed(0)
    codes, scale = torch.randint(-127, 128, (10, 12), dtype=torch.int8), torch.rand(shape) + 0.5
    check_scale(HERE, "w", (10, 12), shape, block)
    as_a_table = scale.reshape(shape if len(shape) == 2 else (-1, 1))
    expected = codes.float() * torch.kron(as_a_table, torch.ones(spread))[:10, :12]
    found = scaled(codes[begin : begin + 5], begin, 10, scale, block)
    assert torch.equal(found, expected[begin : begin + 5])


@pytest.mark.parametrize(
    ("shape", "scale", "block"),
    [((10, 12), (12,), None), ((10, 12), (5, 3), None), ((10, 12), (2, 3), (4, 5)), ((10,), (1,), None)],
)
def test_a_scale_that_does_not_fit_is_refused_with_both_shapes(shape, scale, block):
    with pytest.raises(BadModelFile, match="w is .* and its scale .*, which do not fit"):
        check_scale(HERE, "w", shape, scale, block)


def test_blocks_are_told_by_any_of_the_words_for_them():
    assert scheme(None, HERE) is scheme({}, HERE) is None
    assert scheme({"quant_method": "fp8", "weight_block_size": [128, 64]}, HERE).block == (128, 64)
    assert scheme({"quant_method": "bitsandbytes", "load_in_8bit": True}, HERE).method is METHODS["bitsandbytes"]

    def group(**weights):
        said = {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": weights}}}
        return scheme(said, HERE).block

    assert group(strategy="channel", group_size=-1) is None
    assert group(strategy="group", group_size=32) == (1, 32)
    assert group(strategy="block", block_structure=[16, 8]) == (16, 8)


def test_several_kinds_of_blocks_are_refused():
    groups = {"a": {"weights": {"group_size": 32}}, "b": {"weights": {"group_size": 64}}}
    with pytest.raises(BadModelFile, match="in several kinds of blocks"):
        scheme({"quant_method": "compressed-tensors", "config_groups": groups}, HERE)


@pytest.mark.parametrize("groups", [[1], {"a": 1}, {"a": {"weights": [8]}}, "all"])
def test_groups_that_are_no_tables_are_refused(groups):
    with pytest.raises(BadModelFile, match="where settings should be"):
        scheme({"quant_method": "compressed-tensors", "config_groups": groups}, HERE)
