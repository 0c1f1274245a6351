"""Datasets on the Hugging Face hub, at a pinned revision, and what to do when one cannot be had."""

from __future__ import annotations

from pathlib import Path

from crosslign.types import CrosslignError, cause

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
        at = f" --revision {revision}" if revision else ""
        by_hand = (
            f"on a machine with a network, run `hf download {repo} {filename} --repo-type dataset{at} --local-dir "
            "DIR`, copy DIR here and name it as the path."
        )
        raise CrosslignError(
            f"{repo}: {filename} could not be fetched from the hub ({cause(error)}). {_advice(error, repo, by_hand)}"
        ) from error


def _advice(error: Exception, repo: str, by_hand: str) -> str:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # The order matters: to the client a gated repository is one that was not found, and so is a file that is not in
    # the cache while the network is down.
    if isinstance(error, GatedRepoError):
        return (
            f"The set is gated: accept its licence on {PAGE}{repo} in a browser, then log in with `hf auth login`. "
            f"Or {by_hand}"
        )
    if isinstance(error, (LocalEntryNotFoundError, ConnectionError, TimeoutError)):
        return (
            f"The file is not in the cache, and there is no network, or it is switched off (HF_HUB_OFFLINE): {by_hand}"
        )
    if isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError)):
        return (
            f"Look at {PAGE}{repo}: the set may have been moved or withdrawn, or be private, which needs "
            "`hf auth login`. A file that you have can be named as the path instead."
        )
    return f"If it happens again: {by_hand}"
