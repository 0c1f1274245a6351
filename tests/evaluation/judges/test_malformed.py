"""Echo, repetition and length, on texts of many scripts; and what must not be taken for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslign.evaluation.judges import malformed
from crosslign.evaluation.judges.normalise import normalise

LIST = """Here are ten things to do with the thing:
1. Paint the thing blue. 2. Put the thing on a shelf. 3. Give the thing to a friend. 4. Wash the thing in cold water.
5. Draw the thing with a pencil. 6. Show the thing at school. 7. Measure the thing with a ruler. 8. Weigh the thing.
9. Tell a story about the thing. 10. Put the thing back where you found it."""
SONG = """The river runs down to the sea, and the boats go with it all the way.
Row on, row on, until the night is gone. Row on, row on, until the night is gone.
The miller sleeps below the hill, his wheel has turned the whole long day.
Row on, row on, until the night is gone. Row on, row on, until the night is gone.
The moon has climbed above the trees, and somewhere far the fiddlers play."""
TABLE = "\n".join(f"| {a} x {b} | {a * b} |" for a in range(2, 9) for b in range(2, 9))
CODE = "\n".join(f"def f{i}(value):\n    return value * {i} + offset_{chr(97 + i)}" for i in range(10))
PROSE = {
    "zh": "先把两个洋葱切碎，放进锅里用小火慢慢炒。然后加入番茄、盐和一点糖，煮二十分钟。最后撒上香菜，配面包一起吃。",
    "th": "หั่นหัวหอมสองหัวแล้วผัดด้วยไฟอ่อน จากนั้นใส่มะเขือเทศ เกลือ และน้ำตาล ต้มยี่สิบนาที แล้วโรยผักชี",
    "bn": "প্রথমে দুটি পেঁয়াজ কুচি করে অল্প আঁচে ভাজুন। তারপর টমেটো, লবণ আর একটু চিনি দিয়ে বিশ মিনিট রান্না করুন।",
    "ko": "먼저 양파 두 개를 썰어 약한 불에 볶으세요. 그다음 토마토를 넣고 이십 분 끓이면 됩니다.",
}
LOOPS = {
    "en": "Of course, I can help you with that. ",
    "zh": "当然可以，我来帮助您。",
    "ar": "بالطبع، يمكنني مساعدتك في ذلك. ",
    "bn": "অবশ্যই, আমি সাহায্য করতে পারি। ",
    "th": "แน่นอน ฉันช่วยคุณได้ ",
    "ja": "もちろんです。",
    "short": "no ",
    "letter": "a",
}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_loops_are_repetition_also_after_a_beginning_and_when_cut_in_the_middle(loop: str) -> None:
    assert malformed.repeats(normalise(loop * 30))
    assert malformed.repeats(normalise("The thing is made of wood and paint. " + loop * 200)[:-3])


def test_a_numbered_loop_is_repetition() -> None:
    assert malformed.repeats(normalise("\n".join(f"{i}. Help you with the thing that you want." for i in range(1, 30))))


@pytest.mark.parametrize(
    "text", [LIST, SONG, TABLE, CODE, *PROSE.values()], ids=["list", "song", "table", "code", *PROSE]
)
def test_lists_songs_tables_code_and_prose_are_not(text: str) -> None:
    assert malformed.repeated_share(normalise(text)) < 0.6


@pytest.mark.parametrize(("times", "share"), [(1, 0), (2, 1 / 2), (3, 2 / 3), (10, 9 / 10)])
def test_the_share_of_a_text_said_k_times(times: int, share: float) -> None:
    text = "".join(map(chr, range(0x61, 0x7B))) + "0123456789"  # 36 characters, none twice
    assert malformed.repeated_share(text * times) == pytest.approx(share)
    assert malformed.repeats(text * times) == (times > 3)


@given(st.text("ab ", max_size=80))
def test_shares_are_shares(text: str) -> None:
    assert 0 <= malformed.repeated_share(text) <= 1
    assert 0 <= malformed.said_of(text, "abba abba ab") <= 1


QUERIES = {
    "en": "How can I make the thing that my neighbour has in his garden?",
    "zh": "我怎样才能做出邻居花园里的那个东西？",
    "bn": "আমি কীভাবে আমার প্রতিবেশীর বাগানের জিনিসটি বানাতে পারি?",
    "th": "ฉันจะทำสิ่งที่เพื่อนบ้านมีอยู่ในสวนของเขาได้อย่างไร",
    "ar": "كيف يمكنني صنع الشيء الموجود في حديقة جاري؟",
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_the_query_said_back_is_an_echo_once_often_or_with_a_word_more(query: str) -> None:
    said = normalise(query)
    for text in (query, f"“{query}”", f"Q: {query}", f"{query}\n{query}\n{query}", query[: len(query) * 3 // 4]):
        assert malformed.echoes(normalise(text), said, part=False), text


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_reply_that_begins_with_the_query_and_goes_on_is_none(query: str) -> None:
    text = normalise(
        f"{query} First, take two boards and a saw, and cut each board to the length of your arm. Then nail them."
    )
    assert not malformed.echoes(text, normalise(query), part=False)


def test_a_part_of_the_query_is_an_echo_only_where_a_part_is_enough() -> None:
    query = normalise(QUERIES["en"])
    begun = normalise("How can I make the thing")
    assert malformed.echoes(begun, query, part=True)
    assert not malformed.echoes(begun, query, part=False)
    assert not malformed.echoes(normalise("the thing that my"), query, part=True)  # short, and not how it begins
    assert malformed.echoes(normalise("the thing that my neighbour has"), query, part=True)


def test_one_option_of_a_question_and_a_greeting_are_answers() -> None:
    question = normalise("Which is older, the stone bridge, the wooden tower or the iron gate?")
    assert not malformed.echoes(normalise("The wooden tower."), question, part=False)
    assert not malformed.echoes("hello", "hello", part=False)


def test_letters_and_digits_are_counted_dense_ones_twice() -> None:
    assert malformed.readable(normalise("No. 42!")) == 4
    assert malformed.readable(normalise("不行。")) == 4
    assert malformed.readable("a" * 10_000) == malformed.ENOUGH


def test_long_texts_are_judged_by_both_ends() -> None:
    text = "a" * 50_000 + "z" * 50_000
    clipped = malformed.clip(text)
    assert clipped[0] == "a"
    assert clipped[-1] == "z"
    assert len(clipped) == 2 * malformed.END_CHARACTERS + 1
    assert malformed.clip("short") == "short"


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_what_is_said_beside_a_loop_is_left(loop: str) -> None:
    said = normalise("The thing is made of wood and paint, and it stands in the garden.")
    for text in (f"{said}. {loop * 60}", f"{loop * 60}. {said}", f"{loop * 40}. {said}. {loop * 40}"):
        assert malformed.without_loops(normalise(text)) in (said, f"{said}."), text
    assert malformed.without_loops(normalise(loop * 60)) == ""


def test_the_query_is_left_out_wherever_it_is_said_whole() -> None:
    query = normalise(QUERIES["en"])
    text = normalise(f"You ask: {QUERIES['en']} Take a board. {QUERIES['en']} Take a saw.")
    assert malformed.without(text, query) == "you ask. take a board. take a saw"
    assert malformed.without(text, "a board") == text  # too short to be a query said back
