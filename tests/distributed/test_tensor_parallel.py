"""A model divided among ranks, against the whole model and against PyTorch's ``parallelize_module``."""

import copy
import re
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from llmhw_helpers.costs.cuts import tensor_parallel_bytes
from llmhw_helpers.costs.inference import kv_bytes
from llmhw_helpers.costs.parallelism import divides, padded, part
from llmhw_helpers.distributed.tensor_parallel import TensorParallel, load_part
from llmhw_helpers.distributed.wire import counted
from llmhw_helpers.llm.checkpoints import Checkpoint, load_model
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.serving.kv_cache import KVCache
from llmhw_helpers.specs.models import MODELS, model

SMOLLM = model("SmolLM2-135M")
TINY = {"n_layers": 2, "d_model": 32, "d_ff": 48, "vocab_size": 50, "context_length": 64, "head_dim": 8}
EXACT = {"rtol": 0, "atol": 1e-12}  # in fp64; sums in another order
REAL = {"rtol": 0, "atol": 5e-4}  # in fp32, logits up to 33
BIASES = {"qkv_bias": True, "o_bias": True, "mlp_bias": True}
LIKE_SMOLLM = {"n_heads": 9, "n_kv_heads": 3}


def tiny(**changes):
    """Large weights in fp64, biases and norms away from 0 and 1, and frequencies as only a file can have them."""
    torch.manual_seed(0)
    whole = Transformer(replace(SMOLLM, **(TINY | changes))).double()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.dim() == 1))
    whole.frequencies = whole.frequencies / torch.arange(1, 5)
    return whole


def draw(whole):
    """12 tokens, which divide among 2 and 3 ranks."""
    tokens = torch.randint(whole.spec.vocab_size, (2, 13), generator=torch.Generator().manual_seed(1))
    return tokens[:, :-1], tokens[:, 1:]


def cross_entropy(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def differences(changes, **how):
    """Largest ones between a rank's part and the whole: logits, loss, gradients by both ways to the loss."""
    whole = tiny(**changes)
    own, (tokens, targets) = TensorParallel(whole, **how), draw(whole)
    logits, want = own(tokens), whole(tokens)
    loss, of_whole = own.loss(tokens, targets), cross_entropy(want, targets)
    found = {"logits": (logits - want).abs().max().item(), "loss": (loss - of_whole).abs().item()}
    of_whole.backward()
    wanted = {name: parameter.grad for name, parameter in whole.named_parameters()}
    for way, value in (("loss", loss), ("logits", cross_entropy(logits, targets))):
        own.zero_grad()
        value.backward()
        for name, parameter in own.part.named_parameters():
            want = own.fill(name, torch.empty_like(parameter), wanted[name])
            found[f"{name} by {way}"] = (parameter.grad - want).abs().max().item()
    assert len(found) == 2 + 2 * len(wanted)
    return found


@pytest.mark.parametrize(
    "changes",
    [
        LIKE_SMOLLM,
        LIKE_SMOLLM | BIASES,
        {"n_heads": 6, "n_kv_heads": 6, "qkv_bias": True, "tied_embeddings": False, "vocab_size": 48},
        {"n_heads": 6, "n_kv_heads": 1, "qkv_bias": True},  # one head of keys and values, on all ranks
        LIKE_SMOLLM | {"vocab_size": 4},  # two tokens each: the third rank has none
    ],
    ids=["SmolLM2's heads", "biases", "untied", "one key for all", "a rank without tokens"],
)
def test_three_ranks_are_one_model(three_ranks, changes):
    for found in three_ranks.run(differences, changes):
        assert max(found.values()) < EXACT["atol"], found


@pytest.mark.parametrize(
    "changes", [LIKE_SMOLLM, LIKE_SMOLLM | BIASES | {"d_ff": 47}], ids=["SmolLM2's heads", "a width besides"]
)
def test_two_ranks_are_one_model_that_is_filled_up(two_ranks, changes):
    for found in two_ranks.run(differences, changes, pad=True):
        assert max(found.values()) < EXACT["atol"], found


@pytest.mark.parametrize(
    "changes", [LIKE_SMOLLM | BIASES, {"n_heads": 6, "n_kv_heads": 1}], ids=["biases", "one key for all"]
)
def test_a_stream_of_which_each_rank_has_its_tokens_is_the_same(three_ranks, changes):
    for found in three_ranks.run(differences, changes, by_tokens=True):
        assert max(found.values()) < EXACT["atol"], found


def differences_in_pairs():
    """Of two copies, each divided between two ranks of its own."""
    pairs = [dist.new_group(pair, timeout=timedelta(seconds=30)) for pair in ([0, 1], [2, 3])]
    return differences(LIKE_SMOLLM | BIASES, group=pairs[dist.get_rank() // 2], pad=True)


def test_some_ranks_share_a_model_and_others_another(four_ranks):
    for found in four_ranks.run(differences_in_pairs):
        assert max(found.values()) < EXACT["atol"], found


def loss_of_a_sure_model():
    """Logits of thousands, of which no `exp` can be taken."""
    whole = tiny(**LIKE_SMOLLM)
    with torch.no_grad():
        whole.token_embd.weight *= 1000
    own, (tokens, targets) = TensorParallel(whole), draw(whole)
    return own.loss(tokens, targets).item(), cross_entropy(whole(tokens), targets).item()


def test_a_loss_does_not_overflow(three_ranks):
    for ours, theirs in three_ranks.run(loss_of_a_sure_model):
        assert theirs > 1000
        assert ours == pytest.approx(theirs, rel=1e-12)


def trained(changes, pad):
    """After three steps of AdamW: the largest difference to the whole, and the largest number in the padding."""
    whole = tiny(**changes)
    own, (tokens, targets) = TensorParallel(whole, pad=pad), draw(whole)
    optimizer = torch.optim.AdamW([*own.parameters(), *whole.parameters()], lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        own.loss(tokens, targets).backward()
        cross_entropy(whole(tokens), targets).backward()
        optimizer.step()
    weights = dict(whole.named_parameters())
    return max(
        (parameter - own.fill(name, torch.empty_like(parameter), weights[name])).abs().max().item()
        for name, parameter in own.part.named_parameters()
    )


def test_zeros_learn_nothing(two_ranks):
    """Where the whole ends, `fill` makes zeros, and so they must have stayed. AdamW makes much of a small gradient."""
    assert max(two_ranks.run(trained, LIKE_SMOLLM | BIASES | {"d_ff": 47}, pad=True)) < 1e-9


def said(of, changes):
    """What is said where `of` the rank's part of a tiny model is refused; the ranks live on."""
    try:
        of(tiny(**changes))
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


def reads(tokens, **how):
    return lambda whole: TensorParallel(whole, pad=True, **how)(torch.tensor(tokens))


def learns(token, target):
    return lambda whole: TensorParallel(whole, pad=True).loss(torch.tensor([[token]]), torch.tensor([[target]]))


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (TensorParallel, "Indivisible: 9 query heads of SmolLM2-135M do not .* pad=True, .* 12 query heads, 4 of keys"),
        (reads([[3, 50]]), "TokenError: token 50 .* from 0 to 49"),
        (reads([[-1]]), "TokenError: token -1 .* from 0 to 49"),
        (reads([[0] * 65]), "TokenError: 65 tokens, .* holds 64"),
        (reads([[1, 2, 3]], by_tokens=True), r"Indivisible: \[1, 3, 32\] .* 2 ranks along dimension 1"),
        (learns(3, -100), "TokenError: token -100"),
    ],
)
def test_what_cannot_be_is_refused_by_all_ranks_before_they_send(two_ranks, of, says):
    for each in two_ranks.run(said, of, LIKE_SMOLLM):
        assert re.match(says, each)


def against_parallelize_module():
    """Logits, gradients and the all-reduces of blocks cut by PyTorch, embedding and head left whole, and of ours."""
    whole = tiny(**LIKE_SMOLLM)
    theirs, own, (tokens, targets) = copy.deepcopy(whole), TensorParallel(whole), draw(whole)
    columns, rows = ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"), ("attn_output", "ffn_down")
    plan = {f"blk.*.{name}": ColwiseParallel() for name in columns}
    plan |= {f"blk.*.{name}": RowwiseParallel() for name in rows}
    parallelize_module(theirs, init_device_mesh("cpu", (dist.get_world_size(),)), plan)
    logits = theirs(tokens), own(tokens)
    for each in logits:
        cross_entropy(each, targets).backward()
    of_theirs = {name: parameter.grad for name, parameter in theirs.named_parameters() if name.startswith("blk.")}
    difference = 0
    for name, gradient in of_theirs.items():
        local = gradient if "norm" in name else gradient.to_local()
        difference = max(difference, (local - own.part.get_parameter(name).grad).abs().max().item())
    with CommDebugMode() as forward, torch.no_grad():
        theirs(tokens)
    return (logits[0] - logits[1]).abs().max().item(), difference, forward.get_total_counts()


def test_pytorch_cuts_the_same_model_the_same_way(three_ranks):
    for of_logits, of_gradients, n_sums in three_ranks.run(against_parallelize_module):
        assert of_logits < EXACT["atol"]
        assert of_gradients < EXACT["atol"]
        assert n_sums == 2 * TINY["n_layers"]


def collectives(training):
    """Numbers in each all-reduce, and in what a rank gives to each all-gather."""
    whole = tiny(**LIKE_SMOLLM).float()
    own, (tokens, targets) = TensorParallel(whole), draw(whole)
    reduced, gathered, reduce, gather = [], [], dist.all_reduce, dist.all_gather
    dist.all_reduce = lambda x, *op, **how: reduced.append(x.numel()) or reduce(x, *op, **how)
    dist.all_gather = lambda got, x, **how: gathered.append(x.numel()) or gather(got, x, **how)
    try:
        own.loss(tokens, targets).backward() if training else own(tokens)
    finally:
        dist.all_reduce, dist.all_gather = reduce, gather
    return reduced, gathered


def test_a_layer_sums_twice_forward_and_twice_backward(three_ranks):
    stream, n_layers = 2 * 12 * TINY["d_model"], TINY["n_layers"]
    for reduced, gathered in three_ranks.run(collectives, training=False):
        assert reduced == [stream] * (2 * n_layers + 1)  # and the embedding
        assert gathered == [2 * 12 * 17]  # 50 tokens on 3 ranks
    for reduced, gathered in three_ranks.run(collectives, training=True):
        assert [n for n in reduced if n == stream] == [stream] * (2 * (2 * n_layers + 1))  # and the head's input
        assert [n for n in reduced if n != stream] == [2 * 12] * 3  # largest logits, sums, targets' logits
        assert gathered == []


@pytest.mark.parametrize("training", [False, True])
def test_a_rank_sends_what_was_predicted(three_ranks, training):
    predicted = tensor_parallel_bytes(replace(SMOLLM, **TINY), 2 * 12, 3, training)
    for reduced, gathered in three_ranks.run(collectives, training):
        n_bytes = 4 * (2 * 2 / 3 * sum(reduced) + 2 * sum(gathered))
        assert n_bytes == pytest.approx(sum(predicted.values()))


def on_the_wire(training):
    """Bytes of a wider model's pass, as the kernel counts them."""
    whole = tiny(**LIKE_SMOLLM, d_model=576, vocab_size=3000).float()
    own, (tokens, targets) = TensorParallel(whole), draw(whole)
    tokens, targets = tokens.repeat(4, 1), targets.repeat(4, 1)
    with counted() as wire:
        own.loss(tokens, targets).backward() if training else own(tokens)
    return wire.sent_payload_bytes


@pytest.mark.parametrize("training", [False, True])
def test_the_kernel_counts_what_was_predicted(wired_ranks, training):
    """And a kilobyte or two that gloo adds to each collective."""
    predicted = tensor_parallel_bytes(replace(SMOLLM, **TINY | {"d_model": 576, "vocab_size": 3000}), 96, 3, training)
    for sent in wired_ranks.run(on_the_wire, training):
        assert 1 < sent / sum(predicted.values()) < 1.03


def decoded():
    """Logits of a text read in three pieces from a cache of the rank's own heads, and its bytes."""
    whole = tiny(**LIKE_SMOLLM)
    own, (tokens, _) = TensorParallel(whole), draw(whole)
    cache, logits = KVCache(own.part.spec, 2, 12, torch.float64), []
    with torch.no_grad():
        for piece in tokens.split((7, 1, 4), 1):
            window = cache.window(piece.shape[1])
            logits.append(own(piece, window.positions, window.attend))
            cache.advance(piece.shape[1])
        return (torch.cat(logits, 1) - whole(tokens)).abs().max().item(), cache.nbytes


def test_a_rank_decodes_from_a_cache_of_its_own_heads(three_ranks):
    whole = KVCache(tiny(**LIKE_SMOLLM).spec, 2, 12, torch.float64).nbytes
    for difference, nbytes in three_ranks.run(decoded):
        assert difference < EXACT["atol"]
        assert nbytes == whole / 3


def real(tokens, targets, names, pad):
    """Of the rank's part of the real model: logits, loss, some gradients, numbers held and numbers read."""
    read, fill = [], Checkpoint.fill
    Checkpoint.fill = lambda *args: read.append(args[2].numel()) or fill(*args)
    try:
        own = load_part(pad=pad)
    finally:
        Checkpoint.fill = fill
    logits, loss = own(tokens), own.loss(tokens, targets)
    loss.backward()
    gradients = {name: own.part.get_parameter(name).grad for name in names}
    held = sum(parameter.numel() for parameter in own.part.parameters())
    return logits.detach() if own.rank == 0 else None, loss.item(), gradients, held, sum(read)


@pytest.fixture(scope="module")
def smollm():
    """Tokens, and what the whole model makes of them."""
    whole = load_model()
    tokens = torch.randint(whole.spec.vocab_size, (1, 17), generator=torch.Generator().manual_seed(0))
    logits = whole(tokens[:, :-1])
    loss = cross_entropy(logits, tokens[:, 1:])
    loss.backward()
    return whole, tokens, logits.detach(), loss.item()


NAMES = ["blk.0.attn_k.weight", "blk.29.ffn_down.weight", "blk.15.attn_norm.weight", "output_norm.weight"]


def test_the_real_model_on_three_ranks(three_ranks, smollm):
    whole, tokens, logits, loss = smollm
    found = three_ranks.run(real, tokens[:, :-1], tokens[:, 1:], NAMES, pad=False)
    torch.testing.assert_close(found[0][0], logits, **REAL)
    own, matrices = part(whole.spec, 3), whole.spec.matrices()
    by_rows = whole.spec.n_layers * sum(n_out * n_in for n_out, n_in in (matrices["attn_output"], matrices["ffn_down"]))
    for rank, (_, own_loss, gradients, held, read) in enumerate(found):
        assert own_loss == pytest.approx(loss, abs=1e-4)
        assert held == own.n_params
        assert read == own.n_params + 2 / 3 * by_rows  # what is cut by rows is read whole
        for name, gradient in gradients.items():
            want = whole.get_parameter(name).grad
            want = want[64 * rank :][:64] if "attn_k" in name else want
            want = want[:, 512 * rank :][:, :512] if "ffn_down" in name else want
            torch.testing.assert_close(gradient, want, rtol=1e-3, atol=1e-4)


def test_the_real_model_on_two_ranks_filled_up(two_ranks, smollm):
    whole, tokens, logits, loss = smollm
    found = two_ranks.run(real, tokens[:, :-1], tokens[:, 1:], [], pad=True)
    torch.testing.assert_close(found[0][0], logits, **REAL)
    for _, own_loss, _, held, _ in found:
        assert own_loss == pytest.approx(loss, abs=1e-4)
        assert held == part(padded(whole.spec, 2), 2).n_params


@pytest.mark.parametrize("tp_size", [1, 2, 3, 4, 8])
def test_what_is_padded_divides_and_what_divides_is_not_padded(tp_size):
    for each in MODELS.values():
        filled = padded(each, tp_size)
        part(filled, tp_size)
        assert padded(filled, tp_size) == filled
        assert filled.n_heads / filled.n_kv_heads == each.n_heads / each.n_kv_heads
        assert (filled == each) == divides(each, tp_size)


def test_what_two_ranks_cost_smollm():
    filled = padded(SMOLLM, 2)
    assert filled == replace(SMOLLM, n_heads=12, n_kv_heads=4)
    assert filled.parameters()["attention"] / SMOLLM.parameters()["attention"] == 4 / 3
    assert kv_bytes(filled) / kv_bytes(SMOLLM) == 4 / 3
    assert padded(SMOLLM, 3) == SMOLLM
