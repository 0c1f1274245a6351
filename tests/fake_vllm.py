"""A server on 127.0.0.1 that does what crosslign needs of vLLM's, with a tiny model, and remembers what was asked."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fake_endpoint import AT_ONCE, Answer, FakeServer
from peft import PeftModel
from transformers import AutoModelForCausalLM

# Without one of them the server's own would count, or the model's.
NAMED = {
    *("model", "prompt", "n", "seed", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"),
    *("presence_penalty", "frequency_penalty", "max_tokens", "ignore_eos", "stop_token_ids", "logit_bias"),
    *("add_special_tokens", "skip_special_tokens", "return_token_ids", "stream"),
}
ROOT = "/where/it/was/started"
Spoil = Callable[[str, Any, int], "Answer | None"]


def said(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), AT_ONCE)


def refused(status: int, message: str) -> Answer:
    return said({"error": {"message": message, "code": status}}, status)


class FakeVllm(FakeServer):
    """`spoil(path, body, number of earlier requests to the path)` gives another answer; None: the right one."""

    def __init__(self, model: Any, name: str = "base", *, longest: int = 5000, spoil: Spoil | None = None) -> None:
        self.base = self.model = copy.deepcopy(model).eval()
        self.name, self.longest, self.spoil = name, longest, spoil
        self.adapters: dict[str, Any] = {}
        self.version = "default"
        self.asked: list[tuple[str, Any]] = []
        self._logits: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}
        self._lock = threading.Lock()
        super().__init__()

    def bodies(self, path: str) -> list[Any]:
        return [body for asked, body in self.asked if asked == path]

    @property
    def paths(self) -> list[str]:
        """What was asked of it to change it, in order."""
        reading = ("/v1/completions", "/v1/models", "/health", "/weight_info")
        return [path for path, _ in self.asked if path not in reading]

    def answer(self, path: str, body: Any, headers: Mapping[str, str]) -> Answer:
        with self._lock, torch.no_grad():
            earlier = len(self.bodies(path))
            self.asked.append((path, body))
            other = self.spoil(path, body, earlier) if self.spoil is not None else None
            return other or self.right(path, body)

    def right(self, path: str, body: Any) -> Answer:
        match path:
            case "/v1/models":
                base = {"id": self.name, "max_model_len": self.longest, "root": ROOT}
                return said({"data": [base, *({"id": name, "parent": self.name} for name in self.adapters)]})
            case "/v1/completions":
                return self._complete(body)
            case "/v1/load_lora_adapter":
                return self._load(body["lora_name"], body["lora_path"])
            case "/v1/unload_lora_adapter":
                found = self.adapters.pop(body["lora_name"], None)
                return Answer(body=b"Success") if found is not None else refused(404, "cannot be found")
            case "/collective_rpc":
                folder = body["kwargs"]["weights_path"]
                self.model = self.base if folder == ROOT else AutoModelForCausalLM.from_pretrained(folder).eval()
                return said({"results": [None]})
            case "/reset_prefix_cache":
                self._logits.clear()
            case "/update_weight_version":
                self.version = body["new_version"]
            case "/weight_info":
                return said({"weight_version": self.version})
        return Answer(body=b"{}")

    def _load(self, name: str, path: str) -> Answer:
        if name in self.adapters:
            return refused(400, f"The lora adapter '{name}' has already been loaded.")
        try:
            with torch.random.fork_rng():  # peft fills a new adapter at random
                self.adapters[name] = PeftModel.from_pretrained(copy.deepcopy(self.base), path).eval()
        except (OSError, ValueError) as error:
            return refused(404, f"Loading lora {name} failed: {type(error).__name__}")
        return Answer(body=b"Success")

    def _complete(self, body: Any) -> Answer:
        if set(body) != NAMED:
            return refused(400, f"fields: {set(body) ^ NAMED}")
        if body["model"] not in (self.name, *self.adapters):
            return refused(404, f"The model `{body['model']}` does not exist.")
        if len(body["prompt"]) + body["max_tokens"] > self.longest:
            return refused(400, f"more than {self.longest} tokens")
        generator = torch.Generator().manual_seed(body["seed"])
        new: list[int] = []
        while len(new) < body["max_tokens"] and (not new or new[-1] not in body["stop_token_ids"]):
            logits = self._next(body["model"], (*body["prompt"], *new)).clone()
            for token, bias in body["logit_bias"].items():
                logits[int(token)] += bias
            if body["temperature"]:
                weights = (logits / body["temperature"]).softmax(-1)
                new.append(int(torch.multinomial(weights, 1, generator=generator)))
            else:
                new.append(int(logits.argmax()))
        choice = {"index": 0, "token_ids": new, "prompt_token_ids": body["prompt"], "text": "", "finish_reason": "stop"}
        return said({"choices": [choice]})

    def _next(self, name: str, ids: tuple[int, ...]) -> torch.Tensor:
        if (name, ids) not in self._logits:
            model = self.adapters.get(name, self.model)
            self._logits[name, ids] = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        return self._logits[name, ids]
