"""What structured sparsity costs in memory: the weights that stay, and where they stood."""

import math

# Mishra et al., Accelerating Sparse Deep Neural Networks, arXiv:2104.08378, section 3: two bits a weight kept
KEPT, OF = 2, 4


def sparse_bits(bits: float, kept: int = KEPT, of: int = OF) -> float:
    """Bits a weight when `kept` of every `of` weights of `bits` bits are stored, each with its place among them.

    Raises:
        ValueError: more kept than there are, or none.

    >>> sparse_bits(16), sparse_bits(8)
    (9.0, 5.0)
    """
    if not 0 < kept <= of:
        raise ValueError(f"at least 1 of {of} weights is kept and at most all, not {kept}")
    return kept / of * (bits + math.ceil(math.log2(of)))
