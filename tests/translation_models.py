"""Tiny translation models with random weights and the tokenizers of their families, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    NllbTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz ?.,<>|_/'\"{}0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIZES = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "init_std": 0.5}  # fmt: skip


def _spm(folder: Path, name: str) -> dict[str, int]:
    """Train a sentencepiece model of single characters; returns its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text.txt"
    text.write_text("\n".join([LETTERS, *LETTERS.split()] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / name.removesuffix(".model").removesuffix(".spm")),
        vocab_size=len(set(LETTERS)) + 6, model_type="char", character_coverage=1.0, minloglevel=2,
        bos_id=0, pad_id=1, eos_id=2, unk_id=3,
    )  # fmt: skip
    made = folder / f"{name.removesuffix('.model').removesuffix('.spm')}.model"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(made))
    text.unlink()
    made.with_suffix(".vocab").unlink()
    if made.name != name:
        made.rename(folder / name)
    return {processor.IdToPiece(i): i for i in range(processor.GetPieceSize())}


def _save(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.generation_config.update(max_length=20)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def m2m100(folder: Path) -> Path:
    vocabulary = _spm(folder, "sentencepiece.bpe.model")
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"))
    torch.manual_seed(0)
    config = M2M100Config(vocab_size=len(vocabulary) + 108, max_position_embeddings=64, **SIZES)
    return _save(M2M100ForConditionalGeneration(config), tokenizer, folder)


def nllb(folder: Path) -> Path:
    letters = {f"▁{c}" if c == " " else c: i + 4 for i, c in enumerate(dict.fromkeys(LETTERS.replace(" ", "▁")))}
    tokenizer = NllbTokenizer(vocab={"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, **letters})
    torch.manual_seed(0)
    config = M2M100Config(vocab_size=len(tokenizer), max_position_embeddings=64, **SIZES)
    return _save(M2M100ForConditionalGeneration(config), tokenizer, folder)


def madlad(folder: Path) -> Path:
    codes = [f"<2{code}>" for code in ("en", "sw", "jv", "bn", "zh", "zh_Latn", "fil", "ar")]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((code, 0.0) for code in codes)]
    pieces += [(c, -3.0) for c in dict.fromkeys(LETTERS) if c != " "]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip
    return _save(T5ForConditionalGeneration(config), tokenizer, folder)


def opus_mt(
    folder: Path, *, codes: tuple[str, ...] = ("swh", "xho"), languages: tuple[str, str] = ("en", "mul")
) -> Path:
    from transformers import MarianTokenizer

    vocabulary = _spm(folder, "source.spm")
    _spm(folder, "target.spm")
    own = {**vocabulary, **{f">>{code}<<": len(vocabulary) + i for i, code in enumerate(codes)}}
    own["<pad>"] = own.pop("<pad>", len(own))
    (folder / "vocab.json").write_text(json.dumps(own))
    tokenizer = MarianTokenizer(
        str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json"),
        source_lang=languages[0], target_lang=languages[1],
    )  # fmt: skip
    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=len(own), max_position_embeddings=64, pad_token_id=own["<pad>"], eos_token_id=own["</s>"],
        decoder_start_token_id=own["<pad>"], forced_eos_token_id=own["</s>"], **SIZES,
    )  # fmt: skip
    return _save(MarianMTModel(config), tokenizer, folder)


FAMILIES: Mapping[str, Callable[[Path], Path]] = {
    "MADLAD-400": madlad, "NLLB-200": nllb, "M2M100": m2m100, "Opus-MT": opus_mt,
}  # fmt: skip
