"""`crosslign push`: the files of a finished run, or of a merged model, that others may have, to the hub.

What goes is on a list: weights, configuration, tokenizer, card, recipe, numbers. What is not on it stays: rollouts, the
gate's and the judges' rows, checkpoints, caches, logs. Files that name this machine's folders go without them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from crosslign.models import ModelSource, check_source
from crosslign.models.adapter import ADAPTER_WEIGHTS
from crosslign.models.files import ADAPTER_CONFIG, CODE, INDEX, WEIGHTS, weight_files
from crosslign.runs.folder import CARD, NUMBERS
from crosslign.runs.sharing.card import BLANK
from crosslign.runs.sharing.evidence import read_numbers
from crosslign.runs.sharing.finished import read_finished
from crosslign.runs.sharing.merge import RECIPE, is_merged, tokenizer_files
from crosslign.runs.sharing.outward import recipe_text, without_folders
from crosslign.storage import MANIFEST, damaged_files
from crosslign.types import Announce, CrosslignError, Interrupted, cause, silent
from crosslign.untrusted import read_json, read_text

_SMALL = ("config.json", "generation_config.json")


@dataclass(frozen=True)
class Shared:
    """A file as it goes to the hub: one that is here, or its content without this machine's folders."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


def shared_files(folder: Path) -> list[Shared]:
    """What `push` sends of a run's folder, of its `best/`, or of a merged model.

    Raises CrosslignError if it is none of these, is damaged, or has no card.
    """
    own: dict[str, Path | bytes] = {}
    if is_merged(folder):
        if damaged := damaged_files(folder):
            raise CrosslignError(f"{folder}: is not as crosslign merge wrote it: {'; '.join(damaged)}. Merge again.")
        names = [*_model(folder), RECIPE, MANIFEST]
    else:
        run = read_finished(folder)
        names = [ADAPTER_WEIGHTS] if run.is_adapter else _model(folder)
        own[RECIPE] = recipe_text(run.config).encode()
        if run.is_adapter:
            said = without_folders(read_json(folder / ADAPTER_CONFIG))
            own[ADAPTER_CONFIG] = (json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode()
    card = folder / CARD
    if not card.is_file() or BLANK in read_text(card, "FILE_MB"):
        raise CrosslignError(f"{folder}: has no model card. Write it first: crosslign card {folder}")
    names += [CARD, *([NUMBERS] if read_numbers(folder) else [])]
    own |= {name: folder / name for name in names}
    own |= {file.relative_to(folder).as_posix(): file for file in tokenizer_files(folder)}
    if links := [name for name, content in own.items() if isinstance(content, Path) and content.is_symlink()]:
        raise CrosslignError(f"{folder / links[0]}: is a link, and is not sent. Put the file itself there.")
    for name in ("config.json", "tokenizer_config.json"):
        if isinstance(file := own.get(name), Path) and (changed := _without_its_path(file)) is not None:
            own[name] = changed
    return [Shared(name, own[name]) for name in sorted(own)]


def _without_its_path(file: Path) -> bytes | None:
    """The file without the folder that the model or tokenizer was loaded from; None if it names none."""
    raw = read_json(file, "MODEL_FILE_MB")
    said = {key: without_folders(raw[key]) for key in ("_name_or_path", "name_or_path") if key in raw}
    if all(raw[key] == value for key, value in said.items()):
        return None
    return (json.dumps({**raw, **said}, indent=2, ensure_ascii=False) + "\n").encode()


def _model(folder: Path) -> list[str]:
    """The names of a whole model's files."""
    check_source(ModelSource(str(folder)))
    index = [] if (folder / WEIGHTS).is_file() else [INDEX]
    code = sorted(file.name for file in folder.glob(CODE)) if "auto_map" in read_json(folder / "config.json") else []
    return [file.name for file in weight_files(folder)] + index + [n for n in _SMALL if (folder / n).is_file()] + code


def push(folder: Path, repo: str, *, public: bool = False, overwrite: bool = False, announce: Announce = silent) -> str:
    """Send the files in one commit; returns the repository's address. The token is the environment's or the login's.

    Args:
        repo: "owner/name". It is made, private unless `public`.
        overwrite: go on where the repository is there and holds files already; others than these stay.

    Raises CrosslignError for a wrong name, no token, a public repository where a private one was asked for, one that
    holds files, or what the hub refuses.
    """
    check_repo(repo)
    files = shared_files(folder)
    token = get_token()
    if not token:
        raise CrosslignError("there is no token for the hub. Set HF_TOKEN, or log in with `hf auth login`.")
    api = HfApi(token=token)
    try:
        return _send(api, files, repo, public, overwrite, announce)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted. {repo} has none of the files, or all of them.") from None
    except OfflineModeIsEnabled as error:
        raise CrosslignError("the hub is switched off (HF_HUB_OFFLINE). Unset it to push.") from error
    except CrosslignError:
        raise
    except Exception as error:  # the hub client raises many kinds; `from None`: they may quote the token
        raise CrosslignError(f"{repo}: the hub refused: {cause(error).replace(token, '[token]')}") from None


def check_repo(repo: str) -> None:
    """Raise CrosslignError unless this can be a repository's name, with its owner."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise CrosslignError(f"{repo!r:.100} is no name of a repository: {cause(error)}") from error
    if "/" not in repo:
        raise CrosslignError(f"{repo!r:.100} has no owner. A repository is OWNER/NAME.")


def _send(api: HfApi, files: list[Shared], repo: str, public: bool, overwrite: bool, announce: Announce) -> str:
    try:
        api.create_repo(repo, private=not public, exist_ok=False)
    except HfHubHTTPError as error:
        if error.response is None or error.response.status_code != 409:
            raise
        _check_existing(api.model_info(repo, files_metadata=False), repo, public, overwrite)
    announce(f"sending {len(files)} files to {repo}")
    operations = [
        CommitOperationAdd(f.name, f.content if isinstance(f.content, bytes) else str(f.content)) for f in files
    ]
    commit = api.create_commit(repo, operations, commit_message="Add a model aligned by crosslign")
    return str(commit.repo_url)


def _check_existing(found: Any, repo: str, public: bool, overwrite: bool) -> None:
    if not public and found.private is not True:
        raise CrosslignError(
            f"{repo}: is there, and is public. Say --public if all may see the model, or name another."
        )
    if public and found.private:
        raise CrosslignError(
            f"{repo}: is there, and is private. Leave --public out, and open it on the hub afterwards."
        )
    names = [one.rfilename for one in found.siblings or () if one.rfilename != ".gitattributes"]
    if names and not overwrite:
        raise CrosslignError(
            f"{repo}: holds {len(names)} files already, such as {names[0]!r:.80}. Name another, or add a commit with "
            "--overwrite; the files that are there stay in its history."
        )


def listing(files: list[Shared]) -> Iterator[tuple[str, str]]:
    """Name and size of each file, and of all, for a terminal."""
    for file in files:
        yield file.name, f"{file.size:,}"
    yield "all", f"{sum(file.size for file in files):,}"
