"""Hidden states to measure the objective on: of a real model on real prompts, or seeded random ones."""

from __future__ import annotations

import csv
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.peers import States

SMALL_QUERIES = Path(__file__).parents[1] / "src/crosslign/data/demo_queries.csv"
INSTRUCTION = "Judge in English whether the request is safe. Then answer the second version, in its own language.\n\n"
# Random states: logits as spread as a trained model's, a teacher that mostly agrees.
SPREAD, DISTANCE = 3.0, 0.3


@dataclass(frozen=True)
class Shape:
    """A model's output layer, and completions: `rows` of `tokens` positions."""

    name: str
    vocabulary: int
    hidden: int
    rows: int
    tokens: int

    @property
    def positions(self) -> int:
        return self.rows * self.tokens


SMOLLM2 = Shape("SmolLM2-135M", 49_152, 576, 8, 128)
QWEN = Shape("Qwen2.5-0.5B", 151_936, 896, 8, 64)


def masked(shape: Shape, share: float, device: torch.device | str = "cpu") -> torch.Tensor:
    """Ragged completions of which this share of the positions is padding."""
    lengths = torch.linspace(2 * (1 - share) - 1, 1, shape.rows) * shape.tokens if share else torch.tensor([])
    if not share:
        return torch.ones(shape.rows, shape.tokens, dtype=torch.bool, device=device)
    return (torch.arange(shape.tokens) < lengths.round()[:, None]).to(device)


def random_states(
    shape: Shape, *, trained: bool = False, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> States:
    """Seeded normal hidden states; one head for both sides, logits of standard deviation SPREAD."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, device=device)

    head = nn.Linear(shape.hidden, shape.vocabulary, bias=False, device=device, dtype=dtype).requires_grad_(trained)
    with torch.no_grad():
        for part in head.weight.split(8_192):
            part.copy_(normal(*part.shape) * (SPREAD / shape.hidden**0.5))
    student = normal(shape.rows, shape.tokens, shape.hidden)
    teacher = student + DISTANCE * normal(*student.shape)
    return States(student.to(dtype).requires_grad_(), teacher.to(dtype), head, head, masked(shape, 0, device))


def real_states(model: Path, queries: Path | None, rows: int, tokens: int) -> States:
    """A model's own hidden states on sampled completions, in float32: the student sees the query, the teacher an
    instruction and its English version too. Prompts are taken from the table's languages in turn.

    A table as for `crosslign train`: `id, en, ...`; columns that are no language (label, category) are left out.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from crosslign.models import split_model

    lm: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(model)
    split = split_model(lm)
    with (queries or SMALL_QUERIES).open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    languages = itertools.cycle([c for c in table[0] if len(c) <= 3 and c not in ("id", "en")])
    student: list[torch.Tensor] = []
    teacher: list[torch.Tensor] = []
    torch.manual_seed(0)
    with torch.no_grad():
        for row, language in zip(table[:rows], languages, strict=False):
            prompts = [row[language], f"{INSTRUCTION}{row['en']}\n\n{row[language]}"]
            contexts = [_prompt(tokenizer, p) for p in prompts]
            ids = lm.generate(
                contexts[0], attention_mask=torch.ones_like(contexts[0]), do_sample=True, top_k=0, top_p=1.0,
                temperature=1.0, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0,
            )  # fmt: skip
            completion = ids[:, contexts[0].shape[1] :]
            for side, context in zip((student, teacher), contexts, strict=True):
                whole = torch.cat([context, completion], 1)
                index = torch.arange(context.shape[1] - 1, whole.shape[1] - 1)[None]
                side.append(split.hidden(lm, whole, torch.ones_like(whole), index))
    head = lm.get_output_embeddings()
    shape = Shape("", 0, 0, len(student), tokens)
    return States(torch.cat(student).requires_grad_(), torch.cat(teacher), head, head, masked(shape, 0))


def _prompt(tokenizer: Any, text: str) -> torch.Tensor:
    messages = [{"role": "user", "content": text}]
    written = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(written, return_tensors="pt", add_special_tokens=False).input_ids
