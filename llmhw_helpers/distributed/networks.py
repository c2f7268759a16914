"""A network of one's own: each rank with its own wire of a given speed to a switch, as an ordinary user of Linux."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """A wire of `bits_per_s` from each rank to one switch, with `delay_s` on the way."""

    bits_per_s: float
    delay_s: float = 0.0
