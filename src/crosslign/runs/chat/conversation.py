"""One loaded model that answers as what it was and as what it is, each with a memory of its own.

With LoRA the base is the model with its adapter switched off. After full fine-tuning, and for a merged model, it is a
second model in memory. Both see the run's student context, so what differs is the training alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from transformers.generation.streamers import BaseStreamer

from crosslign.contexts import ContextBuilder, ContextOverflow
from crosslign.evaluation.fidelity import LanguageFidelity
from crosslign.languages import english_name
from crosslign.models import (
    ModelSource,
    check_source,
    evaluation_source,
    load_model,
    load_tokenizer,
    load_with_adapter,
)
from crosslign.rollouts import SamplingParameters, TransformersSampler, derive_seed, sampler_of
from crosslign.runs.config import RunConfig
from crosslign.runs.contexts import context_builder
from crosslign.runs.evaluate import trained_languages
from crosslign.runs.prepare import check_trusted, model_source
from crosslign.runs.sharing.finished import read_finished
from crosslign.types import Announce, CrosslignError, Message, Query, silent
from crosslign.untrusted import is_blank

Side = Literal["base", "aligned", "teacher"]
TITLES: Mapping[Side, str] = {
    "base": "base model",
    "aligned": "aligned model",
    "teacher": "teacher: the base model, which also sees the English version",
}
STUDENTS: tuple[Side, ...] = ("base", "aligned")  # which see what a user will send
OnText = Callable[[Side, str], None]  # gets a side's reply as far as it is written


def unheard(side: Side, text: str) -> None:
    """Nobody reads along."""


@dataclass(frozen=True)
class ChatRequest:
    """Which models talk, and how.

    Fields:
        run: folder of a finished run.
        merged: folder with the aligned model, if it is not the run's own adapter or model.
        language: of all messages; None: recognised.
        max_length: longest context in tokens, the turns before it included.
        trust_remote_code: run code that comes with the model. The run's own word for it does not count.
    """

    run: Path
    merged: str | None = None
    parameters: SamplingParameters = field(default_factory=lambda: SamplingParameters(temperature=0.0))
    language: str | None = None
    max_length: int = 2048
    seed: int = 0
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Reply:
    """What one side says: untrusted text, whether the length limit cut it off, its language if it was recognised."""

    text: str
    truncated: bool
    language: str | None


@dataclass(frozen=True)
class Turn:
    """A message, its source-language version if one was given, its language, and the replies.

    `certain`: the language was told from the text, or said by the user.
    """

    message: str
    english: str | None
    language: str
    certain: bool
    replies: Mapping[Side, Reply]

    def language_line(self) -> str:
        return f"language: {english_name(self.language)}" + ("" if self.certain else " (not recognised, but assumed)")

    def heading(self, side: Side) -> str:
        """Who says this, and in which language if that was recognised."""
        language = self.replies[side].language
        return TITLES[side] + (f" ({english_name(language)})" if language else "")

    def body(self, side: Side) -> str:
        reply = self.replies[side]
        return (reply.text.strip() or "(nothing)") + (" [cut off]" if reply.truncated else "")


@dataclass
class Conversation:
    """The turns so far, and what each side remembers of them: those in which it answered."""

    turns: list[Turn] = field(default_factory=list)
    memory: dict[Side, tuple[Message, ...]] = field(default_factory=dict)


class Chat:
    """Loaded models; any number of conversations, one message at a time."""

    def __init__(self, request: ChatRequest, announce: Announce = silent) -> None:
        """Load. Raises CrosslignError if the run is not finished, or what it names is not there or damaged."""
        config = read_finished(request.run).config
        base, aligned = _sources(request, config)
        if request.language is not None:
            english_name(request.language)
        self.request, self.source_language = request, config.data.source_language
        trained = trained_languages(str(request.run)) or []
        self._languages = [code for code in trained if code != self.source_language] or [self.source_language]
        self._fidelity = LanguageFidelity(self._languages, self.source_language)
        self._tokenizer = load_tokenizer(base)
        self._contexts = _contexts(config, self._tokenizer, request.max_length)
        announce(f"loading {base.path}, and {request.merged or request.run}")
        self._stream = _Stream(self._tokenizer)
        if aligned is None:
            model = load_with_adapter(base, str(request.run))
            self._base = self._sampler(model, lambda: _adapter_off(model))
            self._aligned = self._sampler(model)
        else:
            self._base, self._aligned = (self._sampler(load_model(source)) for source in (base, aligned))

    def recognise(self, text: str, conversation: Conversation) -> tuple[str, bool]:
        """The language of a message, and whether that is certain.

        Where it cannot be told from the text, it is the last turn's, or the first that the run was trained on.
        """
        if self.request.language is not None:
            return self.request.language, True
        found = self._language_of(text)
        before = conversation.turns[-1].language if conversation.turns else self._languages[0]
        return (before, False) if found is None else (found, True)

    def ask(self, conversation: Conversation, text: str, english: str | None, on_text: OnText = unheard) -> Turn:
        """A message to all sides; the conversation then has one turn more.

        With an English version (one in the run's source language) the teacher answers too. Raises CrosslignError, and
        leaves the conversation as it was, for a message that is empty, holds a control token of the chat template, or
        makes the conversation too long.
        """
        english = None if english is None or is_blank(english) else english
        if is_blank(text):
            raise CrosslignError("the message is empty.")
        language, certain = self.recognise(text, conversation)
        query = Query("message", language, text, self.source_language, english or "")
        replies: dict[Side, Reply] = {}
        for side, prompt in self._prompts(query, conversation).items():
            replies[side] = self._reply(side, prompt, len(conversation.turns), on_text)
        turn = Turn(text, english, language, certain, replies)
        for side, reply in replies.items():
            said = Message("assistant", self._contexts.without_marks(reply.text))
            conversation.memory[side] = (*conversation.memory.get(side, ()), Message("user", text), said)
        conversation.turns.append(turn)
        return turn

    def _prompts(self, query: Query, conversation: Conversation) -> dict[Side, tuple[int, ...]]:
        """What each side that will answer sees; the teacher's judgement, if its template has one, is written here."""
        contexts, memory = self._contexts, conversation.memory
        try:
            contexts.check_student(query)
            found: dict[Side, tuple[int, ...]] = {
                side: contexts.student(query, memory.get(side, ())).token_ids for side in STUDENTS
            }
            if query.source_text:
                judgement = self._judgement(query) if contexts.needs_judgement(query) else None
                found["teacher"] = contexts.teacher(query, judgement, memory.get("teacher", ())).token_ids
        except ContextOverflow as error:
            raise CrosslignError(
                f"the conversation has {error.length} tokens for the {error.role}, and the limit is {error.limit}. "
                "Begin a new one (/reset), or start with a larger --max-length."
            ) from error
        return found

    def _judgement(self, query: Query) -> str:
        greedy = SamplingParameters(temperature=0, max_completion_length=self._contexts.max_judgement_length)
        (completion,) = self._base.sample([self._contexts.judgement(query).token_ids], greedy, seed=0)
        return self._contexts.judgement_text(completion.token_ids)

    def _reply(self, side: Side, prompt: tuple[int, ...], turn: int, on_text: OnText) -> Reply:
        sampler = self._aligned if side == "aligned" else self._base
        # One seed for all sides: they differ by what they are, not by luck.
        seed = derive_seed(self.request.seed, turn)
        with self._stream.to(lambda text: on_text(side, text)):
            (completion,) = sampler.sample([prompt], self.request.parameters, seed=seed)
        text = self._decoded(completion.token_ids)
        on_text(side, text)
        return Reply(text, completion.truncated, self._language_of(text))

    def _decoded(self, ids: tuple[int, ...]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _language_of(self, text: str) -> str | None:
        return self._fidelity.detect(text, self.source_language).detected

    def _sampler(self, model: Any, view: Callable[[], Any] | None = None) -> TransformersSampler:
        return sampler_of(model, self._tokenizer, 1, view, self._stream)


class _Stream(BaseStreamer):
    """Gets the tokens of a completion one by one, and tells whoever listens the text so far."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tell: Callable[[str], None] | None = None
        self._ids: list[int] | None = None  # None until the prompt has come, which is first

    @contextmanager
    def to(self, tell: Callable[[str], None]) -> Iterator[None]:
        self._tell, self._ids = tell, None
        try:
            yield
        finally:
            self._tell = None

    def put(self, value: Any) -> None:
        if self._tell is None:
            return
        if self._ids is None:
            self._ids = []
            return
        self._ids += value.flatten().tolist()
        # A character of several tokens is shown when it is whole.
        self._tell(self._tokenizer.decode(self._ids, skip_special_tokens=True).rstrip("\ufffd"))

    def end(self) -> None:
        """Nothing is left to tell: the whole reply comes from the sampler."""


def _sources(request: ChatRequest, config: RunConfig) -> tuple[ModelSource, ModelSource | None]:
    """The base, and the aligned model if it is not the base with the run's adapter; checked, in one type."""
    base = model_source(config)
    check_trusted(base, request.trust_remote_code, str(request.run))
    check_source(base)
    base = evaluation_source(base)
    folder = request.merged
    if folder is None:
        if config.model.finetuning == "lora":
            return base, None
        folder = str(request.run)
    elif not Path(folder).is_dir():
        raise CrosslignError(f"--merged: no folder {folder}. It is a whole model, which an adapter was merged into.")
    aligned = ModelSource(
        folder,
        tokenizer=base.tokenizer,
        dtype=base.dtype,
        attn_implementation=base.attn_implementation,
        trust_remote_code=base.trust_remote_code,
    )
    check_source(aligned)
    return base, aligned


def _contexts(config: RunConfig, tokenizer: Any, max_length: int) -> ContextBuilder:
    """The run's own templates, in conversations of up to this length."""
    roles = {
        name: getattr(config, name).model_copy(update={"max_length": max_length}) for name in ("student", "teacher")
    }
    return context_builder(config.model_copy(update=roles), tokenizer)


@contextmanager
def _adapter_off(model: Any) -> Iterator[Any]:
    with model.disable_adapter():
        yield model
