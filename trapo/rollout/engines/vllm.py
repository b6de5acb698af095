"""vLLM in this process: the same seeds, continuous batching and prefix caching of a real inference engine.

The engine starts with random weights; the trainer pushes its own after every update. A push that does not arrive would
be silent: samples of an old policy look like any others. So each is checked in two ways, and a run stops if one fails:

* the bits of what was pushed and of what vLLM holds have the same sum (vLLM fuses and reorders tensors, which a sum
  does not see); one tensor left behind changes it;
* the log-probabilities of fixed tokens are the training model's: what vLLM holds is also what it computes with. The
  first push replaces random weights, so that this shows whether pushes reach the kernels at all.
"""

import copy
import os
import tempfile
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .base import Request, Sample, Sampling

# Mean difference of log-probabilities that rounding explains, in nats.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.25}


class VLLMEngine:
    """Draws samples with vLLM; weights come from `load`, which must be called before the first request.

    Args:
        model: the training model; only its configuration is read.
        eos_ids: tokens that end a sample.
        slots: most samples drawn at once.
        dtype: of vLLM's weights and computation.
        max_model_len: most tokens of prompt and sample; None is the model's own limit.
        memory_share: share of a GPU's memory for weights and key/value cache; on a CPU it has no meaning.
        ranks: processes of this run; each has an engine of its own.

    Raises:
        ValueError: from `submit`, for tokens outside the vocabulary or a request longer than `max_model_len`.
        RuntimeError: from `load` and `check`, if vLLM does not have the weights.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        eos_ids: list[int],
        *,
        slots: int = 64,
        dtype: torch.dtype = torch.float32,
        max_model_len: int | None = None,
        memory_share: float = 0.3,
        ranks: int = 1,
    ):
        # In this process, where the weights are; read by vLLM when it is imported.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # the threads are the training's too
        import vllm
        import vllm._custom_ops as custom_ops
        from vllm.platforms import current_platform

        self._vllm, self.dtype, self.eos_ids, self.slots = vllm, dtype, sorted(eos_ids), slots
        extra = {}
        if ranks > 1:  # each rank's engine is its own, in the process group that is there
            from vllm.utils.network_utils import get_open_port

            os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
            os.environ.setdefault("MASTER_PORT", str(get_open_port()))
            extra["distributed_executor_backend"] = "external_launcher"
        if current_platform.is_cpu():
            # oneDNN packs weights when they are loaded, so that a later push would not reach the kernels.
            custom_ops._supports_onednn = False
            # Compiling takes half a minute and gains a tenth.
            extra |= {"kv_cache_memory_bytes": 2**30, "enforce_eager": True}
        config = copy.deepcopy(model.config)
        config.architectures = config.architectures or [type(model).__name__]
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            llm = vllm.LLM(
                model=folder,
                load_format="dummy",
                skip_tokenizer_init=True,
                dtype=str(dtype).removeprefix("torch."),
                max_num_seqs=slots,
                max_model_len=max_model_len,
                gpu_memory_utilization=memory_share,
                enable_prefix_caching=True,
                logprobs_mode="processed_logprobs",  # at the sampling temperature
                seed=0,  # of vLLM's own random weights; a sample's comes with its request
                disable_log_stats=True,
                **extra,
            )
        self._engine = llm.llm_engine
        self._weights = self._engine.model_executor.driver_worker.model_runner.model
        self.max_model_len = self._engine.model_config.max_model_len
        self.vocabulary = config.get_text_config().vocab_size
        self.sampling = Sampling()
        self.loaded: object = None  # whose weights it has, for its user to say
        self._live: dict[str, int] = {}  # vLLM's name of a request -> our key
        self._next_key = 0
        self._sums_agree: bool | None = None  # whether this architecture's tensors can be compared by their bits

    # ---------------------------------------------------------------- drawing

    @property
    def free(self) -> int:
        """Slots neither running nor promised to a waiting request; negative while more wait than fit."""
        return self.slots - len(self._live)

    def submit(self, request: Request) -> int:
        """Queue a request; the key returned names its sample in `poll`'s answer."""
        if not 0 <= min(request.ids) <= max(request.ids) < self.vocabulary:
            raise ValueError(f"token {max(request.ids)} is outside the model's vocabulary of {self.vocabulary}")
        if len(request.ids) + request.max_tokens > self.max_model_len:
            raise ValueError(
                f"a prompt of {len(request.ids)} tokens and {request.max_tokens} more exceed vLLM's limit of "
                f"{self.max_model_len}: raise --vllm_max_model_length, or lower --max_completion_length"
            )
        how = self.sampling
        parameters = self._vllm.SamplingParams(
            max_tokens=request.max_tokens,
            seed=request.seed,
            temperature=how.temperature,
            top_p=how.top_p,
            top_k=how.top_k,
            min_p=how.min_p or 0.0,
            ignore_eos=True,  # the model's configuration may know fewer of them than the tokenizer
            stop_token_ids=self.eos_ids,
            logprobs=0,
            detokenize=False,
            output_kind=self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        )
        self._live[self._add(request.ids, parameters)] = self._next_key
        self._next_key += 1
        return self._next_key - 1

    def _add(self, ids: tuple[int, ...], parameters) -> str:
        name = str(self._next_key)
        self._engine.add_request(name, self._vllm.inputs.tokens_input(list(ids)), parameters)
        return name

    def poll(self) -> dict[int, Sample]:
        """One step of vLLM; the samples that ended, by key."""
        if not self._live:
            return {}
        done = {}
        for output in self._engine.step():
            if output.finished:
                (drawn,) = output.outputs
                logprobs = tuple(at[token].logprob for at, token in zip(drawn.logprobs, drawn.token_ids, strict=True))
                done[self._live.pop(output.request_id)] = Sample(tuple(drawn.token_ids), drawn.finish_reason, logprobs)
        return done

    def abort(self, key: int) -> int:
        """Give up a request that has not ended; the tokens that were drawn for it. KeyError if there is none."""
        name = next((name for name, k in self._live.items() if k == key), None)
        if name is None:
            raise KeyError(key)
        del self._live[name]
        states = self._engine.output_processor.request_states.values()
        drawn = next(state.detokenizer.num_output_tokens() for state in states if state.external_req_id == name)
        self._engine.abort_request([name])
        return drawn

    # ---------------------------------------------------------------- weights

    def load(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the training model's tensors, one at a time, by their names in transformers."""
        self.loaded = None
        if self._live:
            raise RuntimeError(
                f"weights were pushed while {len(self._live)} samples were being drawn with the old ones"
            )
        pushed = 0
        for name, tensor in parameters:
            tensor = tensor.detach().to(self.dtype)
            self._weights.load_weights([(name, tensor)])
            pushed += bit_sum(tensor)
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM kept keys and values of the old weights: its prefix cache could not be reset")
        agree = pushed % 2**64 == sum(map(bit_sum, self._weights.parameters())) % 2**64
        if self._sums_agree and not agree:
            raise RuntimeError(
                "vLLM does not hold the weights that were pushed (their bits add up differently): samples would come "
                "from an old policy. Use --engine torch, and report this with your vLLM version"
            )
        if self._sums_agree is None:
            self._sums_agree = agree  # an architecture whose tensors vLLM transforms is checked by `check` only

    def check(self, model: PreTrainedModel) -> float:
        """Compare log-probabilities of fixed tokens with the training model's; the mean difference, in nats."""
        return compare_with_model(self._prompt_logprobs, model, self.vocabulary, self.max_model_len, self.dtype)

    def _prompt_logprobs(self, ids: tuple[int, ...]) -> list[float]:
        """Log-probability of every token but the first."""
        how = self._vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        name = self._add(ids, how)
        self._next_key += 1
        while True:
            for output in self._engine.step():
                if output.request_id == name and output.finished:
                    return [at[token].logprob for at, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]


@torch.no_grad()
def compare_with_model(
    scored: Callable[[tuple[int, ...]], list[float]],
    model: PreTrainedModel,
    vocabulary: int,
    longest: int,
    dtype: torch.dtype,
) -> float:
    """The mean difference between vLLM's and the training model's log-probabilities of fixed tokens, in nats.

    Args:
        scored: vLLM's log-probabilities of all tokens but the first.
        model: the training model.
        vocabulary: its number of tokens.
        longest: most tokens that vLLM takes.
        dtype: in which vLLM computes.

    Raises:
        RuntimeError: for a difference beyond rounding.
    """
    length = min(24, longest - 1)
    ids = torch.randint(0, vocabulary, (4, length), generator=torch.Generator().manual_seed(0))
    logits = model(input_ids=ids.to(model.device)).logits[:, :-1].float()
    expected = logits.log_softmax(-1).gather(-1, ids[:, 1:, None].to(model.device))[..., 0].cpu()
    found = torch.tensor([scored(tuple(row)) for row in ids.tolist()])
    difference = (found - expected).abs().mean().item()
    if not difference <= TOLERANCE[dtype]:
        raise RuntimeError(
            f"vLLM's log-probabilities differ from the training model's by {difference:.3g} nats on average (at "
            f"most {TOLERANCE[dtype]:g} is rounding in {dtype}): its weights are not the trained ones. "
            "Use --engine torch, and report this with your vLLM version"
        )
    return difference


def bit_sum(tensor: Tensor) -> int:
    """Sum of a tensor's elements read as integers, modulo 2^64: the same for any order and any split."""
    kind = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return int(tensor.detach().contiguous().view(kind).sum(dtype=torch.int64)) % 2**64
