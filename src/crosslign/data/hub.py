"""Files of datasets on the Hugging Face hub, at a pinned revision, and what to do when one cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from crosslign.types import CrosslignError

PAGE = "https://huggingface.co/datasets/"


def fetch_file(repo: str, filename: str, revision: str | None) -> Path:
    """The local copy of one file of a dataset, downloaded unless the cache holds it.

    Args:
        repo: the dataset's id, "owner/name".
        filename: the file's path in it.
        revision: a commit hash; None means the newest state, which can change between two runs.

    Raises CrosslignError that says what to do: accept a licence and log in, get the file on another machine, or correct
    the id, revision or file name.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, filename, repo_type="dataset", revision=revision))
    except Exception as error:  # the hub client raises many kinds; the cause decides what the user can do
        first = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        raise CrosslignError(
            f"{repo}: {filename} could not be fetched from the hub ({type(error).__name__}: {first}). "
            + _advice(error, repo, filename, revision)
        ) from error


def _advice(error: BaseException, repo: str, filename: str, revision: str | None) -> str:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    causes = list(_causes(error))
    at = f" --revision {revision}" if revision else ""
    by_hand = (
        f"on a machine with a network, run `hf download {repo} {filename} --repo-type dataset{at} --local-dir DIR`, "
        "copy DIR here and name it as the path."
    )
    # The order matters: a gated repository counts as not found for the client, and a file missing from the cache when
    # the network is down as an entry that was not found.
    if any(isinstance(c, GatedRepoError) for c in causes):
        return (
            f"The set is gated: accept its licence on {PAGE}{repo} in a browser, then log in with `hf auth login`. "
            f"Or {by_hand}"
        )
    if any(
        isinstance(c, (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, TimeoutError)) for c in causes
    ) or any(type(c).__module__.split(".")[0] in ("httpx", "httpcore") for c in causes):
        return (
            f"The file is not in the cache, and there is no network, or it is switched off (HF_HUB_OFFLINE): {by_hand}"
        )
    if any(isinstance(c, (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError)) for c in causes):
        return (
            f"Look at {PAGE}{repo}: the set may have been moved or withdrawn, or be private, which needs "
            "`hf auth login`. A file that you have can be named as the path instead."
        )
    return f"If it happens again: {by_hand}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
