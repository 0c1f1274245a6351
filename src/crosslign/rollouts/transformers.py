"""Sampling with `transformers`: batched, sorted by length, without padding before the first token on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from transformers import GenerationConfig

from crosslign.models import NotFiniteError, adapter_in_base_type, causal_lm, evaluating, token_ids
from crosslign.models.passes.prefill import Prefill, left_padded
from crosslign.rollouts.base import SamplingParameters, cut_at_stop, derive_seed
from crosslign.types import Completion, cause

# What a CPU and a GPU say of a draw from probabilities that are none.
_NO_PROBABILITIES = ("probability tensor contains", "device-side assert")


class TransformersSampler:
    """Samples from whatever model `policy()` yields, for example a student or a frozen teacher.

    Args:
        policy: a context manager factory that yields the model to sample from.
        stop_token_ids: a completion ends with the first of these.
        pad_token_id: fills the left of shorter prompts; masked, so it may equal a stop token.
        forbidden_token_ids: ids the model has, but the tokenizer does not (padded vocabularies); never sampled.
        batch_size: rows in one `generate` call. Prompts of similar length share a batch.
        streamer: one of transformers', which gets each token of a single prompt's completion when it is sampled.
    """

    def __init__(
        self,
        policy: Callable[[], AbstractContextManager[Any]],
        *,
        stop_token_ids: Sequence[int],
        pad_token_id: int,
        forbidden_token_ids: Sequence[int] = (),
        batch_size: int = 16,
        streamer: Any = None,
    ) -> None:
        if not stop_token_ids:
            raise ValueError("at least one stop token is needed")
        self.policy = policy
        self.stop_token_ids = tuple(stop_token_ids)
        self.pad_token_id = pad_token_id
        self.forbidden_token_ids = tuple(forbidden_token_ids)
        self.batch_size = batch_size
        self.streamer = streamer
        self._prefill = Prefill(pad_token_id)

    def sample(
        self, prompts: Sequence[Sequence[int]], parameters: SamplingParameters, *, seed: int
    ) -> list[Completion]:
        """See `Sampler`. Longest prompts come first, so that running out of memory shows at once."""
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
        completions: list[Completion | None] = [None] * len(prompts)
        config = self._config(parameters)
        with self.policy() as model, _bare(model), adapter_in_base_type(model), torch.no_grad():
            device = model.get_input_embeddings().weight.device
            cuda = [device] if device.type == "cuda" else []
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                with torch.random.fork_rng(devices=cuda):
                    torch.manual_seed(derive_seed(seed, start))
                    batch = self._generate(model, [prompts[i] for i in rows], config, device)
                for i, completion in zip(rows, batch, strict=True):
                    completions[i] = completion
        return [c for c in completions if c is not None]

    def _config(self, parameters: SamplingParameters) -> GenerationConfig:
        greedy = parameters.temperature == 0
        sampling: dict[str, Any] = {}
        if not greedy:
            sampling = {"temperature": parameters.temperature, "top_p": parameters.top_p, "top_k": parameters.top_k}
        return GenerationConfig(
            do_sample=not greedy,
            **sampling,  # named to a greedy search, they are warned about
            max_new_tokens=parameters.max_completion_length,
            eos_token_id=list(self.stop_token_ids),
            pad_token_id=self.pad_token_id,
            suppress_tokens=list(self.forbidden_token_ids) or None,
            use_cache=True,
        )

    def _generate(
        self, model: Any, prompts: Sequence[Sequence[int]], config: GenerationConfig, device: torch.device
    ) -> list[Completion]:
        input_ids, attention_mask = left_padded(prompts, self.pad_token_id, device)
        more = self._prefill(model, prompts)
        try:
            output = model.generate(
                input_ids=input_ids,
                attention_mask=attention_mask,
                generation_config=config,
                synced_gpus=False,  # each process samples by itself: it has all weights, also of a sharded model
                streamer=self.streamer,
                **more,
            )
        except RuntimeError as error:
            if not any(sign in str(error) for sign in _NO_PROBABILITIES):
                raise
            raise NotFiniteError(
                "sampling: the probabilities of the next token are inf or NaN. Look at the model's weights and dtype, "
                f"and at the learning rate if it was trained ({cause(error)})."
            ) from error
        width = input_ids.shape[1]
        return [cut_at_stop(row[: config.max_new_tokens], self.stop_token_ids) for row in output[:, width:].tolist()]


def sampler_of(
    model: Any,
    tokenizer: Any,
    batch_size: int,
    view: Callable[[], AbstractContextManager[Any]] | None = None,
    streamer: Any = None,
) -> TransformersSampler:
    """The sampler of a loaded model; `view` yields another state of it, such as a frozen teacher."""
    ids = token_ids(tokenizer, model)
    return TransformersSampler(
        view or (lambda: nullcontext(model)),
        stop_token_ids=ids.stop,
        pad_token_id=ids.pad,
        forbidden_token_ids=ids.forbidden,
        batch_size=batch_size,
        streamer=streamer,
    )


@contextmanager
def _bare(model: Any) -> Iterator[None]:
    """Inside the block the model is in evaluation mode, without a generation config of its own; after it, as before.

    `generate` fills in from the model's own config whatever its argument leaves out (Qwen2.5 brings top_k=20,
    top_p=0.8 and a repetition penalty), and many fields have no neutral value that one could name instead.
    """
    inner = causal_lm(model)  # PEFT passes the config on
    config = inner.generation_config
    with evaluating(model):
        inner.generation_config = GenerationConfig()
        try:
            yield
        finally:
            inner.generation_config = config
