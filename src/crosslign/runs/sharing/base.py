"""What a base model's own card says of it: its name on the hub and its licence."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import hf_hub_download
from pydantic import BaseModel, Field

from crosslign.models import ModelSource
from crosslign.runs.folder import CARD
from crosslign.types import CrosslignError
from crosslign.untrusted import parse_yaml, read_text

HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
LICENCE = r"^[a-z0-9][a-z0-9.-]{0,60}$"
LICENCE_NAME = r"^[A-Za-z0-9][A-Za-z0-9 .,+()-]{0,100}$"
LICENCE_LINK = r"^https://[A-Za-z0-9./~%_-]{1,300}$"


class BaseFacts(BaseModel):
    """What a run's record says of its base model.

    Fields:
        name: a hub id, or a folder's or file's own name.
        license: as the base model's card says, with `license_name` and `license_link` where it is none that the hub
            knows. None: it does not say, or says what is no such thing.
    """

    name: str
    kind: Literal["hub", "folder", "gguf"]
    license: str | None = Field(None, pattern=LICENCE)
    license_name: str | None = Field(None, pattern=LICENCE_NAME)
    license_link: str | None = Field(None, pattern=LICENCE_LINK)


def base_facts(source: ModelSource) -> BaseFacts:
    """The card of a hub model is fetched. One that cannot be had, or whose folder is gone, says nothing."""
    kind: Literal["hub", "folder", "gguf"] = "folder"
    with contextlib.suppress(CrosslignError):
        kind = source.kind
    name = source.path if kind == "hub" else Path(source.path).absolute().name
    said = _metadata(source, kind)
    patterns = {"license": LICENCE, "license_name": LICENCE_NAME, "license_link": LICENCE_LINK}
    stated = {key: str(said.get(key) or "") for key in patterns}
    stated = {key: value for key, value in stated.items() if re.fullmatch(patterns[key], value)}
    return BaseFacts(name=name, kind=kind, **(stated if "license" in stated else {}))


def _metadata(source: ModelSource, kind: str) -> dict[str, Any]:
    """The YAML at the head of the model's card; {} if there is none that can be read."""
    try:
        if kind == "hub":
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
