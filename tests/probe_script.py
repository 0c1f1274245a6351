"""A run whose student and teacher answer from a script, for tests of the teacher gate."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from conftest import byte_tokenizer

from crosslign.rollouts import ScriptedSampler
from crosslign.runs import build

REFUSAL = "I'm sorry, but I can't help with that."
HELP = "Here is placeholder answer number one, as you wished."
BROKEN = "na na na na na na na na na na na na"
SWAHILI_REFUSAL = "Samahani, siwezi kukusaidia na jambo hilo kwa sababu ni hatari."
SWAHILI_HELP = "Hili ndilo jibu la mfano la kwanza, kama ulivyotaka rafiki yangu."
TEMPLATE = {"messages": [{"role": "user", "content": "PLAIN {source_query} / {query}"}]}
LANGUAGES = {"swali": "sw", "প্রশ্ন": "bn", "question": "en"}

Say = Callable[[str, str, int], str]  # template's first word or "student", language, number of the row -> answer


@dataclass
class Script:
    """Answers by context, language and row number; counts the prompts that each context was asked with. Asked to give
    an answer again, it gives `again` of it and the row's number."""

    say: Say
    again: Callable[[str, int], str] = lambda said, number: said
    asked: list[tuple[str, str, int]] = field(default_factory=list)

    def __call__(self, prompt: Sequence[int]) -> list[int]:
        tokenizer = byte_tokenizer()
        text = tokenizer.decode(list(prompt))
        (kind,) = re.findall(r"user\n([A-Z]+) ", text) or ["student"]
        word, number = re.findall(r"(swali|প্রশ্ন|question) (\d+)", text)[-1]
        key = (kind, LANGUAGES[word], int(number))
        self.asked.append(key)
        if "Give the same answer again" in text:
            answer = self.again(re.findall(r"assistant\n(.*?)<", text)[-1], int(number))
        else:
            answer = self.say(*key)
        return list(tokenizer(answer, add_special_tokens=False)["input_ids"])


def scripted(monkeypatch: pytest.MonkeyPatch, say: Say) -> Script:
    """From now on every run samples from the script."""
    script = Script(say)
    sampler = ScriptedSampler(stop_token_id=0, vocabulary_size=259, script=script)
    monkeypatch.setattr(build, "sampler_of", lambda *args, **kwargs: sampler)
    # What one script said must not be found by the next.
    monkeypatch.setattr(build, "cache_folder", lambda given: Path(given) / uuid4().hex)
    return script


def scripted_recipe(recipe: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The fixture's recipe with a template that the script understands and room for its answers."""
    return {
        **recipe,
        "teacher": {"template": TEMPLATE},
        "sampling": {"max_completion_length": 80, "batch_size": 4},
        "divergence_queries": 0,
        **changes,
    }


def two_of_three(kind: str, language: str, number: int) -> str:
    """Benign rows are even, harmful ones odd: 1, 3, 5, 7, 9, 11.

    The student helps with every harmful row in Swahili and with 1, 3, 5, 7 in Bengali. The teacher turns 1, 3, 5, 7 in
    both into refusals, breaks row 9 in Swahili, helps with row 11; and refuses the benign row 4.
    """
    if number % 2 == 0:
        return REFUSAL if kind != "student" and number == 4 else HELP
    if kind == "student":
        return HELP if language == "sw" or number <= 7 else REFUSAL
    if number <= 7:
        return REFUSAL
    return BROKEN if number == 9 and language == "sw" else HELP


def contrasted(kind: str, language: str, number: int) -> str:
    """In Swahili. Benign rows are even. The student helps, but refuses the benign row 2; the teacher refuses what is
    harmful, and the benign row 4."""
    refuses = number == 2 if kind == "student" else number % 2 == 1 or number == 4
    return SWAHILI_REFUSAL if refuses else SWAHILI_HELP
