"""What leaves a machine says nothing of it: no folders, no addresses of servers, no names of variables with keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from crosslign.evaluation.tables import short_names
from crosslign.runs.config import RunConfig
from crosslign.runs.recipe import read_recipe

# The folders of an absolute path, also within a sentence. Addresses (https://...) and hub ids (owner/name) stay.
_FOLDERS = re.compile(r"(?<![\w./\\-])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\",;]+[/\\])+(?=[^\s/\\])")
_SERVERS = ("url", "api_key_env")  # keys that say how a server is reached
# Sections and keys of a recipe that say where a run took place, not what it was.
_PLACES = ("output_dir", "cache_dir", "rollouts")
_NOTE = "# The run's recipe. Files are named without their folders: put your own paths in.\n"


def without_folders(value: Any) -> Any:
    """JSON-like data with file names in the place of paths."""
    if isinstance(value, str):
        return _bare(value)
    if isinstance(value, (list, tuple)):
        return [without_folders(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    names = {key: _bare(key) for key in value}
    if len(set(names.values())) < len(names):
        names = short_names(value)
    shared = {names[key]: without_folders(item) for key, item in value.items() if key not in _SERVERS}
    return {**shared, "endpoint": "a server"} if shared.get("endpoint") else shared


def _bare(text: str) -> str:
    if re.match(r"[/\\~]|[A-Za-z]:[/\\]", text) and "\n" not in text:
        return re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    return _FOLDERS.sub("", text)


def recipe_text(config: RunConfig) -> str:
    """A recipe that repeats the run once its files are named; a template of the user's own stands in it."""
    raw = config.model_dump(mode="json", exclude=set(_PLACES))
    template = config.teacher.template
    if isinstance(template, str) and Path(template).is_file():
        raw["teacher"]["template"] = read_recipe(template)
    return _NOTE + yaml.safe_dump(without_folders(raw), sort_keys=False, allow_unicode=True)
