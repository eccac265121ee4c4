"""A dense layer inside one score: both gradients of its matrix, on the way there and back, as one product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from genzoo.bijections.dense_linear import Dense


class PairedDense:
    """A view of a :class:`~genzoo.bijections.dense_linear.Dense` layer, for one loss and one backward pass.

    A score uses each matrix twice, and automatic differentiation would write a ``D x D`` gradient for each use and add
    them: at a batch of a hundred rows that traffic costs as much as the products. Here the backward pass of ``pull``
    leaves its two factors for that of ``push``, which multiplies all rows at once. ``push`` always comes later: the
    gradient that ``pull`` reads was made from the latent, which ``push`` leads to.

    The gradient is written into memory of the last step, if nobody holds that any more: beyond some 30 MB an allocator
    returns what is freed to the system, and fresh pages cost a third of the product that fills them.

    Differentiable once.

    Args:
        layer: The layer.
    """

    linear: ClassVar[bool] = True

    def __init__(self, layer: Dense) -> None:
        self.layer = layer
        self.left = _Left(layer.gradient_memory)

    def push(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, None]:
        """See :meth:`genzoo.bijections.energy_layer.EnergyLayer.push`."""
        return _push(x, self.layer.weight.to(x.dtype), self.left) + self.layer.moved(x, context), None

    def carry(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """See :meth:`genzoo.bijections.energy_layer.EnergyLayer.carry`."""
        return self.push(x, context)[0]

    def push_along(self, x: Tensor, v: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :meth:`genzoo.bijections.energy_layer.EnergyLayer.push_along`."""
        both = _push(torch.cat([x, v.flatten(0, 1)]), self.layer.weight.to(x.dtype), self.left)
        return both[: len(x)] + self.layer.moved(x, context), both[len(x) :].reshape(v.shape)

    def pull(self, x: Tensor, grad: Tensor, context: Tensor | None = None) -> Tensor:
        """See :meth:`genzoo.bijections.energy_layer.EnergyLayer.pull`."""
        pulled: Tensor = _Pull.apply(grad, self.layer.weight.to(grad.dtype), self.left)  # type: ignore[no-untyped-call]
        return pulled

    def pull_bent(
        self, x: Tensor, v: Tensor, grad: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """See :meth:`genzoo.bijections.energy_layer.EnergyLayer.pull_bent`."""
        return self.pull(x, grad, context), None


class GradientMemory:
    """Memory of one large matrix, taken again once all views of it are gone; on CPU, where allocators give it back."""

    def __init__(self) -> None:
        self._kept: Tensor | None = None

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """``a @ b``, in the kept memory if it is free and fits, else in new memory."""
        if a.device.type != "cpu":
            return a @ b
        kept, shape = self._kept, (a.shape[0], b.shape[1])
        if kept is None or kept.shape != shape or kept.dtype != a.dtype:
            kept = self._kept = a.new_empty(shape)
        # itself and the handle asked for here; whoever holds a gradient, or a part of one, counts too
        elif torch._C._storage_Use_Count(kept.untyped_storage()._cdata) > 2:
            return a @ b
        torch.mm(a, b, out=kept)
        return kept.detach()  # a tensor of its own, which becomes ``weight.grad`` without a copy

    def __deepcopy__(self, memo: dict[int, Any]) -> GradientMemory:
        return GradientMemory()

    def __reduce__(self) -> tuple[Any, ...]:
        return GradientMemory, ()


class _Left:
    """What the backward passes of one loss leave for each other: factors, and the memory of their product."""

    def __init__(self, memory: GradientMemory) -> None:
        self.memory = memory
        self.factors: list[tuple[Tensor, Tensor]] = []


def _push(x: Tensor, weight: Tensor, left: _Left) -> Tensor:
    pushed: Tensor = _Push.apply(x, weight, left)  # type: ignore[no-untyped-call]
    return pushed


class _Push(torch.autograd.Function):
    """``x W^T``; its backward pass also takes what :class:`_Pull` left."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, left: _Left) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.left = left
        return x @ weight.t()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        rows, columns = [grad], [x]
        while ctx.left.factors:
            row, column = ctx.left.factors.pop()
            rows.append(row)
            columns.append(column)
        for_weight = (
            ctx.left.memory.product(torch.cat(rows).t(), torch.cat(columns)) if ctx.needs_input_grad[1] else None
        )
        return grad @ weight if ctx.needs_input_grad[0] else None, for_weight, None


class _Pull(torch.autograd.Function):
    """``g W``; its backward pass leaves the factors of the gradient of ``W``."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, weight: Tensor, left: _Left) -> Tensor:
        ctx.save_for_backward(grad, weight)
        ctx.left = left
        return grad @ weight

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, None, None]:
        grad, weight = ctx.saved_tensors
        ctx.left.factors.append((grad, outer))
        return outer @ weight.t() if ctx.needs_input_grad[0] else None, None, None
