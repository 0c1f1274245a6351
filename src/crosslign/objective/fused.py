"""The weighted divergence from hidden states and heads, without ever holding more logits than those of a few tokens.

Per chunk of tokens: both projections, the divergence, the weights' statistics, and the gradient in the student's
logits `g_t`, multiplied at once into the hidden state's, `g_t W`. With `a_t` the factor of token t in the loss,

    loss = (1 / B) sum_i sum_t a_it D_it,      a_it = w_it / sum_j w_ij        (w: raw weights, constants of the graph)

the sum over a sequence's raw weights is known only after its last chunk. The gradient of the hidden states needs no
waiting: its rows `g_t W` are kept as they are and multiplied with `a_t / B` at the end, which is exact. The gradient of
the head, `sum_t a_t g_t h_t^T / B`, has no rows to scale, so its chunks hold whole sequences, whose factors are known
once the chunk is measured. A sequence longer than a chunk is measured twice: first for its weights alone.

What a chunk holds is computed by `kernel.Kernel`, or on a CPU by `cpu.BlockKernel`, which gives the same numbers
faster. Without the folder `cpu` the former serves everywhere.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crosslign.objective.chunks import pieces, tokens_in_budget, whole_sequences
from crosslign.objective.divergences import Divergence
from crosslign.objective.head import Head, PlainHead, described
from crosslign.objective.kernel import Kernel, Measured, Options
from crosslign.objective.products import Precision
from crosslign.objective.result import WeightedDivergence, combine, divisor
from crosslign.objective.weighting import Weighting


def fused_weighted_divergence(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    student_head: Head,
    teacher_head: Head,
    mask: Tensor,
    *,
    divergence: Divergence = "reverse_kl",
    weighting: Weighting = "dpsw",
    top_k: int = 32,
    temperature: float = 1.0,
    beta: float = 0.5,
    chunk_tokens: int | None = None,
    sequences: Tensor | int | None = None,
) -> WeightedDivergence:
    """`weighted_divergence` of the logits that the heads make of the hidden states; see there for the equations.

    Only valid positions are computed. Memory beside the inputs: the logits `[chunk, vocabulary]` of both sides with
    what is computed of them, and with gradients one buffer of the hidden states' size; with a head that is trained, one
    of the head's. No gradient is computed without grad mode, none for a head that requires none, and none for the
    teacher. Logits and gradients are summed in float32 (float64 for float64 hidden states) whatever the inputs' types.

    Args:
        student_hidden: `[batch, tokens, hidden]`; differentiable once.
        teacher_hidden: `[batch, tokens, hidden of the teacher]`; constants.
        student_head, teacher_head: an `nn.Linear` or an OutputHead over one; the same vocabulary.
        mask, divergence, weighting, top_k, temperature, beta, sequences: as for `weighted_divergence`.
        chunk_tokens: tokens whose logits are held at a time; None chooses by the vocabulary and a memory budget.

    Raises ValueError where shapes do not fit or an option is unknown, TypeError for a head that cannot be taken apart.
    """
    student, teacher = described(student_head), described(teacher_head)
    if student is None or teacher is None:
        raise TypeError("the fused path needs an nn.Linear, or an OutputHead over one, as each head")
    for name, hidden, head in (("student", student_hidden, student), ("teacher", teacher_hidden, teacher)):
        width = head.weight.shape[1]
        if hidden.dim() != 3 or hidden.shape[-1] != width:
            raise ValueError(f"{name}_hidden must be [batch, tokens, {width}], not {tuple(hidden.shape)}")
        if mask.shape != hidden.shape[:2]:
            raise ValueError(f"mask {tuple(mask.shape)} does not fit {name}_hidden {tuple(hidden.shape)}")
    sizes = len(student.weight), len(teacher.weight)
    if sizes[0] != sizes[1]:
        raise ValueError(f"student and teacher heads differ in vocabulary: {sizes[0]}, {sizes[1]}")
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, not {chunk_tokens}")
    options = Options(divergence, weighting, top_k, temperature, beta)
    mask = mask.bool()
    rows, teacher_rows = _valid(student_hidden, mask), _valid(teacher_hidden.detach(), mask)
    precision, gradients = Precision.of(rows), torch.is_grad_enabled()
    job = _Job(student, teacher, teacher_rows, mask, options, chunk_tokens, sequences, precision, gradients)
    return WeightedDivergence(*_FusedDivergence.apply(rows, student.weight, student.bias, job))


def _valid(hidden: Tensor, mask: Tensor) -> Tensor:
    """The rows at valid positions, `[n, hidden]`; a view if all are."""
    return hidden.flatten(0, 1) if bool(mask.all()) else hidden[mask]


@dataclass(frozen=True)
class _Job:
    student: PlainHead
    teacher: PlainHead
    teacher_rows: Tensor
    mask: Tensor
    options: Options
    chunk_tokens: int | None
    sequences: Tensor | int | None
    precision: Precision
    gradients: bool


class _FusedDivergence(torch.autograd.Function):
    """(student rows `[n, H]`, weight, bias, job) -> the fields of WeightedDivergence."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, job: _Job) -> tuple[Tensor, ...]:
        run = _evaluated(ctx, rows, job)
        # The teacher's too, so that a change between two backward passes is found.
        ctx.save_for_backward(rows, weight, bias, job.teacher_rows, job.teacher.weight)
        ctx.dtypes = rows.dtype, weight.dtype, bias.dtype if bias is not None else None
        ctx.job, ctx.gradients = job, run.gradients
        result = combine(run.divergences, run.weights, job.mask, job.sequences)
        constants = result.divergence, result.weight, result.raw_weight
        ctx.mark_non_differentiable(*constants)
        return result.loss, *constants

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the fused objective is differentiable once: its gradient has no graph (create_graph)")
        # Scaled in place and handed over, for the head's is as large as the head. So nothing else may hold them:
        # autograd accumulates into what it is given. A retained graph that is asked again computes them again.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            gradients = _evaluated(ctx, ctx.saved_tensors[0], ctx.job).gradients
        scaled = (
            gradient.mul_(grad_loss).to(dtype) if gradient is not None else None
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
        return (*scaled, None)


def _evaluated(ctx: Any, rows: Tensor, job: _Job) -> _Evaluation:
    evaluation = _Evaluation(rows, job, *(needed and job.gradients for needed in ctx.needs_input_grad[:3]))
    # Types are chosen explicitly.
    with torch.autocast(rows.device.type, enabled=False), job.precision.chosen():
        evaluation.run()
    return evaluation


def _kernel(job: _Job, most: int) -> Callable[[Tensor, Tensor], Measured]:
    """What measures a chunk of at most so many tokens."""
    arguments = job.student, job.teacher, job.options, job.precision
    if job.mask.device.type == "cpu" and importlib.util.find_spec("crosslign.objective.cpu"):
        from crosslign.objective.cpu import BlockKernel

        return BlockKernel(*arguments, most).measure
    return Kernel(*arguments).measure


class _Evaluation:
    """The chunk loop, and what it fills.

    Fields:
        divergences, weights: `[n]`, of the valid tokens; weights before normalisation.
    """

    def __init__(self, rows: Tensor, job: _Job, for_rows: bool, for_weight: bool, for_bias: bool) -> None:
        self.job, self.precision = job, job.precision
        self.rows, self.teacher_rows = rows.to(self.precision.operand), job.teacher_rows.to(self.precision.operand)
        count, (vocabulary, width) = len(rows), job.student.weight.shape
        itemsize, self.for_head = self.precision.result.itemsize, for_weight or for_bias
        most = job.chunk_tokens or tokens_in_budget(
            vocabulary, itemsize, rows.device, floor=vocabulary * width * itemsize if for_weight else 0
        )
        lengths = job.mask.sum(-1).tolist()
        self.plan = whole_sequences(lengths, most) if self.for_head else [[p] for p in pieces(count, most)]

        def new(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=self.precision.result, device=rows.device)

        self.divergences, self.weights = new(count), new(count)
        self.rows_gradient = new(count, width).zero_() if for_rows else None
        # As large as the head: not zeroed, but written by the first product, if there is one.
        self.weight_gradient = new(vocabulary, width) if for_weight else None
        if self.weight_gradient is not None and not self.plan:
            self.weight_gradient.zero_()
        self.bias_gradient = new(vocabulary).zero_() if for_bias else None
        self.sequence = job.mask.nonzero()[:, 0]
        self.totals = new(len(lengths)).zero_()  # of each sequence's weights
        self.row_factor = new(count)

    @property
    def gradients(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Of the rows, the head's weight and its bias; None for what is not wanted."""
        return self.rows_gradient, self.weight_gradient, self.bias_gradient

    def run(self) -> None:
        measure = _kernel(self.job, max((p.stop - p.start for group in self.plan for p in group), default=0))
        for group in self.plan:
            for span in group:
                measured = measure(self.rows[span], self.teacher_rows[span])
                self.divergences[span], self.weights[span] = measured.divergence, measured.weight
                self.totals.index_add_(0, self.sequence[span], self.weights[span])
            if self.rows_gradient is None and not self.for_head:
                continue
            for span in group:
                if len(group) > 1:
                    measured = measure(self.rows[span], self.teacher_rows[span])
                self._add_gradients(span, measured)
        if self.rows_gradient is not None:
            factor = (self._share(slice(None)) * self.row_factor)[:, None]
            self.rows_gradient.mul_(factor).masked_fill_(factor == 0, 0)

    def _share(self, span: slice) -> Tensor:
        """`a_t / B`; 0 in a sequence whose weights are all 0."""
        total = self.totals[self.sequence[span]]
        total = torch.where(total > 0, total, torch.inf) * divisor(self.job.mask, self.job.sequences)
        return self.weights[span] / total

    def _add_gradients(self, span: slice, measured: Measured) -> None:
        head = self.job.student
        # From the softmax's logits, z / temperature, to the linear layer's output.
        factor = measured.factor * (head.scale / self.job.options.temperature)
        self.row_factor[span] = factor
        token = self._share(span) * factor if self.for_head else None
        rows = self.rows[span].to(token.dtype) * token[:, None] if token is not None else None
        # A position of weight 0 may have an infinite divergence, whose gradient is NaN; it must not spread.
        spread = token is not None and not bool(self.divergences[span].isfinite().all())
        rows_gradient = self.rows_gradient[span] if self.rows_gradient is not None else None
        for columns, g in measured.gradient:
            if rows_gradient is not None:
                self.precision.add_product(rows_gradient, g, head.weight[columns])
            if token is None:
                continue
            if spread:
                g.masked_fill_(token[:, None] == 0, 0)
            if self.weight_gradient is not None and rows is not None:
                self.precision.add_product(self.weight_gradient[columns], g.t(), rows, first=span.start == 0)
            if self.bias_gradient is not None:
                self.bias_gradient[columns] += token @ g
