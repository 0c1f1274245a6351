"""Translators by name, as `crosslign translate --help` lists them: `seq2seq:MODEL`, `endpoint:MODEL`, `apertium`,
`scripted:TABLE`.

A package adds its own through an entry point `crosslign.translators` (see `crosslign.registry`) that names a class or a
function. What stands after the colon is its `argument`, if it takes one; `settings` are the `TranslatorSettings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crosslign.registry import Registry

translators = Registry("translator", "crosslign.translators")


@dataclass(frozen=True)
class TranslatorSettings:
    """What translators take besides their names.

    Fields:
        url: of the endpoint.
        api_key_env: the environment variable with the endpoint's key.
        concurrency, retries: of its requests.
        revision, dtype, batch_size, beams: of a model in memory.
    """

    url: str | None = None
    api_key_env: str | None = "OPENAI_API_KEY"
    concurrency: int = 8
    retries: int = 10
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_size: int = 16
    beams: int = 4
