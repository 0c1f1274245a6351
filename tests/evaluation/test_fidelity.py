"""Language fidelity: match, other, unknown; what is stripped; texts that break things."""

from __future__ import annotations

import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from crosslign.evaluation.fidelity import (
    MIN_LETTERS,
    FidelityResult,
    LanguageFidelity,
    known_languages,
)
from crosslign.types import CrosslignError, JudgeItem, Query

# The same harmless sentences in each language.
TEXT = {
    "en": "The library opens at nine in the morning and closes at six. Children can borrow three books at a time.",
    "bn": "গ্রন্থাগারটি সকাল নয়টায় খোলে এবং সন্ধ্যা ছয়টায় বন্ধ হয়। শিশুরা একবারে তিনটি বই ধার নিতে পারে।",
    "zh": "图书馆早上九点开门，晚上六点关门。孩子们一次可以借三本书，两个星期以后归还。",
    "sw": "Maktaba hufunguliwa saa tatu asubuhi na kufungwa saa kumi na mbili. Watoto wanaweza kuazima vitabu vitatu.",
    "ar": "تفتح المكتبة أبوابها في التاسعة صباحا وتغلق في السادسة مساء. يمكن للأطفال استعارة ثلاثة كتب.",
    "th": "ห้องสมุดเปิดเวลาเก้าโมงเช้าและปิดเวลาหกโมงเย็น เด็กๆ สามารถยืมหนังสือได้ครั้งละสามเล่ม",
    "jv": "Perpustakaan iki mbukak jam sanga esuk lan nutup jam enem sore. Bocah-bocah bisa nyilih telung buku.",
    "ko": "도서관은 아침 아홉 시에 문을 열고 저녁 여섯 시에 닫습니다. 어린이는 책을 세 권 빌릴 수 있습니다.",
    "id": "Perpustakaan itu dibuka pukul sembilan pagi dan ditutup pukul enam sore. Anak-anak boleh meminjam buku.",
    "ja": "図書館は朝九時に開き、夕方六時に閉まります。子どもは一度に三冊まで本を借りることができます。",
    "ur": "کتب خانہ صبح نو بجے کھلتا ہے اور شام چھ بجے بند ہوتا ہے۔ بچے ایک وقت میں تین کتابیں لے سکتے ہیں۔",
}
LANGUAGES = ["bn", "zh", "sw", "ar", "th", "jv", "ko"]


def test_thoughts_are_not_the_answer(fidelity: LanguageFidelity) -> None:
    query = Query("q", "sw", "swali", "en", "question")
    thinking = f"<think>{3 * TEXT['en']}</think>\n\n{TEXT['sw']}"
    assert [r.status for r in fidelity.measure([JudgeItem(query, TEXT["sw"]), JudgeItem(query, thinking)])] == [
        "match",
        "match",
    ]


@pytest.fixture(scope="module")
def fidelity() -> LanguageFidelity:
    return LanguageFidelity(LANGUAGES, "en")


@pytest.mark.parametrize("language", [*LANGUAGES, "en"])
def test_an_answer_in_the_querys_language_matches(fidelity: LanguageFidelity, language: str) -> None:
    result = fidelity.detect(TEXT[language], language)
    assert (result.detected, result.status) == (language, "match")
    assert result.probability is not None
    assert result.probability >= 0.8


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_answer_in_the_source_language_is_other(fidelity: LanguageFidelity, language: str) -> None:
    result = fidelity.detect(TEXT["en"], language)
    assert (result.detected, result.status) == ("en", "other")


@pytest.mark.parametrize(
    ("languages", "asked", "answered"),
    [
        (["bn"], "en", "zh"),  # restricted to bn and en, the library alone says en with probability 1
        (["bn"], "bn", "ja"),
        (LANGUAGES, "jv", "id"),  # here it says jv
        (["ar"], "ar", "ur"),
        (["zh"], "zh", "ja"),
    ],
)
def test_an_answer_in_none_of_the_languages_is_no_match(languages: list[str], asked: str, answered: str) -> None:
    result = LanguageFidelity(languages, "en").detect(TEXT[answered], asked)
    assert result.status == "other"
    assert result.detected not in {"en", asked}
    assert result.probability is not None
    assert result.probability > 0.9


def test_within_the_candidates_the_decision_is_the_librarys_own(fidelity: LanguageFidelity) -> None:
    """An independent computation: `set_languages` on another instance."""
    restricted = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    restricted.set_languages(sorted({*LANGUAGES, "en"}))
    for language in [*LANGUAGES, "en"]:
        words = "".join(c for c in TEXT[language] if c not in "-")
        label, probability = restricted.classify(words)
        result = fidelity.detect(words, language)
        assert result.detected == label
        assert result.probability == pytest.approx(probability, abs=1e-5)


def test_a_task_does_not_restrict_the_next_one() -> None:
    LanguageFidelity(["bn"], "en")
    assert LanguageFidelity(["sw"], "en").detect(TEXT["sw"], "sw").status == "match"


def test_short_text_is_unknown_and_has_no_probability(fidelity: LanguageFidelity) -> None:
    for text in ("", "OK.", "Sorry, no.", "না।", "抱歉。", "12 + 34 = 46"):
        assert fidelity.detect(text, "en") == FidelityResult(None, "unknown", None)


def test_fewer_characters_are_enough_in_chinese_japanese_and_korean(fidelity: LanguageFidelity) -> None:
    text = "抱歉我无法回答这个"
    assert len(text) < MIN_LETTERS
    assert fidelity.detect(text, "zh").status == "match"


def test_text_between_two_languages_is_unknown() -> None:
    # Two neighbours that share most of their words.
    result = LanguageFidelity(["id", "ms"], "en").detect("Semua orang berhak atas makanan dan minuman.", "id")
    assert result.status == "unknown"
    assert result.probability is not None
    assert result.probability < 0.8


@pytest.mark.parametrize(
    "wrapped",
    [
        "{}\n```python\nfor item in collection:\n    print(item, 'a long line of English words')\n```",
        "{}\n```\nan open fence: the rest of the answer is code with plenty of English words that never ends",
        "<p class='plain English attributes here'>{}</p><script>var english = 'words and words';</script>",
        "https://example.org/plain/english/words/in/an/address {} someone.with.a.name@example.org",
        r"\[ \text{{where the sum of all parts is equal to the whole}} = 3 \] {}",
        "1234567890 ০১২৩৪৫৬৭৮৯ {} 3.14159",
        "## **{}**",
    ],
)
def test_what_is_not_language_is_left_out(fidelity: LanguageFidelity, wrapped: str) -> None:
    assert fidelity.detect(wrapped.format(TEXT["sw"]), "sw").status == "match"
    assert fidelity.detect(wrapped.format(""), "sw") == FidelityResult(None, "unknown", None)


def test_tildes_in_prose_are_no_code(fidelity: LanguageFidelity) -> None:
    assert fidelity.detect("네~~~ " + TEXT["ko"], "ko").status == "match"


def test_codes_are_understood_in_every_spelling() -> None:
    fidelity = LanguageFidelity(["zh-Hant", "ind", "swh", "pt-BR", "fil"], "en-US")
    for code, text in (
        ("zh-Hant", TEXT["zh"]),  # variants of Chinese are one language to the library
        ("ind", TEXT["id"]),
        ("swh", TEXT["sw"]),
        ("en-US", TEXT["en"]),
        ("pt-BR", "A biblioteca abre às nove da manhã e fecha às seis. As crianças podem levar três livros."),
        (
            "fil",
            "Bukas ang aklatan mula alas nuwebe ng umaga hanggang alas sais ng gabi. Puwedeng humiram.",
        ),
    ):
        assert fidelity.detect(text, code).detected == code
        assert fidelity.detect(text, code).status == "match"
    assert fidelity.detect(TEXT["id"], "swh").detected == "ind"


def test_a_language_the_library_does_not_know_is_unknown_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    assert "ceb" not in known_languages()
    with caplog.at_level(logging.WARNING):
        fidelity = LanguageFidelity(["ceb", "sw"], "en")
        for _ in range(3):
            assert fidelity.detect(TEXT["sw"], "ceb") == FidelityResult(None, "unknown", None)
    assert [r.getMessage() for r in caplog.records if "ceb" in r.getMessage()] == [caplog.records[0].getMessage()]
    assert fidelity.detect(TEXT["sw"], "sw").status == "match"


def test_known_languages_has_those_of_the_usual_benchmarks() -> None:
    usual = "en zh it vi ar ko th bn sw jv hi ur ne id ms ja de fr es ru te yo zu am"
    assert set(usual.split()) <= set(known_languages())


def test_a_language_that_the_task_lacks_is_an_error(fidelity: LanguageFidelity) -> None:
    with pytest.raises(CrosslignError, match="'fr' is none of the task's languages"):
        fidelity.detect(TEXT["en"], "fr")
    with pytest.raises(CrosslignError, match="not a language code"):
        LanguageFidelity(["not a code"], "en")


def test_measure_keeps_the_order(fidelity: LanguageFidelity) -> None:
    items = [
        JudgeItem(Query(str(i), language, "?", "en", "?"), text)
        for i, (language, text) in enumerate([("bn", TEXT["bn"]), ("bn", TEXT["en"]), ("sw", "hm")])
    ]
    assert [r.status for r in fidelity.measure(items)] == ["match", "other", "unknown"]
    assert fidelity.measure([]) == []


@pytest.mark.parametrize(
    "text",
    [
        "\0" * 50,
        "\ud800\udfff" * 50,
        TEXT["sw"].replace(" ", "\0"),
        "\u202e" + TEXT["ar"] + "\u202c",
        "\u0301" * 200,
        "🙂" * 200,
        "zzzz qqqq xxxx vvvv kkkk jjjj",
    ],
)
def test_odd_texts_do_not_break_it(fidelity: LanguageFidelity, text: str) -> None:
    assert fidelity.detect(text, "sw").status in {"match", "other", "unknown"}


def test_right_to_left_marks_and_nul_do_not_hide_the_language(fidelity: LanguageFidelity) -> None:
    assert fidelity.detect("\u202b" + TEXT["ar"] + "\u202c\0\ud800", "ar").status == "match"


def test_no_repetition_makes_it_slow(fidelity: LanguageFidelity) -> None:
    """0.1 s of processor time together; a pattern that is quadratic in the text takes more than a second alone."""
    units = "``` | <script | $$ | a@ | \\( | \\[ | < | ` | w. | www. | ~~~\n | 你 | a | https://"
    start = time.process_time()
    for unit in units.split("|"):
        for repeated in (unit, unit.strip()):
            fidelity.detect(repeated * (100_000 // len(repeated)), "en")
    assert time.process_time() - start < 1


@given(st.text(st.characters(), max_size=300))
def test_any_text_gives_a_consistent_result(text: str) -> None:
    result = SHARED.detect(text, "bn")
    assert (result.status == "match") == (result.detected == "bn")
    assert (result.detected is None) == (result.status == "unknown")
    assert result.probability is None or 0 <= result.probability <= 1.0001


SHARED = LanguageFidelity(["bn", "zh", "fr"], "en")


def test_the_identity_says_what_the_results_depend_on() -> None:
    one, other = LanguageFidelity(["bn"], "en").identity(), LanguageFidelity(["sw"], "en").identity()
    assert one != other
    assert one == LanguageFidelity(["bn", "en"], "en").identity()
