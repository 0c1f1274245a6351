"""Query tables in more languages: translators, and checks of what they give. docs/translate.md."""

from crosslign.translation import apertium, endpoint, scripted, seq2seq
from crosslign.translation.base import Keep, Translation, Translator
from crosslign.translation.registry import TranslatorSettings, translators
from crosslign.translation.scripted import ScriptedTranslator

__all__ = [
    "Keep",
    "ScriptedTranslator",
    "Translation",
    "Translator",
    "TranslatorSettings",
    "apertium",
    "endpoint",
    "scripted",
    "seq2seq",
    "translators",
]
