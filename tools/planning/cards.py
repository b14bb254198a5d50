"""GPUs that a training can be planned for, by their data sheets. No torch: options are read from here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Data sheet of a GPU. memory: bytes. flops: precision → dense FLOP/s. bandwidth: of the memory [bytes/s].

    link, network: bytes/s that a GPU sends to the others of its node, and its share of the node's network cards.
    """

    memory: float
    flops: dict[str, float]
    bandwidth: float
    link: float
    network: float

    @property
    def precision(self) -> str:
        """Value of --precision auto."""
        return "bf16" if "bf16" in self.flops else "fp16"


_HOPPER = {"bf16": 989e12, "fp16": 989e12, "tf32": 494e12, "fp32": 67e12}
CARDS = {  # the versions with NVLink (SXM), in NVIDIA's DGX
    "h200": Card(141e9, _HOPPER, 4.8e12, 450e9, 50e9),
    "h100": Card(80e9, _HOPPER, 3.35e12, 450e9, 50e9),
    "a100": Card(80e9, {"bf16": 312e12, "fp16": 312e12, "tf32": 156e12, "fp32": 19.5e12}, 2.04e12, 300e9, 25e9),
    "v100": Card(32e9, {"fp16": 125e12, "fp32": 15.7e12}, 0.9e12, 150e9, 6.25e9),
}
