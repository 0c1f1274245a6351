"""Matrix products of the fused path with float32 sums, whatever the operands' types.

On an accelerator, half-precision operands stay as they are and the result is float32 (tensor cores sum in float32
anyway). Elsewhere the operands are widened block by block, so no wide copy of a head exists. A processor that
multiplies bfloat16 faster than float32 then does so, and sums in float32 too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crosslign.objective.head import PlainHead

_HALF = (torch.float16, torch.bfloat16)


def _wide_result(device: torch.device) -> bool:
    # `out_dtype` is CUDA's alone, and new in torch 2.8.
    return device.type == "cuda" and tuple(int(x) for x in torch.__version__.split(".")[:2]) >= (2, 8)


def rounds_to_bfloat16() -> bool:
    """Whether this processor has products of bfloat16, and torch can be told to use them for float32 tensors."""
    # New in torch 2.9.
    return hasattr(torch.backends.mkldnn, "matmul") and torch.cpu._is_avx512_bf16_supported()


@dataclass(frozen=True)
class Precision:
    """`operand`: the type in which matrices are multiplied; `result`: of logits, sums and gradients.

    `rounded`: operands are bfloat16 that was widened, so a product may round them to bfloat16 again. That changes
    nothing but the gradient in the logits, which is rounded as it is on an accelerator.
    """

    operand: torch.dtype
    result: torch.dtype
    rounded: bool = False

    @classmethod
    def of(cls, hidden: Tensor) -> Precision:
        """float64 for float64; else float32, with half-precision operands where the device sums those in float32."""
        if hidden.dtype == torch.float64:
            return cls(torch.float64, torch.float64)
        kind = hidden.device.type
        operand = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        if operand in _HALF and _wide_result(hidden.device):
            return cls(operand, torch.float32)
        return cls(torch.float32, torch.float32, kind == "cpu" and operand == torch.bfloat16 and rounds_to_bfloat16())

    @contextmanager
    def chosen(self) -> Iterator[None]:
        """Inside the block products are computed as fast as this precision allows."""
        if not self.rounded:
            yield
            return
        backend: Any = torch.backends.mkldnn
        settings = backend.matmul
        before = settings.fp32_precision
        settings.fp32_precision = "bf16"
        try:
            yield
        finally:
            settings.fp32_precision = before

    def logits(self, head: PlainHead, rows: Tensor, columns: slice = slice(None), out: Tensor | None = None) -> Tensor:
        """The head's logits `[n, columns]` of these rows `[n, H]`, without a graph; written to `out` if given."""
        a, b = rows.to(self.operand), head.weight[columns].t().to(self.operand)
        out = torch.mm(a, b, out=out, **self._result)
        if head.bias is not None:
            out.add_(head.bias[columns])
        if head.scale != 1:
            out.mul_(head.scale)
        if head.softcap is not None:
            out.div_(head.softcap).tanh_().mul_(head.softcap)
        return out

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
        torch.addmm(out, a, b, beta=0 if first else 1, out=out, **self._result)

    @property
    def _result(self) -> dict[str, Any]:
        return {} if self.operand == self.result else {"out_dtype": self.result}
