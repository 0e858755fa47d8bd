"""Products of large matrices."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def product(left: Float[Tensor, "rows inner"], right: Float[Tensor, "columns inner"]) -> Float[Tensor, "rows columns"]:
    """Return ``left @ right.T``, both float32, on a CPU by oneDNN where torch was built with it.

    What torch takes else, MKL, leaves half of the vector width of AMD's processors unused. The two add up in another
    order: the last bits differ, as they do between batch sizes.
    """
    if left.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return left @ right.T
    return functional.linear(left.to_mkldnn(), right).to_dense()
