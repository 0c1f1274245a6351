"""The `endpoint` translator: a chat model behind an OpenAI-compatible server.

The prompt is the file `prompt.md` beside this one. The query reaches the model as data, between two lines with a code
that occurs nowhere in it; the reply is read between the same lines. A chat model may answer, refuse or soften what it
is to translate, whatever the prompt says: the checks look for that.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from crosslign.evaluation.endpoint import Endpoint, EndpointReply
from crosslign.evaluation.judges.llm import make_nonce
from crosslign.http import transmissible
from crosslign.languages import english_name
from crosslign.translation.base import Keep, Translation
from crosslign.translation.registry import TranslatorSettings, translators
from crosslign.types import CrosslignError, Message

TEMPERATURE, SEED, MAX_TOKENS = 0.0, 0, 2048
FORMAT = "1"  # part of the identity: raised when this file fills the prompt or reads replies differently than before
_THOUGHTS = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)


class EndpointTranslator:
    """Asks a chat model for each translation."""

    name = "endpoint"

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def identity(self) -> Mapping[str, Any]:
        digest = hashlib.sha256(_prompt().encode()).hexdigest()[:16]
        settings = {"temperature": TEMPERATURE, "seed": SEED, "max_tokens": MAX_TOKENS}
        return {"kind": self.name, **self.endpoint.identity(), "prompt": digest, "format": FORMAT, **settings}

    def check(self, source: str, target: str) -> None:
        """Which languages a chat model knows shows in its translations: any that has a name will do here."""
        for code in (source, target):
            english_name(code)

    def translate(self, texts: Sequence[str], source: str, target: str, keep: Keep) -> None:
        """Raises CrosslignError if the server fails; what it has answered by then was kept."""
        whole = [transmissible(text) for text in texts]
        nonces = [make_nonce([text]) for text in whole]

        def deliver(index: int, reply: EndpointReply) -> None:
            keep(index, read(reply, nonces[index]))

        self.endpoint.complete(
            [(Message("user", _filled(text, source, target, n)),) for text, n in zip(whole, nonces, strict=True)],
            temperature=TEMPERATURE,
            seed=SEED,
            max_tokens=MAX_TOKENS,
            on_result=deliver,
        )


def read(reply: EndpointReply, nonce: str) -> Translation:
    """The translation in a reply: what stands between the two lines, or all of it if the model left them out."""
    if reply.finish_reason in ("rejected", "content_filter"):
        return Translation("", error=f"the server refused it: {reply.error or reply.finish_reason}")
    text = _THOUGHTS.sub("", reply.text)
    begin = re.search(_line("BEGIN", nonce), text)
    text = text[begin.end() :] if begin else text
    end = re.search(_line("END", nonce), text)
    return Translation((text[: end.start()] if end else text).strip(), truncated=reply.truncated and end is None)


def _line(word: str, nonce: str) -> str:
    return rf"(?m)^[^\w\n]*{word} {nonce}[^\w\n]*$"


@cache
def _prompt() -> str:
    return resources.files("crosslign.translation").joinpath("prompt.md").read_text(encoding="utf-8")


def _filled(text: str, source: str, target: str, nonce: str) -> str:
    return string.Template(_prompt()).substitute(
        text=text, source_language=english_name(source), language=english_name(target), nonce=nonce
    )


@translators.register("endpoint")
def _endpoint(settings: TranslatorSettings, argument: str = "") -> EndpointTranslator:
    if not argument:
        raise CrosslignError("translator 'endpoint': name the model after a colon, endpoint:MODEL.")
    if settings.url is None:
        raise CrosslignError(
            f"translator 'endpoint:{argument}' needs the URL of its server: --url http://localhost:8000/v1, or "
            "method.options.translator_url in a recipe."
        )
    return EndpointTranslator(
        Endpoint(
            settings.url,
            argument,
            api_key_env=settings.api_key_env,
            concurrency=settings.concurrency,
            retries=settings.retries,
        )
    )
