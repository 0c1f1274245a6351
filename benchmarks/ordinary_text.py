"""Perplexity of ordinary text before and after training.

    python -m benchmarks.ordinary_text --model FOLDER --adapter RUN --texts en=en_pud-ud-test.conllu

A text is a sentence of a treebank, a CoNLL-U file as https://universaldependencies.org publishes them; `--rows` of each
are drawn at random. `--adapter` takes a run a seed.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks.real_losses import losses
from benchmarks.real_tables import perplexities
from crosslign.models import ModelSource, load_tokenizer, load_with_adapter
from crosslign.types import CrosslignError

SENTENCE = "# text ="  # what a CoNLL-U file has before a sentence's own text


def sentences(path: Path, rows: int) -> list[str]:
    """So many sentences of a treebank, drawn at random.

    Raises:
        CrosslignError: the file has fewer.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    texts = [line.removeprefix(SENTENCE).strip() for line in lines if line.startswith(SENTENCE)]
    if len(texts) < rows:
        raise CrosslignError(
            f"--texts {path}: {len(texts)} sentences are here, and --rows asks for {rows}. A sentence is a line that "
            f"begins with {SENTENCE!r}, in a CoNLL-U file."
        )
    return random.Random(0).sample(texts, rows)


def before_and_after(model: str, adapters: Sequence[str], texts: Mapping[str, Sequence[str]]) -> str:
    """The table of these texts: the model's own perplexity, and its ratio after training, over the runs."""
    source = ModelSource(model, dtype="bfloat16")
    tokenizer = load_tokenizer(source)
    found = []
    for adapter in (None, *adapters):
        loaded = load_with_adapter(source, adapter)
        bar = tqdm(texts.items(), desc=adapter or "the model itself", unit="language")
        found.append({code: losses(tokenizer, loaded, own) for code, own in bar})
    return perplexities(found[0], found[1:])


def main() -> None:
    """Perplexity of ordinary text before and after training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the folder of the model that was trained")
    parser.add_argument("--adapter", required=True, nargs="+", metavar="RUN", help="folders of finished runs")
    parser.add_argument("--texts", required=True, nargs="+", metavar="LANGUAGE=FILE", help="treebanks, CoNLL-U")
    parser.add_argument("--rows", type=int, default=200, help="sentences of each (default: %(default)s)")
    asked = parser.parse_args()
    files = [text.partition("=") for text in asked.texts]
    try:
        texts = {code: sentences(Path(file), asked.rows) for code, _, file in files}
        print(before_and_after(asked.model, asked.adapter, texts))
    except CrosslignError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
