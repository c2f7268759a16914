"""Pipeline parallel: stages one after the other are the whole model; on ranks, its gradients and PyTorch's."""

import pytest
import torch

from llmhw_helpers.costs.parallelism import Indivisible
from llmhw_helpers.distributed.pipeline_parallel import IGNORED, Stage
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.specs.architectures import Model


def small(tied=True, n_layers=8):
    sizes = {"n_layers": n_layers, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "d_ff": 64}
    return Model(
        "small", **sizes, vocab_size=96, tied_embeddings=tied, context_length=64, rope_theta=1e4, source="test"
    )


def batch(n=8):
    """Answers of unequal length: the micro-batches have unequal numbers of targets."""
    tokens, targets = torch.randint(96, (2, n, 16), generator=torch.Generator().manual_seed(1))
    for i in range(n):
        targets[i, 16 - i :] = IGNORED
    return tokens, targets


def whole(tied=True):
    torch.manual_seed(0)
    return Transformer(small(tied))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("n_stages", [1, 2, 3, 8])
def test_stages_one_after_the_other_are_the_whole_model(tied, n_stages):
    model, (x, _) = whole(tied), batch()
    stages = [Stage(model, n_stages, stage) for stage in range(n_stages)]
    y = x
    for stage in stages:
        y = stage(y)
    torch.testing.assert_close(y, model(x), rtol=0, atol=0)
    parameters = dict(model.named_parameters())
    seen = [stage.whole_name(name) for stage in stages for name, _ in stage.named_parameters()]
    assert set(seen) == set(parameters)
    assert len(seen) == len(parameters) + (tied and n_stages > 1), "none twice, but for a tied embedding"
    for stage in stages:
        for name, parameter in stage.named_parameters():
            assert parameter.requires_grad
            assert torch.equal(parameter, parameters[stage.whole_name(name)])
            assert parameter.data_ptr() != parameters[stage.whole_name(name)].data_ptr(), "a copy of its own"


def test_more_stages_than_layers_are_refused():
    with pytest.raises(Indivisible, match="8 layers do not make 9 stages"):
        Stage(whole(), 9, 0)
