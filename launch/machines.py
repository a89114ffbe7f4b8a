"""What a type of machine is called by each service: images, machine types, topologies, hosts.

A type is a chip and a number, such as v6e-16 or h100-8. The number counts what Google's names
count: chips of v5e and v6e, cores of v4, v5p and tpu7x (two a chip), GPUs.
"""

import dataclasses
import re
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Tpu:
    """One generation.

    Attributes:
      cores: of a chip, as its names count. flat: the chips are wired as a plane, not as a block.
      runtime: image of the old API, "" where it does not serve the chip. family: image of Compute
        Engine. label: accelerator of GKE. machine: type, with the chips of a host to be filled in.
      alias: its name in the old API. disk: kind of boot disk that the machine takes.
      devices: that JAX sees of a chip.
    """

    cores: int
    flat: bool
    runtime: str
    label: str
    machine: str
    family: str = "ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e"
    alias: str = ""
    disk: str = "pd-balanced"
    devices: int = 1


HYPERDISK = "hyperdisk-balanced"
TPUS = {
    "v4": Tpu(2, False, "tpu-ubuntu2204-base", "tpu-v4-podslice", "ct4p-hightpu-{}t"),
    "v5e": Tpu(
        *(1, True, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", "ct5lp-hightpu-{}t"),
        alias="v5litepod",
    ),
    "v5p": Tpu(2, False, "v2-alpha-tpuv5", "tpu-v5p-slice", "ct5p-hightpu-{}t"),
    "v6e": Tpu(1, True, "v2-alpha-tpuv6e", "tpu-v6e-slice", "ct6e-standard-{}t", disk=HYPERDISK),
    "tpu7x": Tpu(
        *(2, False, "", "tpu7x", "tpu7x-standard-{}t"),
        family="ubuntu-accel-2404-amd64-tpu-tpu7x",
        disk=HYPERDISK,
        devices=2,
    ),
}
# Type of machine, GPUs of one, and with how many of them it can also be had.
GPUS: Mapping[str, tuple[str, int, tuple[int, ...]]] = {
    "l4": ("g2-standard-96", 8, ()),
    "a100": ("a2-ultragpu-{}g", 8, (1, 2, 4)),
    "h100": ("a3-highgpu-{}g", 8, (1, 2, 4)),
    "h200": ("a3-ultragpu-{}g", 8, ()),
    "b200": ("a4-highgpu-{}g", 8, ()),
}
PROJECT = "ubuntu-os-accelerator-images"
GPU_FAMILY = "ubuntu-accelerator-2204-amd64-with-nvidia-580"
LOCKED_BYTES = 1 << 36  # of memory that the driver of a TPU may lock, as GKE's guide has it
CHIPS_OF_HOST = 4  # of every slice of several hosts


def machine(kind: str, name: str) -> dict[str, str]:
    """Return the variables by which the scripts create machines of a type.

    Args:
      kind: gke, mig or queued. name: of the type, as v5e-16, v5litepod-16, h100-8.

    Raises:
      ValueError: there is no such type, or this kind of cluster does not have it.
    """
    match = re.fullmatch(r"([a-z0-9]+)-([1-9]\d*)", name)
    aliases = {tpu.alias: chip for chip, tpu in TPUS.items() if tpu.alias}
    chip = aliases.get(match[1], match[1]) if match else ""
    if match is None or chip not in {**TPUS, **GPUS}:
        raise ValueError(
            f"--type must be one of {', '.join((*TPUS, *GPUS))} with a number, such as v6e-16 or "
            f"h100-8; got {name!r}."
        )
    if kind == "mig" and chip == "v4":
        raise ValueError(f"--on=mig does not serve v4; got {name}. Take --on=queued or --on=gke.")
    if kind == "queued" and (chip in GPUS or not TPUS[chip].runtime):
        served = [chip for chip, tpu in TPUS.items() if tpu.runtime]
        raise ValueError(
            f"--on=queued serves {', '.join(served)}; got {name}. Take --on=gke or --on=mig."
        )
    return _tpu(chip, int(match[2])) if chip in TPUS else _gpu(chip, int(match[2]))


def _tpu(chip: str, number: int) -> dict[str, str]:
    tpu = TPUS[chip]
    count, rest = divmod(number, tpu.cores)
    alone = (1, 4, 8) if tpu.flat else (4,)
    if rest or count not in alone and (count < CHIPS_OF_HOST or count & (count - 1)):
        example = f"{chip}-{16 * tpu.cores}"
        raise ValueError(
            f"--type={chip}-{number} is no slice: {tpu.cores} of its number are a chip, and slices "
            f"have 4, 8, 16, 32, ... chips, such as {example}."
        )
    of_host = count if count in alone else CHIPS_OF_HOST
    hosts = count // of_host
    return {
        "TYPE": f"{tpu.alias or chip}-{number}",
        "HOSTS": str(hosts),
        "CHIPS": str(of_host),
        "DEVICES": str(count * tpu.devices),
        "MACHINE": tpu.machine.format(of_host),
        "TOPOLOGY": topology(count, tpu.flat),
        "SLICE": "1" if hosts > 1 else "",  # hosts that must be wired together
        "RUNTIME": tpu.runtime,
        "FAMILY": tpu.family,
        "FAMILY_PROJECT": PROJECT,
        "DISK": tpu.disk,
        "LABEL": tpu.label,
        "RESOURCE": "google.com/tpu",
        "SELECTOR": f"cloud.google.com/gke-tpu-accelerator: {tpu.label}\n"
        f"                cloud.google.com/gke-tpu-topology: {topology(count, tpu.flat)}",
        "SECURITY": "{ runAsUser: 0, capabilities: { add: [SYS_RESOURCE] } }",
        "RAISE": f'"prlimit", "--memlock={LOCKED_BYTES}", ',
        "EXTRA": "tpu",
    }


def _gpu(chip: str, number: int) -> dict[str, str]:
    name, most, fewer = GPUS[chip]
    of_host = min(number, most)
    if number % most and number not in fewer:
        raise ValueError(
            f"--type={chip}-{number} cannot be had: machines have "
            f"{', '.join(map(str, (*fewer, most)))} of them, and several have {most} each."
        )
    return {
        "TYPE": f"{chip}-{number}",
        "HOSTS": str(number // of_host),
        "CHIPS": str(of_host),
        "DEVICES": str(number),
        "MACHINE": name.format(of_host),
        "TOPOLOGY": "",
        "SLICE": "",
        "RUNTIME": "",
        "FAMILY": GPU_FAMILY,
        "FAMILY_PROJECT": PROJECT,
        "DISK": HYPERDISK if chip in ("h200", "b200") else "pd-balanced",
        "LABEL": chip,
        "RESOURCE": "nvidia.com/gpu",
        "SELECTOR": "",
        "SECURITY": "{}",
        "RAISE": "",
        "EXTRA": "cuda12",
    }


def topology(chips: int, flat: bool) -> str:
    """Return how a power of two of chips is laid out: as a plane, 4x8, or a block, 2x4x4."""
    sides = [1] * (2 if flat else 3)
    if not flat and chips >= CHIPS_OF_HOST:  # a host is 2x2x1
        sides, chips = [1, 2, 2], chips // CHIPS_OF_HOST
    while chips > 1:
        sides[sides.index(min(sides))] *= 2
        sides.sort()
        chips //= 2
    return "x".join(map(str, sides if flat or min(sides) > 1 else sides[::-1]))
