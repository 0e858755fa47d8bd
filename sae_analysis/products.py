"""Products of large float32 matrices on a CPU, by oneDNN.

What torch takes else, MKL, leaves half of the vector width of AMD's processors unused, and is no faster elsewhere. The
two add up in another order: the last bits differ, as they do between batch sizes. Nothing here is differentiable.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_WORTH_IT = 1 << 20
"""Multiplications below which oneDNN's start costs more than it saves."""


def product(
    left: Float[Tensor, "*rows inner"],
    right: Float[Tensor, "columns inner"],
    bias: Float[Tensor, " columns"] | None = None,
) -> Float[Tensor, "*rows columns"]:
    """Return ``left @ right.T + bias``, whose unit is that of the bias: the product of the other two."""
    if not _is_ours(left, right):
        return functional.linear(left, right, bias)
    rows = left.flatten(0, -2)
    more = with_few_numbers(len(rows)) - len(rows)
    padded = functional.pad(rows, (0, 0, 0, more)) if more else rows
    return _by_onednn(padded, right, bias)[: len(rows)].unflatten(0, left.shape[:-1])


def fast_products() -> AbstractContextManager[object]:
    """Return a context in which models use these products in their layers; nothing changes where gradients are on."""
    return nullcontext() if torch.is_grad_enabled() else _Products()


class _Products(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        if not kwargs:
            if func is functional.linear and len(args) in (2, 3):
                return product(*args)
            if func is torch.addmm and len(args) == 3 and args[0].dim() == 1:  # GPT-2's layers have their weights so
                return product(args[1], args[2].T, args[0])
        return func(*args, **(kwargs or {}))


def _by_onednn(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    """Return the product by the operation that torch has for models it compiles: it takes tensors as they are."""
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


def with_few_numbers(rows: int) -> int:
    """Return the number of rows that a product is given instead: a multiple of an eighth of the power of two below it.

    For each number of rows oneDNN makes half a megabyte of machine code and keeps it, up to 1,024 times: a long run
    would go on growing.
    """
    step = max(32, (1 << rows.bit_length()) // 16)
    return -(-rows // step) * step


def _is_ours(left: Tensor, right: Tensor) -> bool:
    return (
        left.dtype == right.dtype == torch.float32
        and left.device.type == "cpu"
        and left.dim() > 1
        and left.numel() * len(right) >= _WORTH_IT
        and torch.backends.mkldnn.is_available()
    )
