"""The loss of a language model: the head and the cross-entropy in one, for they share their largest tensor."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def head_loss(
    x: Float[Tensor, "n d_model"], weight: Float[Tensor, "vocab_size d_model"], targets: Int[Tensor, " n"]
) -> Float[Tensor, ""]:
    """``cross_entropy(x @ weight.T, targets)``, in nats a token and in fp32, with half of its memory and traffic.

    The backward pass of a cross-entropy needs one tensor of ``n x vocab_size``, the probabilities, and its result is
    one of the same size, so it can be made in place. PyTorch's own functions, which cannot know that nobody else will
    look at the logits, allocate it four times over.
    """
    return _HeadLoss.apply(x, weight, targets)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, targets):
        log_p = F.linear(x, weight).log_softmax(-1, dtype=torch.float32)
        ctx.save_for_backward(x, weight, targets, log_p)
        return -log_p[torch.arange(len(x), device=x.device), targets].mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        x, weight, targets, log_p = ctx.saved_tensors
        gradient = log_p.exp_()  # of the logits: what was predicted, less what came
        gradient[torch.arange(len(x), device=x.device), targets] -= 1
        gradient = gradient.mul_(slope / len(x)).to(x.dtype)
        of_x = gradient @ weight if ctx.needs_input_grad[0] else None
        of_weight = gradient.mT @ x if ctx.needs_input_grad[1] else None
        return of_x, of_weight, None
