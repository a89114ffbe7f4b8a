"""Accelerators as one pays for them: what a name such as v5e-16 means, its memory and its price.

Prices are list prices in USD for an hour of one chip, on demand, in American regions, as of 2025:
they differ by region and day, spot machines cost about half. Give your own.
"""

import dataclasses
import re
from collections.abc import Mapping

from miro_jax.data.json_file import read_json


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      kind: `device_kind` as JAX has it, see `models.flops`. memory_gib: of a chip.
      price: USD an hour; None is not known. cores: of a chip, where names count those.
      devices: that JAX sees of a chip, which share its memory evenly.
    """

    kind: str
    memory_gib: float
    price: float | None
    cores: int = 1
    devices: int = 1


CHIPS = {
    "v4": Chip("TPU v4", 32, 3.22, cores=2),
    "v5e": Chip("TPU v5 lite", 16, 1.20),
    "v5p": Chip("TPU v5", 95, 4.20, cores=2),
    "v6e": Chip("TPU v6 lite", 32, 2.70),
    "tpu7x": Chip("TPU7x", 192, None, cores=2, devices=2),
    "l4": Chip("NVIDIA L4", 24, 0.71),
    "a100": Chip("NVIDIA A100", 80, 5.07),
    "h100": Chip("NVIDIA H100", 80, 11.06),
    "h200": Chip("NVIDIA H200", 141, 10.60),
    "b200": Chip("NVIDIA B200", 180, None),
}
ALIASES = {"v5litepod": "v5e"}


def parse_chips(text: str) -> tuple[str, int]:
    """Read a type of machines: "v5e-16" is ("v5e", 16), and "v5p-16" ("v5p", 8): cores of v4, v5p
    and tpu7x are counted, two a chip.

    Raises:
      ValueError: there is no such type.
    """
    match = re.fullmatch(r"([a-z0-9]+)-([1-9]\d*)", text)
    name = ALIASES.get(match[1], match[1]) if match else ""
    if match is None or name not in CHIPS:
        raise ValueError(
            f"must be one of {', '.join(CHIPS)} with a number, such as v5e-16; got {text!r}"
        )
    count, rest = divmod(int(match[2]), CHIPS[name].cores)
    if rest:
        raise ValueError(f"counts cores, {CHIPS[name].cores} a chip; got {text!r}")
    return name, count


def read_prices(path: str) -> Mapping[str, float]:
    """Read a JSON file of prices: {"v5e": 0.6, "h100": 7.5}, USD an hour of a chip.

    Raises:
      ValueError: it is no such file, or names an unknown chip. OSError: it cannot be read.
    """
    prices = read_json(path, {str: (int, float)})
    unknown = sorted(set(prices) - set(CHIPS))
    if unknown or not all(price >= 0 for price in prices.values()):
        raise ValueError(
            f"{path} must give prices of at least 0 to some of {', '.join(CHIPS)}; got {prices}."
        )
    return prices
