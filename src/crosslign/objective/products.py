"""Matrix products of the fused path with float32 sums, whatever the operands' types.

On an accelerator, half-precision operands stay as they are and the result is float32 (tensor cores sum in float32
anyway). Elsewhere the operands are widened block by block, so no wide copy of a head exists.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crosslign.objective.head import OutputHead

_HALF = (torch.float16, torch.bfloat16)


def _wide_result(device: torch.device) -> bool:
    # `out_dtype` is CUDA's alone, and new in torch 2.8.
    return device.type == "cuda" and tuple(int(x) for x in torch.__version__.split(".")[:2]) >= (2, 8)


@dataclass(frozen=True)
class Precision:
    """`operand`: the type in which matrices are multiplied; `result`: of logits, sums and gradients."""

    operand: torch.dtype
    result: torch.dtype

    @classmethod
    def of(cls, hidden: Tensor) -> Precision:
        """float64 for float64; else float32, with half-precision operands where the device sums those in float32."""
        if hidden.dtype == torch.float64:
            return cls(torch.float64, torch.float64)
        kind = hidden.device.type
        operand = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        half = operand in _HALF and _wide_result(hidden.device)
        return cls(operand if half else torch.float32, torch.float32)

    def product(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        """`out = a b`."""
        a, b = a.to(self.operand), b.to(self.operand)
        if self.operand == self.result:
            torch.mm(a, b, out=out)
        else:
            torch.mm(a, b, out_dtype=self.result, out=out)

    def add_product(self, out: Tensor, a: Tensor, b: Tensor, *, first: bool = False) -> None:
        """`out += a b`; of a sum's first product `out = a b`, whatever `out` holds."""
        if len(a) == 1:
            # A matrix-vector kernel sums the whole vocabulary in one run, which doubles the error of the blocked sums
            # of a matrix product.
            two = out.new_zeros(2, out.shape[1])
            self.add_product(two, a.expand(2, -1), b)
            (out.copy_ if first else out.add_)(two[:1])
            return
        a, b = a.to(self.operand), b.to(self.operand)
        beta = 0 if first else 1
        if self.operand == self.result:
            out.addmm_(a, b, beta=beta)
        else:
            torch.addmm(out, a, b, out_dtype=self.result, beta=beta, out=out)


@dataclass(frozen=True)
class Projection:
    """A described head with its tensors, without their graph."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None

    @classmethod
    def of(cls, head: OutputHead) -> Projection:
        linear = head.linear
        assert isinstance(linear, torch.nn.Linear)
        bias = linear.bias.detach() if linear.bias is not None else None
        return cls(linear.weight.detach(), bias, head.scale, head.softcap)

    def same(self, other: Projection) -> bool:
        """Both are one head, so one product serves both."""

        def one(a: Tensor | None, b: Tensor | None) -> bool:
            if a is None or b is None:
                return a is b
            return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.dtype == b.dtype

        return (
            one(self.weight, other.weight)
            and one(self.bias, other.bias)
            and (self.scale, self.softcap) == (other.scale, other.softcap)
        )

    def infinite(self) -> bool:
        """Some logits are infinite: a bias of -inf takes entries out of the vocabulary."""
        return self.bias is not None and not bool(self.bias.isfinite().all())

    def logits(self, rows: Tensor, columns: slice, out: Tensor, precision: Precision) -> None:
        """`out = ` the logits `[n, columns]` of these rows `[n, H]`."""
        precision.product(rows, self.weight[columns].t(), out)
        if self.bias is not None:
            out.add_(self.bias[columns])
        if self.scale != 1:
            out.mul_(self.scale)
        if self.softcap is not None:
            out.div_(self.softcap).tanh_().mul_(self.softcap)
