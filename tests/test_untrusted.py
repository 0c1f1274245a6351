"""Text from outside on its way to a terminal, and work that may not end."""

from __future__ import annotations

import os
import signal
import threading
import time
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslign.types import CrosslignError
from crosslign.untrusted import no_formula, rehearse, shown

ANY_TEXT = st.text(st.characters(exclude_categories=()))
BIDI = {"RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI", "FSI", "PDI"}


@given(ANY_TEXT, st.booleans())
def test_nothing_in_shown_text_commands_a_terminal(text: str, one_line: bool) -> None:
    result = shown(text, one_line=one_line)
    for character in result:
        allowed = "" if one_line else "\n\t"
        assert unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") or character in allowed
        assert unicodedata.bidirectional(character) not in BIDI
    assert shown(result, one_line=one_line) == result
    result.encode("utf-8")
    if one_line:
        assert len(result.splitlines()) <= 1


@given(st.text(st.characters(exclude_categories=("C", "Zl", "Zp"))))
def test_printable_text_of_every_script_is_shown_as_it_is(text: str) -> None:
    assert shown(text) == text


@pytest.mark.parametrize("text", ["क्‍ष हिन्दी", "می‌خواهم", "👩‍👩‍👧 👍🏽", "ไทย 中文 العربية עברית", "a\tb\nc"])
def test_joiners_stay(text: str) -> None:
    assert shown(text) == text


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_formula_in_a_cell_that_only_people_read_is_text(text: str) -> None:
    assert no_formula(text) == f"'{text}"
    assert [no_formula(cell) for cell in ("a=1", "", -1.5, None)] == ["a=1", "", -1.5, None]


def endless() -> None:
    while True:
        pass


def growing() -> None:
    _ = "x" * 4_000_000_000


def raising() -> None:
    raise ValueError("no matter")


def test_work_that_ends_may_do_what_it_likes() -> None:
    made: list[int] = []
    for work in (raising, lambda: made.append(1), lambda: os._exit(0)):
        rehearse(work, "the work")
    assert not made  # in the copy alone


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (endless, "the work takes more than 1 seconds. CROSSLIGN_MAX_SECONDS sets another limit."),
        (growing, "the work takes more than a gigabyte of memory"),
    ],
)
@pytest.mark.parametrize("in_thread", [False, True])
def test_work_that_does_not_end_or_grows_is_ended(
    work: Callable[[], None], said: str, in_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSLIGN_MAX_SECONDS", "1")
    errors: list[Any] = []

    def tried() -> None:
        with pytest.raises(CrosslignError) as caught:
            rehearse(work, "the work")
        errors.append(caught.value)

    if in_thread:
        thread = threading.Thread(target=tried)
        thread.start()
        thread.join()
    else:
        tried()
    assert str(errors[0]).startswith(said)


def test_an_interrupt_ends_the_copy_too() -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            rehearse(endless, "the work")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start < 5
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_where_no_process_can_be_copied_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    rehearse(endless, "the work")
