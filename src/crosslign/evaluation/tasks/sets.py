"""The published sets that are tables: where they are, at which revision, and how their columns read.

A revision is pinned where the commit could be looked up; the file names and columns are the pinned commit's.
"""

from __future__ import annotations

from collections.abc import Mapping

from crosslign.evaluation.tasks.base import Source, Task, registry
from crosslign.evaluation.tasks.readers import Long, Wide, always, text_of
from crosslign.types import Label

POLYGUARD_LANGUAGES = {
    "English": "en", "Arabic": "ar", "Chinese": "zh", "Czech": "cs", "Dutch": "nl", "French": "fr", "German": "de",
    "Hindi": "hi", "Italian": "it", "Japanese": "ja", "Korean": "ko", "Polish": "pl", "Portuguese": "pt",
    "Russian": "ru", "Spanish": "es", "Swedish": "sv", "Thai": "th",
}  # fmt: skip
LABELS_SAID: Mapping[str, Label] = {
    "harmful": "harmful", "unsafe": "harmful", "benign": "benign", "safe": "benign", "unharmful": "benign",
}  # fmt: skip


@registry.register("multijail")
def multijail() -> Task:
    """315 harmful queries, translated by native speakers into nine languages."""
    return Task(
        name="multijail",
        kind="harmful",
        languages=("en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv"),
        source=Source("DAMO-NLP-SG/MultiJail", "189375ca64f5c09f8db2b22f833c57c4418c55ab", ("MultiJail.csv",)),
        licence="MIT",
        citation="Deng et al., Multilingual Jailbreak Challenges in Large Language Models, ICLR 2024, arXiv 2310.06474",
        reader=Wide(category=("tags", "category")),
    )


@registry.register("pku_saferlhf_multilingual")
def pku_saferlhf_multilingual() -> Task:
    """Prompts of PKU-SafeRLHF in translation: JSON lines with `prompt` in English and `prompt_zh`, `prompt_sw`, ...

    The original repeats a prompt for each pair of answers; repetitions are left out.
    """
    return Task(
        name="pku_saferlhf_multilingual",
        kind="harmful",
        languages=(),
        source=Source(
            files=("prompts.jsonl",),
            elsewhere="It is JSON lines with the English prompt in `prompt` and translations in `prompt_zh`, "
            "`prompt_sw` and so on; the English prompts are those of PKU-Alignment/PKU-SafeRLHF.",
        ),
        licence="CC-BY-NC-4.0 (PKU-SafeRLHF)",
        citation="Ji et al., PKU-SafeRLHF: Towards Multi-Level Safety Alignment for LLMs, 2024, arXiv 2406.15513",
        reader=Wide(english=("prompt", "prompt_en", "en"), prefix="prompt_", category=("category", "harm_category")),
    )


@registry.register("advbench_x")
def advbench_x() -> Task:
    """The 520 harmful behaviours of AdvBench in translation: a table with one column a language."""
    return Task(
        name="advbench_x",
        kind="harmful",
        languages=(),
        source=Source(
            files=("advbench_x.csv",),
            elsewhere="It is a table with one column a language (en or goal, zh, ko, th, sw, ...).",
        ),
        licence="MIT (AdvBench)",
        citation="Zou et al., Universal and Transferable Adversarial Attacks on Aligned Language Models, 2023, "
        "arXiv 2307.15043 (AdvBench)",
        reader=Wide(english=("en", "goal", "prompt"), prefix="prompt_"),
    )


def _polyguard_label(record: Mapping[str, object]) -> Label:
    """`prompt_harm_label` is the annotators'; `prompt_label` the same in other words, where that is missing."""
    said = text_of(record.get("prompt_harm_label")).lower() or text_of(record.get("prompt_label")).lower()
    return LABELS_SAID.get(said, "unlabelled")


@registry.register("polyguard_prompts")
def polyguard_prompts() -> Task:
    """1,725 prompts of WildGuardTest in 17 languages, harmful and harmless."""
    return Task(
        name="polyguard_prompts",
        kind="mixed",
        languages=tuple(POLYGUARD_LANGUAGES.values()),
        source=Source(
            "ToxicityPrompts/PolyGuardPrompts",
            "c5b466a95b64ff121db4398246b6abb7672696ec",
            ("data/test-00000-of-00001.parquet",),
        ),
        licence="CC-BY-4.0",
        citation="Kumar et al., PolyGuard: A Multilingual Safety Moderation Tool for 17 Languages, 2025, "
        "arXiv 2504.04377",
        reader=Long(POLYGUARD_LANGUAGES, label=_polyguard_label, category=("subcategory", "prompt_categories")),
    )


def _xstest_label(record: Mapping[str, object]) -> Label:
    """The contrast prompts are harmful; copies without a column `label` mark them in `type`."""
    kind = text_of(record.get("type"))
    by_kind: Label = "unlabelled" if not kind else "harmful" if kind.startswith("contrast_") else "benign"
    return LABELS_SAID.get(text_of(record.get("label")).lower(), by_kind)


@registry.register("xstest")
def xstest() -> Task:
    """250 harmless prompts that look harmful, and 200 harmful contrasts; in English, or a translated file."""
    return Task(
        name="xstest",
        kind="mixed",
        languages=("en",),
        source=Source("Paul/XSTest", "f600c994b256f12867dfa5b3eb3d545a3e62f8b5", ("xstest_prompts.csv",)),
        licence="CC-BY-4.0",
        citation="Röttger et al., XSTest: A Test Suite for Identifying Exaggerated Safety Behaviours in Large Language "
        "Models, NAACL 2024, arXiv 2308.01263",
        reader=Wide(english=("prompt", "en"), prefix="prompt_", label=_xstest_label, category=("type", "category")),
    )


@registry.register("or_bench")
def or_bench() -> Task:
    """OR-Bench's hard 1,319: harmless prompts that models refuse; in English, or a translated file."""
    return Task(
        name="or_bench",
        kind="benign",
        languages=("en",),
        source=Source("bench-llm/or-bench", "e36d8b80e81837c8a8f264bbb2a49f1b32c7e272", ("or-bench-hard-1k.csv",)),
        licence="CC-BY-4.0",
        citation="Cui et al., OR-Bench: An Over-Refusal Benchmark for Large Language Models, 2024, arXiv 2405.20947",
        reader=Wide(english=("prompt", "en"), prefix="prompt_", label=always("benign")),
    )
