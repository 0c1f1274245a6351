"""crosslign: make an open LLM as safe in every language as it already is in English."""

__version__ = "0.1.0"
