"""The documentation site: `make docs` builds it. docs/building.md says how and why."""

from __future__ import annotations

import sys
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.highlighting import lexers

sys.path.insert(0, str(Path(__file__).parent))

from generated_pages import PAGES, formulas_as_they_stand

import crosslign

project, author = "crosslign", "the crosslign authors"
version = release = crosslign.__version__
copyright = author

# The source folder is the repository, so links between docs/, benchmarks/ and the README lead to the same place on
# GitHub and on the site.
root_doc = "docs/index"
include_patterns = ["docs/*.md", "benchmarks/*.md", "*.md"]
exclude_patterns = [".*", "build", "dist", "runs", "src", "tests"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4

default_role = "code"  # docstrings write code in single backticks
napoleon_custom_sections = [("Fields", "params_style")]
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

lexers["csv"] = TextLexer()  # Pygments has none for it

html_theme = "furo"
html_title = "crosslign"
html_extra_path = ["_root"]  # index.html, which leads to docs/index.html
html_copy_source = False
linkcheck_anchors = False


def setup(app):  # type: ignore[no-untyped-def]
    app.connect("source-read", lambda app, page, source: source.append(source.pop() + PAGES.get(page, str)()))
    app.connect("autodoc-process-docstring", formulas_as_they_stand, priority=400)  # before napoleon reads it
