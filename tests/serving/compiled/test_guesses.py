"""A guess that is checked by the compiled step."""

import pytest
import torch

from llmhw_helpers.serving import speculation
from llmhw_helpers.serving.compiled.decoder import Decoder
from llmhw_helpers.serving.kv_cache import CacheFull, KVCache
from llmhw_helpers.serving.weights import Served


def test_it_is_given_as_rows_of_one_text(tiny, stands_in, monkeypatch):
    """The stand-in scores each row by the sum of all tokens up to it: a row that did not see the one before shows."""
    served, decoder = Served(tiny), Decoder(tiny)
    monkeypatch.setattr(speculation, "decoder_for", lambda served, cache: decoder)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # its workers do not meet before a later row reads what an earlier one wrote
    try:
        found = speculation.verify(served, [7, 3, 5], cache := KVCache(tiny.spec, 1, 8, by_token=True))
        assert found[:, 1].tolist() == [7, 10, 15]
        assert cache.lengths == [0]
        with pytest.raises(CacheFull, match="9 more do not fit"):
            speculation.verify(served, [1] * 9, cache)
    finally:
        torch.set_num_threads(n_threads)
