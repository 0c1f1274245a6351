"""`fused_weighted_divergence` against the float64 oracle and the reference path: values, weights and all gradients.

Every kernel has to pass: the one for CPUs (`fused`), and the plain one that is left if `objective/cpu` is deleted
(`plain`), which accelerators use.
"""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import loss as oracle_loss
from oracle import naive_loss
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from crosslign.objective import DIVERGENCES, WEIGHTINGS, WeightedDivergence, fused_weighted_divergence, products
from crosslign.objective import weighted_divergence as reference
from crosslign.objective.head import OutputHead
from crosslign.objective.products import Precision, rounds_to_bfloat16

every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES)
every_combination = pytest.mark.parametrize(
    ("divergence", "weighting"), list(itertools.product(DIVERGENCES, WEIGHTINGS))
)
every_kernel = pytest.mark.parametrize("kernel", ["fused", "plain"])
HIDDEN = 12
MASK = torch.tensor([[1, 1, 0, 1, 1], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
# On a CPU, a block has 3,072 columns and a tile 21 rows of them: here are two of both, one of them cut short.
LARGE = 3_072 + 100
LONG = torch.arange(22) < torch.tensor([[22], [0], [3], [1]])


class Case:
    """Hidden states and heads, student and teacher alike enough for the divergence to mean something."""

    def __init__(
        self,
        mask: Tensor,
        vocabulary: int,
        *,
        seed: int = 0,
        bias: bool = False,
        tied: bool = False,
        dtype: torch.dtype = torch.float64,
        hidden: int = HIDDEN,
        sharpness: float = 3.0,
        distance: float = 0.5,
        trained: bool = True,
        **after: Any,
    ) -> None:
        torch.manual_seed(seed)
        self.mask = mask
        self.student_linear = nn.Linear(hidden, vocabulary, bias=bias, dtype=dtype)
        self.teacher_linear = self.student_linear if tied else nn.Linear(hidden, vocabulary, bias=bias, dtype=dtype)
        with torch.no_grad():
            self.student_linear.weight.normal_().mul_(sharpness / math.sqrt(hidden))
            if not tied:
                noise = torch.randn_like(self.student_linear.weight) / math.sqrt(hidden)
                self.teacher_linear.weight.copy_(self.student_linear.weight + distance * noise)
        for p in (*self.student_linear.parameters(), *self.teacher_linear.parameters()):
            p.requires_grad_(trained)
        self.student_head = OutputHead(self.student_linear, **after)
        self.teacher_head = OutputHead(self.teacher_linear, **after)
        student = torch.randn(*mask.shape, hidden, dtype=torch.float64)
        teacher = student + distance * torch.randn_like(student)
        self.student, self.teacher = student.to(dtype).requires_grad_(), teacher.to(dtype).requires_grad_()

    @property
    def leaves(self) -> list[Tensor]:
        return [p for p in (self.student, *self.student_linear.parameters()) if p.requires_grad]

    def gradients(self, loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss * 3, self.leaves))

    def fused(self, **options: Any) -> tuple[WeightedDivergence, list[Tensor]]:
        result = fused_weighted_divergence(
            self.student, self.teacher, self.student_head, self.teacher_head, self.mask, **options
        )
        return result, self.gradients(result.loss)

    def plain(self, **options: Any) -> tuple[WeightedDivergence, list[Tensor]]:
        """As if the folder `objective/cpu` were deleted."""
        with mock.patch.dict(sys.modules, {"crosslign.objective.cpu": None}):
            return self.fused(**options)

    def reference(self, **options: Any) -> tuple[WeightedDivergence, list[Tensor]]:
        result = reference(
            self.student_head(self.student), self.teacher_head(self.teacher).detach(), self.mask, **options
        )
        return result, self.gradients(result.loss)

    def wide(self) -> Case:
        """The same numbers in float64."""
        other = Case(self.mask, self.student_linear.out_features, hidden=self.student.shape[-1])
        other.__dict__.update(self.__dict__)
        for side in ("student", "teacher"):
            linear = getattr(self, f"{side}_linear")
            wide = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None, dtype=torch.float64)
            wide.load_state_dict(linear.state_dict())
            wide.requires_grad_(linear.weight.requires_grad)
            head = getattr(self, f"{side}_head")
            setattr(other, f"{side}_linear", wide)
            setattr(other, f"{side}_head", OutputHead(wide, head.scale, head.softcap))
            setattr(other, side, getattr(self, side).detach().double().requires_grad_())
        return other

    def truth(self, **options: Any) -> tuple[Tensor, list[Tensor]]:
        """The oracle's loss and gradients, in float64, by automatic differentiation of the textbook formulas."""
        wide = self.wide()
        logits = wide.student_head(wide.student), wide.teacher_head(wide.teacher).detach()
        loss = naive_loss(*logits, self.mask, **options)
        return loss.detach(), wide.gradients(loss)


def assert_same(ours: tuple[WeightedDivergence, list[Tensor]], theirs: tuple[WeightedDivergence, list[Tensor]]) -> None:
    for name in ("loss", "divergence", "weight", "raw_weight"):
        a, b = getattr(ours[0], name), getattr(theirs[0], name)
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    for a, b in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


@every_combination
@every_kernel
@pytest.mark.parametrize("chunk", [3, None])
def test_values_and_gradients_equal_both_oracles(
    divergence: str, weighting: str, kernel: str, chunk: int | None
) -> None:
    options: dict[str, Any] = {"divergence": divergence, "weighting": weighting, "top_k": 2, "beta": 0.3}
    case = Case(MASK, 200, bias=True)
    ours = getattr(case, kernel)(**options, chunk_tokens=chunk)
    assert_same(ours, case.reference(**options))
    loss, gradients = case.truth(**options)
    torch.testing.assert_close(ours[0].loss, loss)
    for a, b in zip(ours[1], gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-11)
    logits = case.student_head(case.student), case.teacher_head(case.teacher)
    value, divergences, weights, raw = oracle_loss(*logits, case.mask, **options)
    assert ours[0].loss.item() == pytest.approx(value, rel=1e-9)
    grids = (ours[0].divergence, divergences), (ours[0].weight, weights), (ours[0].raw_weight, raw)
    for grid, rows in grids:
        assert grid[case.mask.bool()].tolist() == pytest.approx(list(itertools.chain(*rows)), rel=1e-9)
        assert (grid[~case.mask.bool()] == 0).all()


@every_combination
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_the_folder_for_cpus_the_numbers_are_the_same(
    divergence: str, weighting: str, dtype: torch.dtype
) -> None:
    """Not to the last bit: sums over the vocabulary are put together from those of blocks, or not."""
    options: dict[str, Any] = {"divergence": divergence, "weighting": weighting, "top_k": 5, "beta": 0.3}
    case = Case(LONG, LARGE, dtype=dtype, bias=True)
    ours, plain = case.fused(**options), case.plain(**options)
    assert not torch.equal(ours[0].divergence, plain[0].divergence)  # two ways indeed
    tolerance = 100 * torch.finfo(dtype).eps
    names = ("loss", "divergence", "weight", "raw_weight")
    pairs = [(getattr(ours[0], name), getattr(plain[0], name)) for name in names] + list(
        zip(ours[1], plain[1], strict=True)
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())


@every_combination
@every_kernel
@pytest.mark.parametrize(
    ("options", "after"),
    [
        ({"temperature": 0.6, "top_k": 500}, {"scale": 0.25}),
        ({"temperature": 2.0, "top_k": 1}, {"softcap": 4.0}),
        ({"temperature": 0.7, "beta": 0.9}, {"scale": 2.0, "softcap": 2.5}),
    ],
    ids=str,
)
def test_scaled_and_capped_heads_at_any_temperature(
    divergence: str, weighting: str, kernel: str, options: dict[str, Any], after: dict[str, Any]
) -> None:
    case = Case(LONG, LARGE, bias=True, **after)
    options = {"divergence": divergence, "weighting": weighting, **options}
    assert_same(getattr(case, kernel)(**options), case.reference(**options))


@every_divergence
@every_kernel
@pytest.mark.parametrize("trained", [False, True])
def test_a_shared_head_serves_both_sides_and_is_trained_by_the_student_alone(
    divergence: str, kernel: str, trained: bool
) -> None:
    case = Case(MASK, 90, tied=True, trained=trained)
    ours = getattr(case, kernel)(divergence=divergence, chunk_tokens=3)
    assert len(ours[1]) == 1 + trained
    assert_same(ours, case.reference(divergence=divergence))


@every_divergence
@pytest.mark.parametrize("chunk", [2, 4, 5, 7, 100])
def test_the_heads_gradient_is_exact_wherever_chunks_cut_the_sequences(divergence: str, chunk: int) -> None:
    case = Case(MASK, 30, bias=True)
    assert_same(case.fused(divergence=divergence, chunk_tokens=chunk), case.reference(divergence=divergence))


def test_each_gradient_is_given_alone_too() -> None:
    for wanted in ("student", "weight", "bias"):
        case = Case(MASK, 30, bias=True)
        case.student.requires_grad_(wanted == "student")
        case.student_linear.weight.requires_grad_(wanted == "weight")
        case.student_linear.bias.requires_grad_(wanted == "bias")
        ours = case.fused(chunk_tokens=2)
        assert len(ours[1]) == 1
        assert_same(ours, case.reference())


@every_divergence
def test_gradcheck_in_float64(divergence: str) -> None:
    case = Case(torch.tensor([[1, 1], [1, 0]]), 7, bias=True, hidden=3, softcap=6.0, scale=1.3)
    # Weights are constants of the graph, which finite differences cannot know; uniform ones are constant.
    options: dict[str, Any] = {"divergence": divergence, "weighting": "uniform", "temperature": 1.4, "beta": 0.3}

    def function(hidden: Tensor, *_: Tensor) -> Tensor:
        heads = case.student_head, case.teacher_head
        return fused_weighted_divergence(hidden, case.teacher, *heads, case.mask, **options, chunk_tokens=1).loss

    assert torch.autograd.gradcheck(function, tuple(case.leaves))


@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    vocabulary=st.integers(1, 150),
    kernel=st.sampled_from(["fused", "plain"]),
    hidden=st.integers(1, 5),
    seed=st.integers(0, 10**6),
    divergence=st.sampled_from(DIVERGENCES),
    weighting=st.sampled_from(WEIGHTINGS),
    top_k=st.integers(1, 200),
    temperature=st.floats(0.3, 3),
    beta=st.floats(0.05, 0.95),
    chunk=st.integers(1, 30),
    bias=st.booleans(),
    tied=st.booleans(),
    trained=st.booleans(),
    softcap=st.none() | st.floats(1, 20),
)
def test_any_shape_equals_the_reference(
    lengths: list[int], vocabulary: int, kernel: str, hidden: int, seed: int, chunk: int, **drawn: Any
) -> None:
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    head = {name: drawn.pop(name) for name in ("bias", "tied", "trained", "softcap")}
    case = Case(mask, vocabulary, seed=seed, hidden=hidden, **head)
    assert_same(getattr(case, kernel)(**drawn, chunk_tokens=chunk), case.reference(**drawn))


@given(vocabulary=st.integers(1, LARGE), k=st.integers(1, 200), values=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_the_teachers_choice_and_its_largest_logits_are_those_of_a_full_search_with_many_ties(
    vocabulary: int, k: int, values: int, seed: int
) -> None:
    assert_weights_of_a_full_search(vocabulary, k, values, seed)


@pytest.mark.parametrize("k", [1, 32, 3_000])
def test_the_largest_logits_of_a_real_vocabulary(k: int) -> None:
    assert_weights_of_a_full_search(151_936, k, 10**6, 0, crowded=slice(64 * 700, 64 * 701))


def assert_weights_of_a_full_search(
    vocabulary: int, k: int, values: int, seed: int, crowded: slice | None = None
) -> None:
    """One-hot hidden states make the heads' columns the logits: the teacher's are few different integers."""
    case = Case(torch.ones(1, 4), vocabulary, seed=seed, hidden=4, dtype=torch.float32)
    with torch.no_grad():
        case.student[0] = case.teacher[0] = torch.eye(4)
        case.teacher_linear.weight.copy_(torch.randint(-values, values, (vocabulary, 4)) / values * 9)
        if crowded is not None:
            case.teacher_linear.weight[crowded] += 20  # so most of the largest are neighbours
    for weighting in ("teacher", "student"):
        ours, theirs = (way(weighting=weighting, top_k=k)[0].raw_weight for way in (case.fused, case.reference))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def errors(case: Case, kernel: str, **options: Any) -> dict[str, tuple[float, float, float]]:
    """Largest error of loss and of each gradient against the oracle: fused, reference path, and the truth's size."""
    loss, gradients = case.truth(**options)
    found = {}
    for path in (kernel, "reference"):
        result, own = getattr(case, path)(**options)
        pairs = [
            ("loss", result.loss, loss),
            *((f"gradient {i}", a, b) for i, (a, b) in enumerate(zip(own, gradients, strict=True))),
        ]
        for name, a, b in pairs:
            found.setdefault(name, []).append((a.double() - b).abs().max().item())
            if path == "reference":
                found[name].append(b.abs().max().item())
    return {name: tuple(values) for name, values in found.items()}  # type: ignore[misc]


def assert_no_worse(case: Case, kernel: str = "fused", **options: Any) -> None:
    for name, (fused, naive, size) in errors(case, kernel, **options).items():
        # 1e-7 nats: rounding of a log-sum-exp near 1, which both paths have.
        assert fused <= naive + 1e-6 * size + (1e-7 if name == "loss" else 0), name


@every_combination
@every_kernel
@pytest.mark.parametrize(("sharpness", "distance"), [(3.0, 0.5), (8.0, 0.05)])
def test_float32_error_is_no_more_than_the_reference_paths(
    divergence: str, weighting: str, kernel: str, sharpness: float, distance: float
) -> None:
    mask = torch.arange(10) < torch.tensor([10, 4])[:, None]
    case = Case(mask, 600, dtype=torch.float32, hidden=32, sharpness=sharpness, distance=distance)
    assert_no_worse(case, kernel, divergence=divergence, weighting=weighting)


@every_divergence
@every_kernel
@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize(
    ("everywhere", "last"), [(-300.0, 0.0), (-30.0, 0.0), (90.0, 0.0), (300.0, 0.0), (0.0, 120.0), (-90.0, 95.0)]
)
def test_logits_whose_exponentials_overflow_or_vanish(
    divergence: str, kernel: str, side: str, everywhere: float, last: float
) -> None:
    case = Case(MASK, LARGE, dtype=torch.float32, bias=True)
    with torch.no_grad():
        # `last` lies in another block than most; tokens differ in whether it is their largest.
        bias = getattr(case, f"{side}_linear").bias
        bias += everywhere
        bias[-1] += last
    options: dict[str, Any] = {"divergence": divergence, "top_k": 2}
    result, gradients = getattr(case, kernel)(**options, chunk_tokens=4)
    wide, exact = case.wide().reference(**options)
    torch.testing.assert_close(result.loss.double(), wide.loss, rtol=2e-4, atol=1e-6)
    for a, b in zip(gradients, exact, strict=True):
        assert (a - b).abs().max() <= 3e-4 * b.abs().max() + 1e-6


@pytest.mark.slow
@every_combination
@pytest.mark.parametrize(("tokens", "vocabulary"), [(1, 262_144), (24, 151_936), (2_000, 4_099), (2_000, 7)])
def test_float32_error_at_the_sizes_of_real_models(
    divergence: str, weighting: str, tokens: int, vocabulary: int
) -> None:
    mask = torch.arange(tokens) < torch.tensor([tokens, tokens // 2])[:, None]
    case = Case(mask, vocabulary, dtype=torch.float32, hidden=48, sharpness=4.0)
    assert_no_worse(case, divergence=divergence, weighting=weighting)


def test_one_token_is_no_less_exact_than_many() -> None:
    """A matrix-vector product over a vocabulary was: on six of six seeds it had more error than the reference."""
    mask = torch.tensor([[True], [False]])
    case = Case(mask, 262_144, dtype=torch.float32, hidden=16, sharpness=4.0, seed=1, trained=False)
    assert_no_worse(case, divergence="forward_kl", weighting="uniform")


@every_divergence
def test_bfloat16_hidden_states_are_multiplied_and_summed_in_float32(divergence: str) -> None:
    case = Case(MASK, 300, dtype=torch.bfloat16, bias=True)
    result, gradients = case.fused(divergence=divergence, chunk_tokens=3)
    loss, exact = case.truth(divergence=divergence)
    assert result.loss.dtype == torch.float32
    torch.testing.assert_close(result.loss.double(), loss, rtol=1e-5, atol=1e-7)
    for ours, theirs in zip(gradients, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours, theirs.bfloat16(), rtol=0.01, atol=1e-6)


@pytest.mark.skipif(not rounds_to_bfloat16(), reason="this processor has no products of bfloat16")
@every_divergence
@pytest.mark.parametrize("trained", [False, True])
def test_a_processor_that_rounds_to_bfloat16_still_sums_in_float32(divergence: str, trained: bool) -> None:
    case = Case(torch.ones(2, 24, dtype=torch.bool), 700, dtype=torch.bfloat16, hidden=64, trained=trained)
    before = torch.backends.mkldnn.matmul.fp32_precision
    result, gradients = case.fused(divergence=divergence)
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    loss, exact = case.truth(divergence=divergence)
    # Its operands are bfloat16 already, so nothing of the logits is rounded; sums in bfloat16 would be off by 1e-3.
    torch.testing.assert_close(result.loss.double(), loss, rtol=1e-5, atol=1e-7)
    for ours, theirs in zip(gradients, exact, strict=True):
        assert (ours.double() - theirs).abs().max() < 0.01 * theirs.abs().max()


@pytest.mark.parametrize(("dtype", "rounded"), [(torch.bfloat16, True), (torch.float16, False), (torch.float32, False)])
def test_only_what_is_bfloat16_already_is_multiplied_as_bfloat16(
    dtype: torch.dtype, rounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "rounds_to_bfloat16", lambda: True)
    assert Precision.of(torch.zeros(1, dtype=dtype)) == Precision(torch.float32, torch.float32, rounded)
    monkeypatch.setattr(products, "rounds_to_bfloat16", lambda: False)
    assert not Precision.of(torch.zeros(1, dtype=dtype)).rounded


def test_autocast_changes_nothing_on_a_device_whose_products_it_does_not_help() -> None:
    case = Case(MASK, 90, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result, _ = case.fused()
    assert torch.equal(result.loss, case.fused()[0].loss)


@every_combination
@every_kernel
@pytest.mark.parametrize("count", [1, 5, 101])
def test_where_student_equals_teacher_loss_and_gradient_are_exactly_zero(
    divergence: str, weighting: str, kernel: str, count: int
) -> None:
    case = Case(torch.ones(1, count), 700, tied=True, dtype=torch.float32, hidden=40)
    case.teacher = case.student.detach().clone()
    result, gradients = getattr(case, kernel)(divergence=divergence, weighting=weighting)
    assert result.loss == 0
    assert (result.divergence == 0).all()
    assert all((g == 0).all() for g in gradients)


@every_combination
@every_kernel
@pytest.mark.parametrize("removed", [slice(-50, None), slice(3_072, None), slice(0, 3_072)])  # part of a block; whole
def test_entries_that_a_bias_of_minus_infinity_rules_out_are_as_if_removed(
    divergence: str, weighting: str, kernel: str, removed: slice
) -> None:
    options: dict[str, Any] = {"divergence": divergence, "weighting": weighting, "top_k": 3, "temperature": 1.2}
    case = Case(MASK, LARGE, bias=True)
    with torch.no_grad():
        for linear in (case.student_linear, case.teacher_linear):
            linear.bias[removed] = -math.inf
    ours = getattr(case, kernel)(**options, chunk_tokens=4)
    assert_same(ours, case.reference(**options))
    assert all(g.isfinite().all() for g in ours[1])
    assert (ours[1][1][removed] == 0).all()


@every_divergence
@every_kernel
def test_an_infinite_divergence_of_weight_zero_leaves_every_gradient_finite(divergence: str, kernel: str) -> None:
    # One-hot hidden states: the head's columns are the logits.
    case = Case(torch.ones(1, 2), 3, bias=True, hidden=2)
    student = [[5.0, 2.0, 0.0], [0.0, 1.0, -2000.0]]
    teacher = [[5.0, 5.0, 0.0], [30.0, 0.0, -2000.0]]  # with K = 2 the first position's teacher has no confidence
    with torch.no_grad():
        case.student[0] = case.teacher[0] = torch.eye(2, dtype=torch.float64)
        case.student_linear.weight.copy_(torch.tensor(student).T)
        case.teacher_linear.weight.copy_(torch.tensor(teacher).T)
        case.student_linear.bias.zero_()
        case.teacher_linear.bias.zero_()
        ruled_out = case.teacher_linear if divergence == "reverse_kl" else case.student_linear
        ruled_out.bias[2] = -math.inf
    options: dict[str, Any] = {"divergence": divergence, "weighting": "teacher", "top_k": 2}
    result, gradients = getattr(case, kernel)(**options, chunk_tokens=1)
    assert result.weight[0].tolist() == pytest.approx([0, 2])
    assert result.divergence[0, 0].isinf() == (divergence != "jsd")  # jsd is finite where one side rules an entry out
    assert result.loss.isfinite()
    assert all(g.isfinite().all() for g in gradients)
    assert (gradients[0][0, 0] == 0).all()
    assert gradients[0][0, 1].abs().sum() > 0


@every_kernel
@pytest.mark.parametrize("shape", [(2, 3), (2, 0), (0, 3)])
def test_without_any_valid_token_loss_and_gradients_are_zero(kernel: str, shape: tuple[int, int]) -> None:
    result, gradients = getattr(Case(torch.zeros(shape), 20, bias=True), kernel)()
    assert result.loss.item() == 0
    assert [tuple(g.shape) for g in gradients] == [(*shape, HIDDEN), (20, HIDDEN), (20,)]
    assert all((g == 0).all() for g in gradients)
    assert result.weight.shape == result.divergence.shape == result.raw_weight.shape == shape


def test_a_masked_position_may_hold_anything() -> None:
    clean, dirty = Case(MASK, 40), Case(MASK, 40)
    with torch.no_grad():
        dirty.student[~MASK.bool()], dirty.teacher[~MASK.bool()] = math.nan, math.inf
    (a, first), (b, second) = clean.fused(), dirty.fused()
    assert torch.equal(a.loss, b.loss)
    assert torch.equal(a.weight, b.weight)
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


class Products(TorchDispatchMode):
    """Shapes of what matrix products add to."""

    def __init__(self) -> None:
        super().__init__()
        self.added: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if "addmm" in func.__name__:
            self.added.append(tuple(result.shape))
        return result


def test_no_gradient_is_computed_that_nobody_wants() -> None:
    case = Case(torch.ones(1, 4), 40)
    with Products() as both:
        case.fused()
    with Products() as frozen:
        Case(torch.ones(1, 4), 40, trained=False).fused()
    heads = case.student_head, case.teacher_head
    with torch.no_grad(), Products() as none:
        result = fused_weighted_divergence(case.student, case.teacher, *heads, case.mask)
    assert not result.loss.requires_grad
    assert (both.added, frozen.added, none.added) == ([(4, HIDDEN), (40, HIDDEN)], [(4, HIDDEN)], [])


class Largest(TorchDispatchMode):
    """The most numbers in any tensor that an operation makes."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


@every_kernel
def test_no_more_logits_are_held_than_those_of_a_chunk(kernel: str) -> None:
    case = Case(torch.ones(4, 50), 1_024, trained=False)
    with Largest() as seen:
        getattr(case, kernel)(chunk_tokens=8)
    assert seen.numel <= 3 * 8 * 1_024  # two sides' logits; three blocks to work in
    with Largest() as seen:
        case.reference()
    assert seen.numel >= 200 * 1_024


def test_a_retained_graph_gives_its_gradient_again_and_again() -> None:
    case = Case(torch.ones(1, 4), 40)
    heads = case.student_head, case.teacher_head
    loss = fused_weighted_divergence(case.student, case.teacher, *heads, case.mask).loss
    first = torch.autograd.grad(loss, case.leaves, retain_graph=True)
    for times in (1, 2, 3):
        loss.backward(retain_graph=True)
        for leaf, gradient in zip(case.leaves, first, strict=True):
            torch.testing.assert_close(leaf.grad, times * gradient)


@pytest.mark.parametrize("changed", ["student", "teacher", "student_head", "teacher_head"])
def test_what_changed_between_two_backward_passes_is_an_error(changed: str) -> None:
    case = Case(torch.ones(1, 4), 40)
    heads = case.student_head, case.teacher_head
    loss = fused_weighted_divergence(case.student, case.teacher, *heads, case.mask).loss
    loss.backward(retain_graph=True)
    tensor = getattr(case, changed)
    with torch.no_grad():
        (tensor.linear.weight if changed.endswith("head") else tensor).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_differentiating_twice_is_an_error() -> None:
    case = Case(MASK, 20)
    result = fused_weighted_divergence(case.student, case.teacher, case.student_head, case.teacher_head, case.mask)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(result.loss, case.student, create_graph=True)


def test_what_does_not_fit_is_named() -> None:
    case = Case(MASK, 20)
    student, teacher, head = case.student, case.teacher, case.student_head
    fused = fused_weighted_divergence
    with pytest.raises(ValueError, match=r"student_hidden must be \[batch, tokens, 12\], not \(4, 5, 11\)"):
        fused(student[..., :11], teacher, head, head, MASK)
    with pytest.raises(ValueError, match=r"mask \(4, 5\) does not fit teacher_hidden \(4, 3, 12\)"):
        fused(student, teacher[:, :3], head, head, MASK)
    with pytest.raises(ValueError, match="differ in vocabulary: 20, 21"):
        fused(student, teacher, head, nn.Linear(HIDDEN, 21), MASK)
    with pytest.raises(ValueError, match="chunk_tokens must be at least 1, not 0"):
        fused(student, teacher, head, head, MASK, chunk_tokens=0)
    with pytest.raises(TypeError, match=r"nn\.Linear"):
        fused(student, teacher, head, lambda h: h, MASK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "kl"}, "valid: reverse_kl, forward_kl, jsd"),
        ({"weighting": "safety"}, "valid: dpsw, teacher, student, uniform"),
        ({"top_k": 0}, "top_k"),
        ({"temperature": 0.0}, "temperature"),
        ({"divergence": "jsd", "beta": 1.0}, "beta"),
    ],
)
def test_an_unknown_option_is_an_error_even_without_valid_tokens(options: dict[str, Any], message: str) -> None:
    for path in ("fused", "reference"):
        with pytest.raises(ValueError, match=message):
            getattr(Case(torch.zeros(1, 2), 5), path)(**options)
