"""Collating: by plain loops, every completion token of a row is predicted from the position before it."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from crosslign.models.passes.collate import PromptCompletionBatch, collate, completion_mask, pack
from crosslign.types import Completion, Context, Query, Rollout

PAD = 0
# Token ids include the padding id: padding must never be found by its id.
TOKENS = st.integers(0, 5)
ROW = st.tuples(
    st.lists(TOKENS, min_size=1, max_size=6), st.lists(TOKENS, min_size=1, max_size=6), st.lists(TOKENS, max_size=5)
)


def rollout(student: list[int], teacher: list[int], completion: list[int]) -> Rollout:
    query = Query("q", "sw", "swali", "en", "question")
    contexts = [Context(query, role, (), tuple(ids)) for role, ids in (("student", student), ("teacher", teacher))]
    return Rollout(query, *contexts, Completion(tuple(completion), False), "student", "student")


def mask_of(completions: list[list[int]]) -> torch.Tensor:
    return completion_mask([rollout([1], [1], c) for c in completions])


def assert_aligned(batch: PromptCompletionBatch, prompts: list[list[int]], completions: list[list[int]]) -> None:
    """The oracle: plain loops over rows and tokens, no padding arithmetic."""
    mask = mask_of(completions)
    ids, attention, index = batch.input_ids.tolist(), batch.attention_mask.tolist(), batch.index.tolist()
    assert len(ids) == len(attention) == len(index) == len(prompts)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        real = [token for token, keep in zip(ids[row], attention[row], strict=True) if keep]
        whole = prompt + completion
        assert real == (whole[:-1] if completion else whole)
        assert ids[row][: len(prompt)] == prompt
        assert attention[row] == [1] * len(real) + [0] * (len(ids[row]) - len(real))
        assert ids[row][len(real) :] == [PAD] * (len(ids[row]) - len(real))
        assert len(index[row]) == max(len(c) for c in completions)
        for t in range(len(index[row])):
            assert mask[row, t].item() == (t < len(completion))
            if t >= len(completion):
                assert index[row][t] == 0
                continue
            at = index[row][t]
            # The hidden state at `at` has seen the prompt and the completion before t; what comes next is t.
            assert attention[row][at] == 1
            assert real[: at + 1] == prompt + completion[:t]
            if at + 1 < len(real):
                assert real[at + 1] == completion[t]
            else:
                assert t == len(completion) - 1


@given(st.lists(ROW, min_size=1, max_size=4))
def test_every_completion_token_is_predicted_from_the_position_before_it(rows: list[tuple[list[int], ...]]) -> None:
    completions = [row[2] for row in rows]
    for role in (0, 1):
        prompts = [row[role] for row in rows]
        assert_aligned(collate(prompts, completions, PAD), prompts, completions)


def test_batch_of_two_rows_is_as_written_by_hand() -> None:
    batch = collate([[7, 8], [9]], [[1, 2, 3], [4]], PAD)
    assert batch.input_ids.tolist() == [[7, 8, 1, 2], [9, PAD, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert batch.index.tolist() == [[1, 2, 3], [0, 0, 0]]
    assert mask_of([[1, 2, 3], [4]]).tolist() == [[True, True, True], [True, False, False]]


def test_only_empty_completions_and_no_rows_give_empty_shapes() -> None:
    assert collate([[7]], [[]], PAD).index.shape == (1, 0)
    assert collate([], [], PAD).input_ids.shape == (0, 0)
    assert mask_of([[]]).shape == (1, 0)
    assert completion_mask([]).shape[1] == 0


def test_tensors_have_the_types_models_expect() -> None:
    batch = collate([[1]], [[2, 3]], PAD)
    assert {batch.input_ids.dtype, batch.attention_mask.dtype, batch.index.dtype} == {torch.long}
    assert mask_of([[1]]).dtype == torch.bool


@given(st.lists(ROW, min_size=1, max_size=4))
def test_a_packed_row_holds_what_the_padded_rows_hold(rows: list[tuple[list[int], ...]]) -> None:
    prompts, completions = [row[0] for row in rows], [row[2] for row in rows]
    padded, packed = collate(prompts, completions, PAD), pack(prompts, completions)
    mask = mask_of(completions)
    assert packed.attention_mask is None
    assert packed.input_ids[0].tolist() == padded.input_ids[padded.attention_mask.bool()].tolist()
    assert (
        packed.position_ids[0].tolist() == (padded.attention_mask.cumsum(1) - 1)[padded.attention_mask.bool()].tolist()
    )
    own = padded.input_ids.gather(1, padded.index)
    assert packed.input_ids[0][packed.index][mask].tolist() == own[mask].tolist()
    positions = packed.position_ids[0][packed.index]
    assert positions[mask].tolist() == padded.index[mask].tolist()


def test_two_packed_rows_are_as_written_by_hand() -> None:
    batch = pack([[7, 8], [9]], [[1, 2, 3], [4]])
    assert batch.input_ids.tolist() == [[7, 8, 1, 2, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0]]
    assert batch.index.tolist() == [[1, 2, 3], [4, 0, 0]]
