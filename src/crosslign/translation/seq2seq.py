"""The `seq2seq` translator: a translation model in memory, by transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from crosslign.models import ModelSource, check_source, evaluation_source, weights_mark
from crosslign.models.load import configuration
from crosslign.models.seq2seq import load_seq2seq, load_seq2seq_tokenizer
from crosslign.translation.base import Keep, Translation
from crosslign.translation.families import Family, Wrapping, family_of
from crosslign.translation.registry import TranslatorSettings, translators

# The default: the licence is open, and it knows 419 languages.
MODEL = "google/madlad400-3b-mt"
MOST_TOKENS = 1024  # of a text, where neither tokenizer nor model has a smaller limit
# A translation may have so many tokens for one of its source, and so many more: Bengali and Thai take several a word.
TOKENS_EACH, TOKENS_MORE = 4, 32


class Seq2SeqTranslator:
    """MADLAD-400, NLLB-200, M2M100 or Opus-MT: a hub id, or a folder with safetensors.

    It decodes by beam search, never by sampling. Texts are data: special tokens in them are split into letters, or
    become unknown where the tokenizer takes them for words of its vocabulary. A text that is too long for the model is
    not cut; it gets an error.
    """

    name = "seq2seq"

    def __init__(self, path: str = MODEL, settings: TranslatorSettings | None = None) -> None:
        settings = settings or TranslatorSettings()
        self.batch_size, self.beams = settings.batch_size, settings.beams
        source = ModelSource(path, settings.revision, dtype=settings.dtype)
        check_source(source)
        self._given = source

    def identity(self) -> Mapping[str, Any]:
        return {
            "kind": self.name,
            "model": self.source.path,
            "weights": weights_mark(self.source),
            "family": self.family.name,
            "licence": self.family.licence,
            "dtype": self.source.dtype,
            "beams": self.beams,
        }

    def check(self, source: str, target: str) -> None:
        self.family.wrapping(source, target)

    @cached_property
    def source(self) -> ModelSource:
        return evaluation_source(self._given)

    @cached_property
    def tokenizer(self) -> Any:
        return load_seq2seq_tokenizer(self._given)

    @cached_property
    def family(self) -> Family:
        return family_of(self.tokenizer, configuration(self._given).model_type)

    @cached_property
    def model(self) -> Any:
        model = load_seq2seq(self.source)
        model.generation_config.max_length = None  # each batch has its own limit
        return model

    @cached_property
    def special(self) -> frozenset[int]:
        """Tokens that are no text: the tokenizer's own, and those of languages."""
        return frozenset((*self.tokenizer.all_special_ids, *map(self.family.token, self.family.codes)))

    @cached_property
    def longest(self) -> int:
        """Tokens that the model reads at most."""
        positions = getattr(configuration(self._given), "max_position_embeddings", None) or MOST_TOKENS
        return int(min(self.tokenizer.model_max_length, positions, MOST_TOKENS))

    def translate(self, texts: Sequence[str], source: str, target: str, keep: Keep) -> None:
        around = self.family.wrapping(source, target)
        rows: list[tuple[int, list[int]]] = []
        for index, text in enumerate(texts):
            ids = self._ids(text, around)
            if len(ids) > self.longest:
                keep(index, Translation("", error=f"too long: {len(ids)} tokens, and the model reads {self.longest}"))
            else:
                rows.append((index, ids))
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            for (index, _), translation in zip(batch, self._generate([ids for _, ids in batch], around), strict=True):
                keep(index, translation)

    def _ids(self, text: str, around: Wrapping) -> list[int]:
        plain = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        own = self.tokenizer(plain, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        unknown = self.tokenizer.unk_token_id
        return [*around.before, *(unknown if token in self.special else token for token in own), *around.after]

    def _generate(self, rows: Sequence[Sequence[int]], around: Wrapping) -> list[Translation]:
        """Translations of rows of token ids, by one call of `generate`."""
        width, pad = max(map(len, rows)), int(self.tokenizer.pad_token_id)
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=self.model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.model.device)
        forced = {} if around.forced is None else {"forced_bos_token_id": around.forced}
        most = min(TOKENS_EACH * width + TOKENS_MORE, self.longest - 1)
        with torch.inference_mode():
            made = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                num_beams=self.beams,
                max_new_tokens=most,
                **forced,
            )
        return [self._read(row[1:], most) for row in made.tolist()]  # the first token starts the decoder

    def _read(self, row: list[int], most: int) -> Translation:
        """Generated ids as text. Some models are made to end at the limit, which is no end of their own."""
        end = int(self.tokenizer.eos_token_id)
        length = row.index(end) + 1 if end in row else most
        text = self.tokenizer.decode([token for token in row[:length] if token not in self.special])
        return Translation(text.strip(), truncated=length >= most)


@translators.register("seq2seq")
def _seq2seq(settings: TranslatorSettings, argument: str = MODEL) -> Seq2SeqTranslator:
    return Seq2SeqTranslator(argument, settings)
