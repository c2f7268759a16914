"""The head viewer: pick a layer and a head, and see what each token of a text looks at."""

import matplotlib.pyplot as plt
import torch
from ipywidgets import IntSlider, Text, VBox, interactive

from ..llm.attention import attention_maps
from ..llm.tokenizer import BadText, Tokenizer
from ..llm.transformer import Transformer
from ..plots.attention import plot_weights

MAX_TOKENS = 40  # more cannot be read


def view_heads(model: Transformer, tokenizer: Tokenizer, text: str, layer: int = 0, head: int = 0) -> VBox:
    """Controls over a picture: the text, the layer, the head."""
    return interactive(
        lambda text, layer, head: show_head(model, tokenizer, text, layer, head),
        text=Text(text, continuous_update=False, description="text"),
        layer=IntSlider(layer, 0, model.spec.n_layers - 1, description="layer", continuous_update=False),
        head=IntSlider(head, 0, model.spec.n_heads - 1, description="head", continuous_update=False),
    )


def show_head(model: Transformer, tokenizer: Tokenizer, text: str, layer: int, head: int) -> None:
    """Draw one setting of the viewer; a line where there is nothing to draw."""
    try:
        tokens = tokenizer.encode(text)[:MAX_TOKENS]
    except BadText as error:
        print(error)
        return
    if not tokens:
        print("Write some words first.")
        return
    device = model.token_embd.weight.device
    weights = attention_maps(model, torch.tensor([tokens], device=device))[layer, head]
    plot_weights(weights.cpu().numpy(), [tokenizer.piece(token) for token in tokens])
    plt.show()
