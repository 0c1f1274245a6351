"""Sampling by a vLLM server that the user has started: token ids over HTTP, one request a prompt.

Nothing of vLLM is imported. Every field that changes a distribution is named in the request, so neither the server's
defaults nor the model's generation config count. What comes back is checked before anything is trained on it.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from crosslign.http import EXCERPT, Connection, RequestFailed
from crosslign.models import TokenIds
from crosslign.rollouts.base import SamplingParameters, cut_at_stop, derive_seed
from crosslign.types import Completion, CrosslignError, excerpt

TRIES = 3  # of a request whose replies are not what was asked for
MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)  # while a reply is read
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM's --max-lora-rank takes
ITS_OWN = "default"  # the version of the weights that a server began with
REFUSED = frozenset({400, 404, 405, 500})  # by the server itself: it is there
Read = TypeVar("Read")


@dataclass(frozen=True)
class Served:
    """A model or adapter: its longest sequence, if the server says that, and where its weights came from."""

    longest: int | None
    root: object


class VllmServer:
    """A client of one server.

    Arguments:
        url: for example `http://localhost:8000`; a `/v1` at its end is left out.
        model: the name under which it serves the base model.
        timeout: seconds in which a request must be answered, retries included.
        retries: tries after the first one for trouble of the transport.
        command: what starts such a server, for errors.
    """

    def __init__(
        self, url: str, model: str, *, timeout: float = 600.0, retries: int = 10, command: str = "vllm serve MODEL"
    ) -> None:
        root = url.rstrip("/").removesuffix("/v1").rstrip("/")
        self.connection = Connection(root, timeout=timeout, retries=retries, needed_by="rollouts.backend vllm")
        self.url, self.model, self.timeout, self.command = root, model, timeout, command

    def check(self, length: int, run: str = "") -> None:
        """Raises CrosslignError unless it serves the model, and contexts with completions of this length in all, and
        its weights are its own or, after an interruption, those of the run whose states have names that begin so."""
        self.ask("/health")
        served = self.served()
        if self.model not in served:
            names = excerpt(", ".join(served), EXCERPT) or "none"
            raise self.error(f"it does not serve the model {self.model!r}; its models: {names}", 404)
        longest = served[self.model].longest
        if longest is not None and longest < length:
            raise self.error(
                f"its longest sequence is {longest} tokens, and the recipe's contexts and completions may have {length}"
            )
        try:
            version = self.weight_version()
        except ServerError as error:
            if error.status not in REFUSED:
                raise
            return  # nobody can give it other weights
        if version != ITS_OWN and not (run and version.startswith(run)):
            raise self.error(
                f"its weights are {version!r}, of another run that uses it, or has left them there. If none runs, "
                "start it anew"
            )

    def served(self) -> dict[str, Served]:
        """Its models and adapters by name."""

        def read(text: str) -> dict[str, Served]:
            entries = _json(text)["data"]
            found = {e["id"]: Served(e.get("max_model_len"), e.get("root")) for e in entries}
            for name, entry in found.items():
                if not isinstance(name, str) or type(entry.longest) not in (int, type(None)):
                    raise TypeError("an id or a length of another type")
            return found

        return self.ask("/v1/models", read=read)

    def load_adapter(self, name: str, folder: Path) -> None:
        """Serve an adapter under a name that was never used for another one."""
        try:
            self.ask("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        except ServerError as error:
            if error.status == 400 and name in self.served():  # loaded by another process, or the reply got lost
                return
            if error.status not in REFUSED:
                raise
            raise self.error(
                f"it refuses the adapter in {folder} ({error.said}). It must be able to read that folder, and loads "
                "adapters with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 only"
            ) from error

    def unload_adapter(self, name: str) -> None:
        try:
            self.ask("/v1/unload_lora_adapter", {"lora_name": name})
        except ServerError as error:
            if error.status != 404:  # it is gone already
                raise

    def weight_version(self) -> str:
        """The name of its base weights as `reload` gave it, or `default`."""
        return self.ask("/weight_info", read=lambda text: str(_json(text)["weight_version"])[:200])

    def reload(self, folder: Path | None, version: str) -> None:
        """Put other weights of the same shapes in the place of its model's; None: those that it began with."""
        # Without a path vLLM would read the last one again.
        served = self.served()
        if folder is None and self.model not in served:
            raise self.error(f"it no longer serves {self.model!r}, so its weights cannot be given back")
        kwargs = {"weights_path": str(folder or served[self.model].root)}
        try:
            self.ask("/pause?mode=wait", {})
            try:
                # Until it is done no run may take these weights for another version's.
                self.ask("/update_weight_version", {"new_version": f"{version}-unfinished"})
                self.ask("/collective_rpc", {"method": "reload_weights", "kwargs": kwargs})
                self.ask("/reset_prefix_cache", {})  # what was computed with the old weights
                self.ask("/update_weight_version", {"new_version": version})
            finally:
                self.ask("/resume", {})
        except ServerError as error:
            if error.status not in REFUSED:
                raise
            raise self.error(
                f"it does not take the weights in {folder} ({error.said}). It must be able to read that folder, and "
                "takes weights with VLLM_SERVER_DEV_MODE=1 only"
            ) from error

    def ask(self, path: str, body: dict[str, Any] | None = None, read: Callable[[str], Any] = str) -> Any:
        """What `read` makes of the reply to one request; GET where there is no body. Raises ServerError."""
        return self.ask_all(path, [(body, read)])[0]

    def ask_all(
        self, path: str, requests: Sequence[tuple[dict[str, Any] | None, Callable[[str], Read]]], at_once: int = 1
    ) -> list[Read]:
        """The same for many, in order, so many at once at most. The first failure ends them all.

        A reply that `read` cannot read is asked for again, `TRIES` times.
        """
        slots = asyncio.Semaphore(at_once)

        async def answer(client: Any, body: dict[str, Any] | None, read: Callable[[str], Read]) -> Read:
            wrong = ""
            for _ in range(TRIES):
                async with slots:
                    text = await self.connection.send(client, path, body, self.timeout)
                try:
                    return read(text)
                except MALFORMED as error:
                    kind = "" if isinstance(error, _WrongReply) else f"{type(error).__name__}: "
                    wrong = self.connection.redact(f"{kind}{error}")
            raise RequestFailed(f"{TRIES} times a reply that cannot be used: {wrong}", 200)

        try:
            with self.connection.open() as (portal, client):
                futures = [portal.start_task_soon(answer, client, body, read) for body, read in requests]
                return [future.result() for future in futures]
        except RequestFailed as failure:
            raise self.error(f"{path.partition('?')[0]}: {failure.said}", failure.status) from None

    def error(self, said: str, status: int | None = 0) -> ServerError:
        """`status` None: no reply; 0: no request has failed."""
        hints = {
            None: f"Is it running, and does it answer within {self.timeout:g} s (rollouts.timeout_seconds)?",
            404: "Was it started anew since, or with another model?",
            200: "Nothing was trained on it. Is this a vLLM server of version 0.32 or newer?",
        }
        return ServerError(
            f"vLLM server {self.url}: {said}. {hints.get(status, '')} Start it with: {self.command}".replace("  ", " "),
            said,
            status,
        )


class ServerError(CrosslignError):
    """What a server did not do, with its words and its status."""

    def __init__(self, message: str, said: str, status: int | None) -> None:
        super().__init__(message)
        self.said, self.status = said, status


class _WrongReply(ValueError):
    """Says itself what is wrong."""


class VllmSampler:
    """Samples from what a server serves.

    Args:
        server: where.
        ids: a completion ends with the first stop token; forbidden ids are never sampled.
        vocabulary: number of the model's rows; every id is below it.
        batch_size: requests at once.
        publish: called before each sampling; makes the server serve the weights as they are, and returns their name
            there. None for the server's own model.
        check: called after it; raises if something has replaced the weights meanwhile.
    """

    def __init__(
        self,
        server: VllmServer,
        ids: TokenIds,
        *,
        vocabulary: int,
        batch_size: int = 16,
        publish: Callable[[], str] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.server = server
        self.ids = ids
        self.vocabulary = vocabulary
        self.batch_size = batch_size
        self.publish = publish
        self.check = check

    def sample(
        self, prompts: Sequence[Sequence[int]], parameters: SamplingParameters, *, seed: int
    ) -> list[Completion]:
        """See `Sampler`. The same prompt has another seed at each place, as it would have in a batch."""
        if not prompts:
            return []
        name = self.server.model if self.publish is None else self.publish()
        requests = []
        for place, prompt in enumerate(prompts):
            body = self._body(name, [int(t) for t in prompt], parameters, derive_seed(seed, place))
            requests.append((body, partial(self._read, body["prompt"], parameters.max_completion_length)))
        completions = self.server.ask_all("/v1/completions", requests, self.batch_size)
        self.check()
        return completions

    def pinned(self) -> VllmSampler:
        """A sampler of the weights as they are now, whatever becomes of the model: for another thread."""
        name = self.server.model if self.publish is None else self.publish()
        pinned = copy.copy(self)
        pinned.publish = lambda: name
        return pinned

    def _body(self, name: str, prompt: list[int], parameters: SamplingParameters, seed: int) -> dict[str, Any]:
        return {
            "model": name,
            "prompt": prompt,
            "n": 1,
            "seed": seed,
            "temperature": parameters.temperature,
            "top_p": parameters.top_p,
            "top_k": parameters.top_k,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "max_tokens": parameters.max_completion_length,
            "ignore_eos": True,  # all ends are in stop_token_ids
            "stop_token_ids": list(self.ids.stop),
            "logit_bias": {str(token): -100.0 for token in self.ids.forbidden},
            "add_special_tokens": False,
            "skip_special_tokens": False,
            "return_token_ids": True,
            "stream": False,
        }

    def _read(self, prompt: list[int], limit: int, text: str) -> Completion:
        choices = _json(text)["choices"]
        if len(choices) != 1 or choices[0].get("index", 0) != 0:
            raise _WrongReply(f"{len(choices)} completions of one prompt")
        found = choices[0]["token_ids"]
        if choices[0]["prompt_token_ids"] != prompt:
            raise _WrongReply("it completed another prompt than the one that was sent (prompt_token_ids)")
        if not isinstance(found, list) or not all(type(t) is int and 0 <= t < self.vocabulary for t in found):
            raise _WrongReply(f"token_ids that are no ids of the model's {self.vocabulary} tokens")
        if not set(self.ids.forbidden).isdisjoint(found):
            raise _WrongReply("a token that the tokenizer does not have, in spite of its logit_bias of -100")
        if not 0 < len(found) <= limit:
            raise _WrongReply(f"{len(found)} tokens, where 1 to {limit} were asked for")
        completion = cut_at_stop(found, self.ids.stop)
        if completion.truncated and len(found) < limit:
            raise _WrongReply(
                f"a completion that breaks off after {len(found)} tokens "
                f"({str(choices[0].get('finish_reason'))[:40]!r}), with neither a stop token nor all {limit}"
            )
        return completion


def _json(text: str) -> Any:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError("no JSON object")
    return value
