"""How a network differs from the one that it was made from, as data: pruned and factorized networks as files.

Weights alone do not say that a layer became two, or that a block is gone. A description does, in JSON, and nothing in it
is code: a rebuilt network consists of the original's own modules and of the classes in `allowed`.
"""

from compressctl.sources.structure.describe import NotDescribableError, describe
from compressctl.sources.structure.files import read_description, read_network, write_network
from compressctl.sources.structure.rebuild import StructureError, rebuild

__all__ = [
    "NotDescribableError",
    "StructureError",
    "describe",
    "read_description",
    "read_network",
    "rebuild",
    "write_network",
]
