"""One process of a run on CPUs, with FSDP or DeepSpeed at work as on GPUs: accelerate would run DDP in their place."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from typing import Any

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback, training_args

from crosslign.models.sharding import pieces

torch.set_num_threads(1)


def _backend(self: Any, cpu: bool = False, sagemaker_dp: bool = False, backend: Any = None) -> Any:
    return "gloo", DistributedType.MULTI_GPU


PartialState._prepare_backend = _backend
training_args.is_torch_bf16_gpu_available = lambda: True  # asked where `use_cpu` is not set


class Wrapped(TrainerCallback):
    """Fails the run whose model is not wrapped as its recipe says."""

    def __init__(self, engine: str, trainer: Any) -> None:
        self.engine = engine
        self.trainer = trainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1 and os.environ.get("FAILING_RANK") == os.environ["RANK"]:
            raise RuntimeError("this process fails")
        if state.global_step == 1 and os.environ.get("NAN_RANK") == os.environ["RANK"]:
            adapter = [p for n, p in self.trainer.model.named_parameters() if "lora_B" in n]
            with torch.no_grad():
                next(part for part in (pieces(p)[0] for p in adapter) if part.numel()).fill_(math.nan)
        model = self.trainer.model_wrapped
        teacher = self.trainer.scorer.teacher
        if not args.bf16:  # nothing is cast, so the parts add up to the whole
            assert teacher._now == teacher.fingerprint, "the fingerprint of the parts is not that of the whole"
        if self.engine == "fsdp":
            assert isinstance(model, FSDPModule), type(model)
        else:
            assert type(model).__name__ == "DeepSpeedEngine", type(model)
            assert model.zero_optimization_stage() == int(self.engine[-1])


if __name__ == "__main__":
    from crosslign.cli import main
    from crosslign.distillation import DistillationTrainer, RolloutCollector, run_trainer
    from crosslign.types import Completion

    engine, *arguments = sys.argv[1:]
    begin = DistillationTrainer.__init__

    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        self.add_callback(Wrapped(engine, self))

    DistillationTrainer.__init__ = checked
    if os.environ.get("IN_PARTS"):

        def gathers(_: Any) -> Any:
            raise AssertionError("the student was gathered")

        run_trainer.whole = gathers
    if os.environ.get("SILENT_RANK") == os.environ["RANK"]:
        collect = RolloutCollector.collect
        empty = Completion((), truncated=False)
        RolloutCollector.collect = lambda *a, **k: [dataclasses.replace(r, completion=empty) for r in collect(*a, **k)]
    sys.exit(main(arguments))
