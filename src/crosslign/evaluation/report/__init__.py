"""One self-contained HTML page from results.json and paired transcripts."""

from crosslign.evaluation.report.html import render_report, write_report
from crosslign.evaluation.report.transcripts import Side, Transcript

__all__ = ["Side", "Transcript", "render_report", "write_report"]
