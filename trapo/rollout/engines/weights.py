"""The engine that a trainer draws with, kept at the training model's weights."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from trl.generation.vllm_generation import VLLMGeneration

from ...config import TRAPOConfig
from .base import Engine, Sampling
from .torch import TorchEngine
from .torch_weights import RolloutWeights

if TYPE_CHECKING:
    from .transformers import TransformersEngine
    from .vllm import VLLMEngine
    from .vllm_server import VLLMServerEngine


HELD = 0.25  # largest share of a GPU's memory that the embedded engine may keep from one rollout to the next


class TRLWeights(VLLMGeneration):
    """TRL's walk over a model that is wrapped, sharded (FSDP, DeepSpeed) or adapted (PEFT), without TRL's engine."""

    def _init_vllm(self) -> None:
        """No engine: `VLLMEngine` is ours."""

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Each tensor under the name vLLM expects, one at a time. Every rank must go through all of them."""
        return self._iter_named_params()


# A process has one vLLM per setting, whichever trainer uses it: the stages of a run have one each, and a GPU's memory
# holds one.
_started: dict[tuple, "VLLMEngine | VLLMServerEngine"] = {}


def start_vllm(
    model: PreTrainedModel,
    eos_ids: list[int],
    args: TRAPOConfig,
    weights: Path,
    *,
    ranks: int = 1,
    first: bool = True,
    barrier: Callable[[], None] = lambda: None,
) -> "VLLMEngine | VLLMServerEngine":
    """vLLM in this process, or a client of its server, as `args` say; without weights until `load`.

    Args:
        model: the training model, unwrapped.
        eos_ids: tokens that end a sample.
        args: the configuration.
        weights: the folder through which weights go to a server.
        ranks, first, barrier: the run's processes, whether this is the first of them, and what waits for all.

    Raises:
        ValueError: there is no such server, or it takes no weights.
    """
    settings = {"slots": args.rollout_slots, "dtype": torch.bfloat16 if args.bf16 else model.dtype}
    if served := args.resolved_engine() == "vllm-server":
        vocabulary = model.config.get_text_config().vocab_size
        settings |= {
            "base_url": args.vllm_server_base_url,
            "weights": weights,
            "vocabulary": vocabulary,
            "first": first,
            "patience_s": args.vllm_server_timeout,
        }
    else:
        share = args.vllm_gpu_memory_utilization
        settings |= {"max_model_len": args.vllm_max_model_length, "memory_share": share, "ranks": ranks}
    key = (model.config.to_json_string(), *eos_ids, *settings.values())
    if key not in _started and served:
        from .vllm_server import VLLMServerEngine

        _started[key] = VLLMServerEngine(eos_ids=eos_ids, barrier=barrier, **settings)
    elif key not in _started:
        from .vllm import VLLMEngine  # only where it is wanted: importing vllm takes seconds

        _started[key] = VLLMEngine(model, eos_ids, **settings)
    return _started[key]


class Engines:
    """Gives a trainer its engine: one in this process that reads the live model, or vLLM with weights pushed to it.

    `seconds` and `difference` are of the last push to vLLM and its check (`VLLMEngine.check`); None without one.

    Args:
        args: the configuration.
        accelerator: of the trainer.
        policy: the training model as it is now, perhaps wrapped.
        eos_ids: tokens that end a sample.
        pad_id: any valid token.
        prefill_tokens: most tokens of a forward over prompts.
        longest: most tokens of prompt and sample, asked for where every step has that shape.
    """

    def __init__(
        self,
        args: TRAPOConfig,
        accelerator: Accelerator,
        policy: Callable[[], PreTrainedModel],
        eos_ids: list[int],
        pad_id: int,
        prefill_tokens: int,
        longest: Callable[[], int],
    ):
        self.args, self.accelerator, self.policy, self.eos_ids, self.pad_id = args, accelerator, policy, eos_ids, pad_id
        self.prefill_tokens, self.longest = prefill_tokens, longest
        self.seconds: float | None = None
        self.difference: float | None = None
        self._whole: PreTrainedModel | None = None  # of a sharded model, its weights unsharded
        self._whole_at = -1  # the step whose weights these are
        self._embedded: TorchEngine | TransformersEngine | None = None
        self._copies = RolloutWeights()
        self._path: dict[str, Any] = {}
        self.name = args.resolved_engine(policy().config)
        self._vllm = self._start_vllm() if self.name.startswith("vllm") else None

    def _start_vllm(self) -> "VLLMEngine | VLLMServerEngine":
        return start_vllm(
            self.accelerator.unwrap_model(self.policy()),
            self.eos_ids,
            self.args,
            Path(self.args.vllm_server_weights or Path(self.args.output_dir) / "server-weights"),
            ranks=self.accelerator.num_processes,
            first=self.accelerator.is_main_process,
            barrier=self.accelerator.wait_for_everyone,
        )

    def forget(self) -> None:
        """The weights may have changed without a step: a checkpoint was loaded."""
        self._whole_at = -1
        if self._vllm is not None:
            self._vllm.loaded = None

    def describe(self) -> dict[str, Any]:
        """What has drawn the last samples, and how, for run.json."""
        return {"engine": self.name} | self._path

    @contextmanager
    def drawing(self, model: PreTrainedModel, sampling: Sampling, step: int) -> Iterator[Engine]:
        """The engine with the weights of `model`, the training model unwrapped, as they are at `step`."""
        if self._vllm is not None:
            yield self._pushed(model, sampling, step)
            return
        if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
            model = self._unsharded(model, step)
        with ExitStack() as stack:
            kind = self.accelerator.device.type
            zero3 = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
            cast = self.args.rollout_weights == "copy" and torch.is_autocast_enabled(kind) and not zero3
            if cast:
                whole = self.name == "transformers"
                stack.enter_context(self._copies.placed(model, torch.get_autocast_dtype(kind), whole=whole))
            if self._embedded is None or self._embedded.model is not model:
                self._embedded = self._new_embedded(model)
            self._embedded.sampling = sampling
            try:
                yield self._embedded
            finally:
                self._path = self._embedded.describe() | {"weights": "copy" if cast else "the model's"}
                self._give_back(lasting=self._copies.complete if cast else not torch.is_autocast_enabled(kind))

    def _new_embedded(self, model: PreTrainedModel) -> "TorchEngine | TransformersEngine":
        if self.name == "transformers":
            from .transformers import TransformersEngine

            shared = {"slots": self.args.rollout_slots, "graphs": self.args.engine_graphs}
            return TransformersEngine(model, self.eos_ids, self.pad_id, prefill_tokens=self.prefill_tokens, **shared)
        exact = self.accelerator.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        return TorchEngine(
            model,
            self.eos_ids,
            self.pad_id,
            slots=self.args.rollout_slots,
            graphs=self.args.engine_graphs,
            prefill_tokens=self.prefill_tokens,
            length=self.longest() if self.args.deterministic and not exact else None,
            hold=True,
        )

    def _give_back(self, lasting: bool) -> None:
        """Between two rollouts the memory is the update's, unless what graphs would be lost with is a small part.

        Args:
            lasting: whether all that graphs have read stays where it is.
        """
        if lasting and self.accelerator.device.type == "cuda" and isinstance(self._embedded, TorchEngine):
            held = self._embedded.bytes + self._copies.bytes
            if held <= HELD * torch.cuda.mem_get_info()[1]:
                return
        self._embedded.release()
        self._copies.drop()

    def _pushed(self, model: PreTrainedModel, sampling: Sampling, step: int) -> "VLLMEngine | VLLMServerEngine":
        self._vllm.sampling, self.seconds = sampling, None
        if self._vllm.loaded != (id(self), step):
            started = time.perf_counter()
            self._vllm.load(self._weights())
            self.difference = self._vllm.check(model)
            self._vllm.loaded, self.seconds = (id(self), step), time.perf_counter() - started
        return self._vllm

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        return TRLWeights(self.policy(), self.accelerator, processing_class=None).named()

    def _unsharded(self, model: PreTrainedModel, step: int) -> PreTrainedModel:
        """A whole copy of an FSDP model: its ranks wait for each other in every layer, but draw different lengths.

        It costs the memory of the weights on every rank; where that is too much there is vLLM.
        """
        if self._whole is None:
            device, dtype = self.accelerator.device, next(model.parameters()).dtype
            self._whole = AutoModelForCausalLM.from_config(model.config).to(device, dtype).eval()
        if self._whole_at != step:
            parameters = dict(self._whole.named_parameters())  # tied ones once
            for name, tensor in self._weights():
                if name in parameters:
                    parameters[name].data.copy_(tensor)
            self._whole_at = step
        return self._whole
