"""The chunk's kernel for a CPU: the same numbers as `objective.kernel.Kernel`, in blocks and tiles that suit caches.

Nothing else needs this folder; `objective.fused` asks for it if it is there. Sums over the vocabulary are put together
from those of blocks, so they differ from the plain kernel's by rounding.
"""

from crosslign.objective.cpu.kernel import BlockKernel

__all__ = ["BlockKernel"]
