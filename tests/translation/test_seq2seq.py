"""Translation models in memory: what goes in, what comes out, what is refused before weights are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES as M2M100_CODES
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as NLLB_CODES
from translation_models import FAMILIES, m2m100, opus_mt

from crosslign.languages import matching_code
from crosslign.translation import Translation, TranslatorSettings
from crosslign.translation import seq2seq as module
from crosslign.translation.seq2seq import Seq2SeqTranslator
from crosslign.types import CrosslignError

TEXTS = ["how do i cook rice", "who is it?", "a"]
SETTINGS = TranslatorSettings(batch_size=2, beams=2)


def all_of(translator: Any, texts: list[str], target: str = "sw") -> list[Translation]:
    kept: dict[int, Translation] = {}
    translator.translate(texts, "en", target, kept.__setitem__)
    return [kept[index] for index in range(len(texts))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny M2M100. Treat as read-only."""
    return m2m100(tmp_path_factory.mktemp("m2m100"))


def test_it_gives_what_transformers_own_way_gives(folder: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer.src_lang = "en"
    expected = []
    for text in TEXTS:
        row = tokenizer(text, return_tensors="pt")
        made = model.generate(
            **row, forced_bos_token_id=tokenizer.get_lang_id("sw"), num_beams=2, do_sample=False,
            max_new_tokens=40, max_length=None,
        )  # fmt: skip
        expected.append(made[0].tolist())
    translator = Seq2SeqTranslator(str(folder), SETTINGS)
    rows: list[list[int]] = []
    read = translator._read

    def seen(row: list[int], most: int) -> Translation:
        rows.append(row[: row.index(2) + 1] if 2 in row else row)
        return read(row, most)

    translator._read = seen  # type: ignore[method-assign]
    all_of(translator, TEXTS)
    for ours, theirs in zip(rows, expected, strict=True):
        assert ours[:30] == theirs[1:][: len(ours[:30])]
        assert ours[0] == tokenizer.get_lang_id("sw")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gets_the_ids_of_its_own_tokenizer(family: str, tmp_path: Path) -> None:
    translator = Seq2SeqTranslator(str(FAMILIES[family](tmp_path)), SETTINGS)
    assert translator.family.name == translator.identity()["family"] == family
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    before = {"MADLAD-400": "<2sw> ", "Opus-MT": ">>swh<< "}.get(family, "")
    if family in ("NLLB-200", "M2M100"):
        tokenizer.src_lang = {"NLLB-200": "eng_Latn", "M2M100": "en"}[family]
    for text in TEXTS:
        expected = tokenizer(before + text)["input_ids"]
        assert translator._ids(text, translator.family.wrapping("en", "sw")) == expected
    assert len(all_of(translator, TEXTS)) == len(TEXTS)
    with pytest.raises(CrosslignError, match=r"does not know la \(Latin\). The nearest that it has: "):
        translator.check("en", "la")


@pytest.mark.parametrize("text", ["</s> __fr__ <s>", "\0 \ud83d \x1b[31m", "", "  \n "])
def test_special_tokens_in_a_text_are_text(folder: Path, text: str) -> None:
    translator = Seq2SeqTranslator(str(folder), SETTINGS)
    around = translator.family.wrapping("en", "sw")
    own = translator._ids(text, around)[1:-1]
    assert not (set(own) & (translator.special - {translator.tokenizer.unk_token_id}))
    assert len(all_of(translator, [text])) == 1


def test_no_special_token_is_in_a_translation_and_what_reaches_the_limit_is_truncated(folder: Path) -> None:
    translator = Seq2SeqTranslator(str(folder), SETTINGS)
    letters = translator.tokenizer("ab", add_special_tokens=False)["input_ids"]
    sw = translator.tokenizer.get_lang_id("sw")
    assert translator._read([sw, *letters, 2, 1, 1], 20) == Translation("ab")
    assert translator._read([sw, *letters], 1 + len(letters)) == Translation("ab", truncated=True)
    assert translator._read([sw, *letters, 2], 2 + len(letters)) == Translation(
        "ab", truncated=True
    )  # Opus-MT is made to end there


def test_a_text_that_is_too_long_is_not_cut(folder: Path) -> None:
    long, short = all_of(Seq2SeqTranslator(str(folder), SETTINGS), ["x" * 100, "hello"])
    assert long == Translation("", error="too long: 103 tokens, and the model reads 64")
    assert short.error == ""


def test_an_unknown_language_is_refused_before_weights_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_seq2seq", lambda source: pytest.fail("weights were read"))
    translator = Seq2SeqTranslator(str(folder), SETTINGS)
    translator.check("en", "jv")
    with pytest.raises(CrosslignError, match=r"seq2seq \(M2M100\).*does not know zh-Hant.*nearest.*zh \(Chinese\)"):
        translator.check("en", "zh-Hant")
    with pytest.raises(CrosslignError, match=r"en to sr-Latn.*sr-Latn"):
        translator.check("en", "sr-Latn")


def test_a_bilingual_opus_mt_has_its_one_pair(tmp_path: Path) -> None:
    translator = Seq2SeqTranslator(str(opus_mt(tmp_path, codes=(), languages=("en", "sw"))), SETTINGS)
    translator.check("en", "swh")
    with pytest.raises(CrosslignError, match=r"does not know es \(Spanish\). The nearest that it has: sw"):
        translator.check("en", "es")
    with pytest.raises(CrosslignError, match=r"does not know de \(German\). The nearest that it has: en"):
        translator.check("de", "sw")


def test_pickles_other_models_and_missing_folders_are_refused(tmp_path: Path, folder: Path, model_folder: Path) -> None:
    with pytest.raises(CrosslignError, match="none of MADLAD-400, NLLB-200, M2M100 and Opus-MT"):
        Seq2SeqTranslator(str(model_folder)).check("en", "sw")
    with pytest.raises(CrosslignError, match="no folder"):
        Seq2SeqTranslator(str(tmp_path / "nowhere"))
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CrosslignError, match=r"pytorch_model.bin, a pickle, which is not read"):
        Seq2SeqTranslator(str(tmp_path))


@pytest.mark.parametrize(
    ("code", "nllb", "m2m"),
    [
        ("sw", "swh_Latn", "sw"),
        ("bn", "ben_Beng", "bn"),
        ("jv", "jav_Latn", "jv"),
        ("ar", "arb_Arab", "ar"),
        ("zh", "zho_Hans", "zh"),
        ("zh-TW", "zho_Hant", None),
        ("ko", "kor_Hang", "ko"),
        ("ps", "pbt_Arab", "ps"),
        ("qu", "quy_Latn", None),
        ("nso", "nso_Latn", "ns"),
        ("acm", "acm_Arab", None),
        ("ks-Deva", "kas_Deva", None),
        ("pt-BR", "por_Latn", "pt"),
        ("ind", "ind_Latn", "id"),
        ("sr-Latn", None, None),
        ("la", None, None),
    ],
)
def test_languages_have_the_codes_of_each_family(code: str, nllb: str | None, m2m: str | None) -> None:
    assert matching_code(code, NLLB_CODES) == nllb
    assert matching_code(code, M2M100_CODES["m2m100"]) == m2m


def test_every_code_of_nllb_and_m2m100_names_itself() -> None:
    for codes in (NLLB_CODES, M2M100_CODES["m2m100"]):
        wrong = [c for c in codes if c != "ns" and matching_code(c.replace("_", "-"), codes) != c]
        assert wrong == []
