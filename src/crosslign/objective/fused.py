"""The weighted divergence from hidden states and heads, without ever holding more logits than those of a few tokens.

Per chunk of tokens: both projections, the divergence, the weights' statistics, and the gradient in the student's
logits `g_t`, multiplied at once into the hidden state's, `g_t W`. With `a_t` the factor of token t in the loss,

    loss = (1 / B) sum_i sum_t a_it D_it,      a_it = w_it / sum_j w_ij        (w: raw weights, constants of the graph)

the sum over a sequence's raw weights is known only after its last chunk. The gradient of the hidden states needs no
waiting: its rows `g_t W` are kept as they are and multiplied with `a_t / B` at the end, which is exact. The gradient of
the head, `sum_t a_t g_t h_t^T / B`, has no rows to scale, so its chunks hold whole sequences, whose factors are known
once the chunk is measured. A sequence longer than a chunk is summed with its raw weights in a second accumulator and
added, divided by their sum, when it ends: exact again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crosslign.objective.blocks import SCRATCH, LogitBlocks, padded_width
from crosslign.objective.divergences import Divergence, check_divergence
from crosslign.objective.groups import choice_in, largest_in
from crosslign.objective.head import Head, OutputHead, described
from crosslign.objective.layout import Piece, blocks, pieces, rows_in_budget, tile_rows, whole_sequences
from crosslign.objective.measures import MEASURES, Measure
from crosslign.objective.products import Precision, Projection
from crosslign.objective.result import WeightedDivergence, combine, divisor
from crosslign.objective.weighting import Weighting, check_weighting, teacher_confidence


@dataclass(frozen=True)
class _Options:
    divergence: Divergence
    weighting: Weighting
    top_k: int
    temperature: float
    beta: float
    chunk_tokens: int | None
    sequences: Tensor | int | None


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

    Only valid positions are computed. Memory beside the inputs: two buffers `[chunk, vocabulary]`, and with gradients
    one of the hidden states' size; with a head that is trained, one or two of the head's. No gradient is computed
    without grad mode, none for a head that requires none, and none for the teacher. Logits and gradients are summed in
    float32 (float64 for float64 hidden states) whatever the inputs' types.

    Args:
        student_hidden: `[batch, tokens, hidden]`; differentiable once.
        teacher_hidden: `[batch, tokens, hidden of the teacher]`; constants.
        student_head, teacher_head: an `nn.Linear` or an OutputHead over one; the same vocabulary.
        mask, divergence, weighting, top_k, temperature, beta, sequences: as for `weighted_divergence`.
        chunk_tokens: tokens whose logits are held at a time; None chooses by the vocabulary and a memory budget.

    Raises ValueError where shapes do not fit or an option is unknown, TypeError for a head that cannot be taken apart.
    """
    options = _Options(divergence, weighting, top_k, temperature, beta, chunk_tokens, sequences)
    heads = [described(head) for head in (student_head, teacher_head)]
    if heads[0] is None or heads[1] is None:
        raise TypeError("the fused path needs an nn.Linear, or an OutputHead over one, as each head")
    mask = mask.bool()
    _check(student_hidden, teacher_hidden, heads[0], heads[1], mask, options)
    linear = heads[0].linear
    assert isinstance(linear, torch.nn.Linear)
    rows = _valid(student_hidden, mask)
    teacher_rows = _valid(teacher_hidden.detach(), mask)
    job = _Job(heads[0], heads[1], teacher_rows, mask, options, Precision.of(rows), torch.is_grad_enabled())
    loss, values, weights = _FusedDivergence.apply(rows, linear.weight, linear.bias, job)
    result = combine(values, weights, mask, sequences)
    return WeightedDivergence(loss, result.divergence, result.weight, result.raw_weight)


def _check(
    student: Tensor, teacher: Tensor, student_head: OutputHead, teacher_head: OutputHead, mask: Tensor, o: _Options
) -> None:
    for name, hidden, head in (("student", student, student_head), ("teacher", teacher, teacher_head)):
        width = head.linear.in_features  # type: ignore[attr-defined]
        if hidden.dim() != 3 or hidden.shape[-1] != width:
            raise ValueError(f"{name}_hidden must be [batch, tokens, {width}], not {tuple(hidden.shape)}")
        if mask.shape != hidden.shape[:2]:
            raise ValueError(f"mask {tuple(mask.shape)} does not fit {name}_hidden {tuple(hidden.shape)}")
    sizes = [head.linear.out_features for head in (student_head, teacher_head)]  # type: ignore[attr-defined]
    if sizes[0] != sizes[1]:
        raise ValueError(f"student and teacher heads differ in vocabulary: {sizes[0]}, {sizes[1]}")
    check_divergence(o.divergence, o.temperature, o.beta)
    check_weighting(o.weighting, o.top_k)
    if o.chunk_tokens is not None and o.chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, not {o.chunk_tokens}")


def _valid(hidden: Tensor, mask: Tensor) -> Tensor:
    """The rows at valid positions, `[n, hidden]`; a view if all are."""
    return hidden.flatten(0, 1) if bool(mask.all()) else hidden[mask]


@dataclass(frozen=True)
class _Job:
    student_head: OutputHead
    teacher_head: OutputHead
    teacher_rows: Tensor
    mask: Tensor
    options: _Options
    precision: Precision
    gradients: bool


class _FusedDivergence(torch.autograd.Function):
    """(student rows `[n, H]`, weight, bias, job) -> (loss, divergences `[n]`, raw weights `[n]`)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, job: _Job) -> tuple[Tensor, ...]:
        run, loss = _evaluate(ctx, rows, job)
        # The teacher's too, so that a change between two backward passes is found.
        ctx.save_for_backward(rows, weight, bias, job.teacher_rows, run.teacher.weight)
        ctx.dtypes = rows.dtype, weight.dtype, bias.dtype if bias is not None else None
        ctx.job, ctx.gradients = job, run.gradients()
        ctx.mark_non_differentiable(run.values, run.weights)
        return loss, run.values, run.weights

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the fused objective is differentiable once: its gradient has no graph (create_graph)")
        # Scaled in place and handed over, for the head's is as large as the head. So nothing else may hold them:
        # autograd accumulates into what it is given. A retained graph that is asked again computes them again.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            gradients = _evaluate(ctx, ctx.saved_tensors[0], ctx.job)[0].gradients()
        scaled = (
            gradient.mul_(grad_loss).to(dtype) if gradient is not None else None
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
        return (*scaled, None)


def _evaluate(ctx: Any, rows: Tensor, job: _Job) -> tuple[_Run, Tensor]:
    wanted = [needed and job.gradients for needed in ctx.needs_input_grad[:3]]
    run = _Run(rows.detach(), job, *wanted)
    # Types are chosen explicitly.
    with torch.autocast(rows.device.type, enabled=False):
        for piece in run.plan:
            run.chunk(piece)
        return run, run.finish()


class _Run:
    """One evaluation: the chunk loop's buffers and results."""

    def __init__(self, rows: Tensor, job: _Job, for_rows: bool, for_weight: bool, for_bias: bool) -> None:
        self.options, self.mask = job.options, job.mask
        self.student, self.teacher = Projection.of(job.student_head), Projection.of(job.teacher_head)
        self.precision = precision = job.precision
        self.rows, self.teacher_rows = rows.to(precision.operand), job.teacher_rows.to(precision.operand)
        count, (vocabulary, width), device = len(rows), self.student.weight.shape, rows.device
        itemsize = precision.result.itemsize
        self.for_head = for_weight or for_bias
        size = job.options.chunk_tokens or rows_in_budget(
            vocabulary, itemsize, device, floor=vocabulary * width * itemsize if for_weight else 0
        )
        self.lengths = self.mask.sum(-1)
        self.plan = whole_sequences(self.lengths.tolist(), size) if self.for_head else pieces(count, size)
        longest = max((p.stop - p.start for p in self.plan), default=0)
        self.columns = blocks(vocabulary, device)

        def new(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=precision.result, device=device)

        self.values, self.weights = new(count), new(count)
        self.rows_gradient = new(count, width) if for_rows else None
        # Not zeroed: as large as the head, it is written by the first product instead.
        self.weight_gradient = new(vocabulary, width) if for_weight else None
        self.weight_begun = self.open_begun = False
        self.bias_gradient = new(vocabulary).zero_() if for_bias else None
        if longest == 0:
            if self.weight_gradient is not None:
                self.weight_gradient.zero_()
            return
        self.sequence = self.mask.nonzero()[:, 0]
        self.divisor = divisor(self.mask, job.options.sequences)
        self.row_factor = new(count)
        block = padded_width(self.columns)
        self.tile = tile_rows(block, longest, device)
        self.memory, self.scratch = new(2 * len(self.columns) * longest * block), new(SCRATCH * self.tile * block)
        self.shared = self.student.same(self.teacher) and rows.shape[1] == job.teacher_rows.shape[1]
        self.infinite = self.student.infinite() or self.teacher.infinite()
        self.measures: dict[int, Measure] = {}
        # Sums of the sequence that is cut, with its raw weights.
        some_open = any(p.open for p in self.plan)
        self.open_weight = new(vocabulary, width) if some_open and for_weight else None
        self.open_bias = new(vocabulary).zero_() if some_open and for_bias else None

    def chunk(self, piece: Piece) -> None:
        measure = self._measure(piece)
        if self.rows_gradient is None and not self.for_head:
            return
        span = slice(piece.start, piece.stop)
        # Of the softmax's logits, z / temperature, in the linear layer's output.
        factor = measure.factor.to(self.values.dtype) * (self.student.scale / self.options.temperature)
        self.row_factor[span] = factor
        self._gradient(piece, measure, factor)
        if piece.last:
            self._close(piece)

    def _measure(self, piece: Piece) -> Measure:
        o, span, count = self.options, slice(piece.start, piece.stop), piece.stop - piece.start
        choosing, confident = o.weighting in ("dpsw", "student"), o.weighting in ("dpsw", "teacher")
        measure = self._measure_of(count)
        logits = measure.logits
        logits.pad()
        student, teacher = self.rows[span], self.teacher_rows[span]
        stacked = torch.cat([student, teacher]) if self.shared else None
        for number, columns in enumerate(self.columns):
            both = logits.both(number)
            if stacked is not None:
                self.student.logits(stacked, columns, both.flatten(0, 1), self.precision)
            else:
                self.student.logits(student, columns, both[0], self.precision)
                self.teacher.logits(teacher, columns, both[1], self.precision)
            measure.add(number)
        weight = torch.ones(count, dtype=self.weights.dtype, device=self.weights.device)
        vocabulary = self.columns[-1].stop
        if confident:
            largest = largest_in(logits.groups, measure.teacher_maxima, o.top_k, vocabulary) / o.temperature
            weight *= teacher_confidence(largest, o.top_k)
        choice = choice_in(logits.groups, measure.teacher_maxima, vocabulary) if choosing else None
        self.values[span] = measure.value(choice).to(weight.dtype)
        if choosing:
            weight *= measure.disagreement.to(weight.dtype)
        self.weights[span] = weight
        return measure

    def _measure_of(self, count: int) -> Measure:
        """For chunks of this many tokens; kept, so that views are not made again."""
        if count not in self.measures:
            o = self.options
            logits = LogitBlocks(self.memory, self.scratch, count, self.columns, self.tile)
            arguments = o.temperature, o.beta, self.student.softcap, self.infinite
            self.measures[count] = MEASURES[o.divergence](logits, *arguments)
        return self.measures[count]

    def _gradient(self, piece: Piece, measure: Measure, factor: Tensor) -> None:
        span = slice(piece.start, piece.stop)
        rows_gradient = self.rows_gradient[span].zero_() if self.rows_gradient is not None else None
        token = self._head_factor(piece) * factor if self.for_head else None
        rows = self.rows[span].to(factor.dtype) * token[:, None] if token is not None else None
        weight = self.open_weight if piece.open else self.weight_gradient
        first = not (self.open_begun if piece.open else self.weight_begun)
        bias = self.open_bias if piece.open else self.bias_gradient
        # A position of weight 0 may have an infinite divergence, whose gradient is NaN; it must not spread.
        spread = token is not None and not bool(self.values[span].isfinite().all())
        for number, columns in enumerate(self.columns):
            g = measure.gradient(number)
            if rows_gradient is not None:
                self.precision.add_product(rows_gradient, g, self.student.weight[columns])
            if token is None:
                continue
            if spread:
                g.masked_fill_(token[:, None] == 0, 0)
            if weight is not None and rows is not None:
                self.precision.add_product(weight[columns], g.t(), rows, first=first)
            if bias is not None:
                bias[columns] += token @ g
        if piece.open:
            self.open_begun = True
        else:
            self.weight_begun = True

    def _head_factor(self, piece: Piece) -> Tensor:
        """Tokens' factors in the loss, or their raw weights in a sequence that is cut."""
        weights = self.weights[piece.start : piece.stop]
        return weights if piece.open else weights / self._totals(piece)

    def _totals(self, piece: Piece) -> Tensor:
        """B times the sum of raw weights of each token's sequence; infinite where that is 0, so that factors are."""
        sequence = self.sequence[piece.start : piece.stop]
        total = self.weights.new_zeros(len(self.mask)).index_add_(0, sequence, self.weights[piece.start : piece.stop])
        total = total[sequence]
        return torch.where(total > 0, total, torch.inf) * self.divisor

    def _close(self, piece: Piece) -> None:
        """Add the sums of the cut sequence that ends here."""
        length = int(self.lengths[self.sequence[piece.start]])
        factor = 1 / self._totals(Piece(piece.stop - length, piece.stop))[0]
        if self.weight_gradient is not None and self.open_weight is not None:
            part = self.open_weight.mul_(factor)
            (self.weight_gradient.add_ if self.weight_begun else self.weight_gradient.copy_)(part)
        if self.bias_gradient is not None and self.open_bias is not None:
            self.bias_gradient.add_(self.open_bias.mul_(factor))
            self.open_bias.zero_()
        self.weight_begun, self.open_begun = True, False

    def finish(self) -> Tensor:
        """The loss; scales the rows' gradient, now that every sequence's weights are known."""
        result = combine(self.values, self.weights, self.mask, self.options.sequences)
        if self.rows_gradient is not None and len(self.values):
            per_token = result.weight / (self.lengths.clamp_min(1)[:, None] * self.divisor)
            factor = per_token[self.mask] * self.row_factor
            self.rows_gradient.mul_(factor[:, None]).masked_fill_(factor[:, None] == 0, 0)
        return result.loss

    def gradients(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Of the rows, the head's weight and its bias; once finished."""
        return self.rows_gradient, self.weight_gradient, self.bias_gradient
