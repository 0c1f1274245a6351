"""What a base model's own card says of it: its name on the hub and its licence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from crosslign.evaluation.tables import one_line, short_names
from crosslign.models import ModelSource
from crosslign.runs.folder import CARD
from crosslign.types import CrosslignError
from crosslign.untrusted import parse_yaml, read_text

HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}")
_LINK = re.compile(r"https://[\w./~%-]{1,300}", re.ASCII)


def base_facts(source: ModelSource) -> dict[str, str | None]:
    """For a run's record: `name` (a hub id, or a folder's or file's own name), `kind`, and what the model's card says:
    `license`, with `license_name` and `license_link` where it is none that the hub knows. None: it does not say.

    The card of a hub model is fetched, and is taken for silent if that fails.
    """
    name = source.path if source.kind == "hub" else short_names([source.path])[source.path]
    said = _metadata(source)
    given = said.get("license")
    licence = given if isinstance(given, str) and _LICENCE.fullmatch(given) else None
    found: dict[str, str | None] = {"name": name, "kind": source.kind, "license": licence}
    if licence is not None:
        own, link = said.get("license_name"), said.get("license_link")
        found["license_name"] = one_line(own)[:100] if isinstance(own, str) else None
        found["license_link"] = link if isinstance(link, str) and _LINK.fullmatch(link) else None
    return found


def _metadata(source: ModelSource) -> dict[str, Any]:
    """The YAML at the head of the model's card; {} if there is none that can be read."""
    try:
        if source.kind == "hub":
            place = Path(hf_hub_download(source.path, CARD, revision=source.revision))
        else:
            place = Path(source.path) / CARD
        head = re.match(r"\s*---\n(.*?)\n---(\n|$)", read_text(place), re.DOTALL)
        found = parse_yaml(head[1], place) if head else None
    except CrosslignError:
        return {}
    except Exception:  # the hub client raises many kinds: no network, a gated model, no card
        return {}
    return found if isinstance(found, dict) else {}
