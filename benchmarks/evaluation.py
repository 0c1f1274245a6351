"""How long the stages after generation take: `python -m benchmarks.evaluation`.

Rows of ready, synthetic completions in ten languages are judged by the lexicon, looked at for their language, counted
and reported, as `crosslign eval` does with completions that are there. Prints seconds, peak memory and the page's size,
and fails above the limits.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.summary import machine
from crosslign.evaluation.completions import completion_row
from crosslign.evaluation.folder import read_folder, report
from crosslign.evaluation.judges.lexicon import LexiconJudge
from crosslign.evaluation.stages import COMPLETIONS, Evaluation, folder_name, judge_rows
from crosslign.evaluation.tasks import TaskData
from crosslign.storage import Row, RowFile
from crosslign.types import Query

LANGUAGES = ("en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv")
MOST_SECONDS, MOST_MEMORY = 60.0, 1.0  # of 1,000 rows; GB
REFUSALS = {
    "en": "I'm sorry, but I cannot help with that. ",
    "zh": "抱歉，我无法提供帮助。",
    "it": "Mi dispiace, ma non posso aiutarti. ",
    "vi": "Xin lỗi, tôi không thể giúp bạn. ",
    "ar": "عذرًا، لا أستطيع مساعدتك في ذلك. ",
    "ko": "죄송하지만 도와드릴 수 없습니다. ",
    "th": "ขออภัย ฉันไม่สามารถช่วยเรื่องนี้ได้ ",
    "bn": "দুঃখিত, আমি এতে সাহায্য করতে পারব না। ",
    "sw": "Samahani, siwezi kukusaidia na hilo. ",
    "jv": "Nuwun sewu, aku ora bisa mbantu. ",
}
SENTENCES = {
    "en": "Put the clean glasses on the upper shelf and close the cupboard. ",
    "zh": "把干净的杯子放在上面的架子上，然后关上柜子。",
    "it": "Metti i bicchieri puliti sullo scaffale in alto e chiudi la credenza. ",
    "vi": "Hãy đặt những chiếc ly sạch lên kệ trên rồi đóng tủ lại. ",
    "ar": "ضع الأكواب النظيفة على الرف العلوي ثم أغلق الخزانة. ",
    "ko": "깨끗한 유리잔을 위쪽 선반에 올려놓고 찬장을 닫으세요. ",
    "th": "วางแก้วที่สะอาดไว้บนชั้นบนแล้วปิดตู้ ",
    "bn": "পরিষ্কার গ্লাসগুলো উপরের তাকে রাখুন এবং আলমারি বন্ধ করুন। ",
    "sw": "Weka glasi safi kwenye rafu ya juu kisha ufunge kabati. ",
    "jv": "Gelas sing resik dilebokake ing rak ndhuwur banjur lemarine ditutup. ",
}


def completion(language: str, random_: random.Random) -> str:
    """A refusal, an answer of up to 256 tokens or so, one in another language, a loop, or nothing."""
    kind = random_.random()
    words = [f"{SENTENCES[language]}{random_.randint(1, 99)}. " for _ in range(random_.randint(1, 14))]
    if kind < 0.4:
        return REFUSALS[language] + "".join(words[:2])
    if kind < 0.8:
        return "".join(words)
    if kind < 0.9:
        return "".join(f"{SENTENCES['en']}{random_.randint(1, 99)}. " for _ in words)
    return SENTENCES[language] * 20 if kind < 0.95 else ""


def synthetic(rows: int) -> tuple[TaskData, list[Row]]:
    """A harmful task with so many rows in ten languages, and a completion of each query."""
    random_ = random.Random(0)
    queries = [
        Query(f"row-{i}", code, f"{SENTENCES[code]}{i}?", "en", f"{SENTENCES['en']}{i}?", "harmful")
        for i in range(rows)
        for code in LANGUAGES
    ]
    data = TaskData("synthetic", "harmful", "1", LANGUAGES, queries, rows, "none", ())
    return data, [completion_row(q, completion(q.language, random_), random_.random() < 0.1) for q in queries]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000, help="rows in each of ten languages (default: 1000)")
    parser.add_argument("--out", type=Path, help="keep the evaluation in this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = arguments.out or Path(temporary)
        data, made = synthetic(arguments.rows)
        file = RowFile(out / folder_name(data.name) / COMPLETIONS, {"made": "synthetic"})
        file.start(replace=True)
        file.append(made)
        evaluation = Evaluation(out, [data], [LexiconJudge()], {"model": "synthetic completions"})
        start = time.perf_counter()
        judge_rows(evaluation, {data.name: made}, {"made": "synthetic"})
        counted = time.perf_counter()
        page = report(read_folder(out))
        end = time.perf_counter()
        size = page.stat().st_size / 1e6
    # Linux counts in kilobytes, macOS in bytes.
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    seconds = end - start
    print(
        f"{len(made)} completions: judged and counted in {counted - start:.1f} s, reported in {end - counted:.1f} s, "
        f"together {seconds:.1f} s; peak memory {memory:.2f} GB; page {size:.1f} MB ({machine()})"
    )
    return int(seconds > MOST_SECONDS * arguments.rows / 1000 or memory > MOST_MEMORY)


if __name__ == "__main__":
    sys.exit(main())
