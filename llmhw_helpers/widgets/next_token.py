"""The next-token explorer: type a prompt, see what may come next, click one to go on."""

import matplotlib.pyplot as plt
import torch
from ipywidgets import Button, FloatSlider, HBox, Label, Layout, Output, Text, VBox

from ..llm.sampling import probabilities, tokens_of
from ..llm.tokenizer import BadText, Tokenizer
from ..llm.transformer import TokenError, Transformer
from ..plots.tokens import plot_next

CERTAIN = 1.08  # an axis that holds a bar of all probability, with its label


@torch.inference_mode()
def likeliest(
    model: Transformer, tokenizer: Tokenizer, text: str, n: int = 8, temperature: float = 1.0
) -> list[tuple[int, str, float]]:
    """The `n` likeliest next tokens after `text`: number, text for people, probability.

    Raises:
        TokenError, BadText: a text without tokens, or more of it than the context holds.
    """
    tokens = tokenizer.encode(text, special=True)
    if not tokens:
        raise TokenError("Write some words first: a model goes on from at least one token.")
    device = model.token_embd.weight.device
    logits = model.head(model.hidden(torch.tensor([tokens], device=device))[0, -1])
    allowed = tokens_of(tokenizer, logits.shape[-1], device)
    best = probabilities(logits, temperature, allowed=allowed).topk(n)
    return [
        (token, tokenizer.piece(token), p) for token, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def show_next(model: Transformer, tokenizer: Tokenizer, text: str, n: int = 8, temperature: float = 1.0) -> None:
    """Draw one setting of the explorer."""
    plot_next([(piece, p) for _, piece, p in likeliest(model, tokenizer, text, n, temperature)])
    plt.show()


class NextTokenExplorer(VBox):
    """A prompt, a temperature, and a button for each of the likeliest next tokens."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, text: str, n: int = 8):
        self.model, self.tokenizer, self.n = model, tokenizer, n
        self.text = Text(text, continuous_update=False, description="prompt", layout=Layout(width="95%"))
        self.temperature = FloatSlider(1.0, min=0.1, max=2.0, step=0.1, description="temperature")
        self.undo = Button(description="take back")
        self.choices, self.picture, self.said, self._before = HBox(), Output(), Label(), []
        self.choices.layout.flex_flow = "row wrap"
        self.text.observe(self._refresh, "value")
        self.temperature.observe(self._refresh, "value")
        self.undo.on_click(self._take_back)
        super().__init__([self.text, HBox([self.temperature, self.undo]), self.choices, self.said, self.picture])
        self._refresh()

    def _refresh(self, _change=None) -> None:
        self.said.value = ""
        try:
            found = likeliest(self.model, self.tokenizer, self.text.value, self.n, self.temperature.value)
        except (TokenError, BadText) as error:
            self.said.value, self.choices.children = str(error), ()
            return
        self.choices.children = tuple(self._button(token, piece, p) for token, piece, p in found)
        self.picture.clear_output(wait=True)
        with self.picture:
            plot_next([(piece, p) for _, piece, p in found], end=CERTAIN)
            plt.show()

    def _button(self, token: int, piece: str, p: float) -> Button:
        button = Button(description=f"{piece!r} {p:.0%}", tooltip=f"token {token}")
        button.on_click(lambda _: self._go_on(token))
        return button

    def _go_on(self, token: int) -> None:
        self._before.append(self.text.value)
        self.text.value += self.tokenizer.decode([token])

    def _take_back(self, _button) -> None:
        if self._before:
            self.text.value = self._before.pop()
