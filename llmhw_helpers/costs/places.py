"""Where a model may run: a cluster with its nodes, or cards that somebody has."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..specs.accelerators import ACCELERATORS, Accelerator, accelerator
from ..specs.clusters import CLUSTERS, Cluster, NodeType
from ..specs.figures import Figure, UnknownName, look_up
from ..specs.links import Link
from ..specs.links import link as find_link

CARDS_PER_NODE = 8  # of cards that stand in no cluster known here: an assumption, which a plan says
MOST_CARDS = 10**6  # fewer than these are read
NO_PRICE = Figure(None, "", "price of a GPU-hour", "cards of one's own have no price by the hour")
NO_NETWORK = Figure(None, "bit/s", "link of a node to others", "not a cluster that is known here")


@dataclass(frozen=True)
class Offer:
    """Cards of one kind.

    Attributes:
        card: the GPU.
        n_gpus: how many may be used.
        gpus_per_node: the most of them in one node, where tensor parallelism stays.
        there: how many stand in the cluster; None where more can be had.
        price: of a GPU-hour.
        network: of a node to others, nominal, one direction.
        link: what kind of link that is; None where it is not known.
        cluster, gpu_type: whose they are, and what Slurm calls them; None where there is none, or it is not known.
    """

    card: Accelerator
    n_gpus: int
    gpus_per_node: int
    there: int | None = None
    price: Figure = NO_PRICE
    network: Figure = NO_NETWORK
    link: Link | None = None
    cluster: str | None = None
    gpu_type: str | None = None

    @property
    def name(self) -> str:
        """The card, and where it stands.

        >>> offers("Alvis")[2].name, offers("2 x A40")[0].name
        ('A40 on Alvis', 'A40')
        """
        return f"{self.card.name} on {self.cluster}" if self.cluster else self.card.name

    def n_nodes(self, n_gpus: int) -> int:
        """Nodes that so many GPUs fill."""
        return -(-n_gpus // self.gpus_per_node)

    def more(self, n_gpus: int) -> "Offer":
        """With so many of them, or all that the cluster has; cards of one's own fill a node before there is another."""
        if self.there is not None:
            return replace(self, n_gpus=min(n_gpus, self.there))
        return replace(self, n_gpus=n_gpus, gpus_per_node=min(n_gpus, CARDS_PER_NODE))


def offers(where: str | Sequence[str], n_gpus: int | None = None) -> tuple[Offer, ...]:
    """What there is at `where`: one offer for each kind of card.

    Args:
        where: a cluster (``"Alvis"``), one kind of its cards (``"Alvis A40"``), cards (``"A100-80GB"``,
            ``"2 x RTX 3090"``), or several of these, in a list or between commas. A card is one card unless a number
            stands before it.
        n_gpus: of a cluster, the most to use; of cards without a number of their own, how many there are.

    Raises:
        UnknownName: neither a cluster nor a card; the message names the nearest.
        ValueError: nothing, fewer than one card, or more than there are.

    >>> [(each.card.name, each.n_gpus, each.gpus_per_node) for each in offers("2 x A40, T4")]
    [('A40', 2, 2), ('T4', 1, 1)]
    >>> [(each.card.name, each.n_gpus) for each in offers("Alvis A100-80GB", n_gpus=8)]
    [('A100-80GB', 8)]
    """
    if n_gpus is not None and n_gpus < 1:
        raise ValueError(f"a model runs on one GPU at least, not on {n_gpus}")
    named = where.split(",") if isinstance(where, str) else where
    found = [offer for name in named if str(name).strip() for offer in _named(str(name).strip(), n_gpus)]
    if not found:
        raise ValueError(f"no cluster and no card: name one of {', '.join(CLUSTERS)}, or a card such as A100-80GB")
    most: dict[str, Offer] = {}  # cards that are named twice: what fewer do, more do as well
    for offer in found:
        most[offer.name] = max(most.get(offer.name, offer), offer, key=lambda each: each.n_gpus)
    return tuple(most.values())


def _named(name: str, n_gpus: int | None) -> list[Offer]:
    first, _, rest = name.partition(" ")
    if (home := _cluster(first)) is None:
        count, card = _counted(name)
        return [_own(card, count or n_gpus or 1)]
    if not rest.strip():
        return [_of_node(home, node, n_gpus) for node in home.nodes.values()]
    count, card = _counted(rest.strip())
    if card.name not in home.nodes:
        home.node(card.name)  # says which ones it has
    offer = _of_node(home, home.nodes[card.name], count or n_gpus)
    if count and count > offer.n_gpus:
        raise ValueError(f"{name}: {home.name} has {offer.n_gpus} {card.name}")
    return [offer]


def _cluster(name: str) -> Cluster | None:
    try:
        return look_up(name, CLUSTERS, "cluster")
    except UnknownName:
        return None


def _counted(name: str) -> tuple[int | None, Accelerator]:
    """A card, and how many of it: ``2 x A40``, ``2xA40`` or ``2 A40``."""
    match = re.fullmatch(r"(\d+)(?:\s*[x×*]\s*|\s+)(.+)", name)
    digits, card = (match[1].lstrip("0"), match[2]) if match else (None, name)
    if digits == "":
        raise ValueError(f"{name}: a model runs on one GPU at least")
    if digits and len(digits) > len(str(MOST_CARDS)) - 1:
        raise ValueError(f"a number of {len(digits)} digits before {card}: fewer than {MOST_CARDS} cards are asked for")
    count = int(digits) if digits else None
    try:
        return count, accelerator(card)
    except UnknownName:
        look_up(card, {**CLUSTERS, **ACCELERATORS}, "cluster or card")  # raises, with the nearest of both
        raise ValueError(f"{name}: {card} is a cluster, so name its cards, as in 'Alvis 4 x A40'") from None


def _own(card: Accelerator, n_gpus: int) -> Offer:
    return Offer(card, n_gpus, min(n_gpus, CARDS_PER_NODE))


def _of_node(home: Cluster, node: NodeType, most: int | None) -> Offer:
    there = int(node.n_gpus.known())
    return Offer(
        card=accelerator(node.accelerator),
        n_gpus=there if most is None else min(there, most),
        gpus_per_node=int(node.gpus_per_node[-1].known()),
        there=there,
        price=node.price,
        network=node.network_bits_per_s,
        link=find_link(node.network) if node.network else None,
        cluster=home.name,
        gpu_type=node.gpu_type,
    )
