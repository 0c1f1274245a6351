"""How much text of a language the web holds: the groups that results are reported by.

MultiJail's nine languages stand where its paper puts them (Deng et al., 2023, arXiv 2310.06474: high above 1 % of
Common Crawl, medium above 0.1 %, low below). Its list ends there, so every other language takes its class from Joshi
et al. (2020, "The State and Fate of Linguistic Diversity and Inclusion in the NLP World", file lang2tax.txt): classes 4
and 5 are high, 3 is medium, 0 to 2 are low. The two sources disagree on some of the nine (Arabic is class 5, Korean 4,
Bengali 3); there the paper is followed, because results are compared with its tables.

English stands apart: it is the language that safety comes from, and belongs to no group.
"""

from __future__ import annotations

from collections.abc import Iterable

from crosslign.languages import likely_form

LEVELS = ("high", "medium", "low")
_MULTIJAIL = {"high": "zh it vi", "medium": "ar ko th", "low": "bn sw jv"}
_JOSHI: dict[int, str] = {
    5: "de es fr ja",
    4: "ca cs eu fa fi hi hr hu nl pl pt ru sr sv tr",
    3: "af be bg bs ceb da el et fil gl he id ind ka kk la lt lv ms ro sk sl ta tl uk ur uz",
    2: "am ga ha ht is lo mr mt pa sa ti tn wo xh yo zu",
    1: "as az cy gu hy ig kn km ky lb mk ml mn my ne om or ps rw sd so sq su te tg tk tt ug",
    0: "si",
}
RESOURCE_LEVEL: dict[str, str] = {
    **{
        code: "high" if joshi >= 4 else "medium" if joshi == 3 else "low"
        for joshi, codes in _JOSHI.items()
        for code in codes.split()
    },
    **{code: level for level, codes in _MULTIJAIL.items() for code in codes.split()},
}


def resource_groups(codes: Iterable[str]) -> dict[str, list[str]]:
    """The languages of each level, in the given order; a level that has none is left out.

    A code with a region or script counts as its language ("pt-BR" as "pt"), and "cmn" as "zh". English, and languages
    without a known level, are in no group.
    """
    groups: dict[str, list[str]] = {level: [] for level in LEVELS}
    for code in dict.fromkeys(codes):
        names = (code, code.split("-")[0].lower(), likely_form(code).split("-")[0])
        level = next((RESOURCE_LEVEL[name] for name in names if name in RESOURCE_LEVEL), None)
        if level is not None:
            groups[level].append(code)
    return {level: members for level, members in groups.items() if members}
