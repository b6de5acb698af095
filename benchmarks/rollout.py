"""Rollouts: what guidance costs over plain GRPO, and the embedded engine beside transformers' own generation.

    python benchmarks/rollout.py [--model DIR] [--prompts 32] [--slots 64] [--engine torch|vllm] [--part a|b|c]

(a) Every schedule and plain GRPO on the same prompts of the built-in world, ratios to GRPO. Give a trained model
(`trapo train` leaves one in RUN/final): the base nearly always guesses, in four tokens. With `--engine vllm` its heads
are widened, since vLLM's CPU kernels begin at 32 dimensions; it computes the same.

(b) The embedded engine beside `model.generate`, at its best of several batch sizes (each padded to its own longest
prompt and run to its own longest sample), and transformers' continuous batching: 128 samples whose lengths are given
beforehand, log-normal or all alike; tokens per second count what was asked for.

(c) The attention of one decode step where query heads share keys and values (12 and 2, of 128 dimensions): repeated
for every query head as transformers does with a mask, torch's grouped heads, and the query heads folded into the
query's length.
"""

import math
import random
from functools import partial

import torch
from sidebyside import compare, parser, timed, write
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig
from transformers.integrations.sdpa_attention import repeat_kv

from trapo.choices import SCHEDULES
from trapo.grading.grader import Grader
from trapo.method.guidance import Trace, no_guidance
from trapo.method.presets import PRESETS
from trapo.rollout.engines.base import Request, generate
from trapo.rollout.engines.torch import TorchEngine
from trapo.rollout.engines.torch_step import folded
from trapo.rollout.rewards import GraderJudge
from trapo.rollout.scheduler import Rollout
from trapo.rollout.types import Group
from trapo_toy import world
from trapo_toy.world.wide import widen_heads

MAX_TOKENS = 136
SAMPLES, GROUP = 128, 8
LENGTHS = {"log-normal": (50, 1.0, 400), "uniform": (64, 0.0, 64)}  # median, sigma, longest


def schedules(options, model, tokenizer, grader) -> dict:
    """Part (a)."""
    eos = tokenizer.eos_token_id
    groups = []
    for row in world.rows("tune", options.prompts):
        trace = Trace((*tokenizer(row["expert"][0])["input_ids"], eos))
        groups.append(Group(row["id"], tuple(tokenizer(row["prompt"])["input_ids"]), [trace], row))
    if options.engine == "vllm":
        from trapo.rollout.engines.vllm import VLLMEngine

        vllm = VLLMEngine(model, [eos], slots=options.slots)
        vllm.load(model.named_parameters())
        vllm.check(model)

    def candidate(guidance, schedule):
        def run(repetition):
            engine = vllm if options.engine == "vllm" else TorchEngine(model, [eos], 0, slots=options.slots)
            judge = GraderJudge(grader, lambda row: tokenizer.decode(row.completion_ids, skip_special_tokens=True))
            arguments = {"seed": 0, "step": repetition, "max_tokens": MAX_TOKENS, "schedule": schedule}
            rollout = Rollout(groups, guidance, engine, judge, **arguments)
            figures = timed(lambda: drawn.extend(row for group in rollout.run() for row in group))
            figures |= {"engine steps": rollout.cost.polls, "tokens": sum(len(row.own_ids) for row in drawn)}
            samples.setdefault(repetition, {})[schedule, guidance.guides] = [row.own_ids for row in drawn]
            drawn.clear()
            return figures | {"tokens for nothing": rollout.cost.aborted_tokens}

        return run

    drawn, samples = [], {}
    candidates = {"grpo": candidate(no_guidance(GROUP), "pipelined")}
    candidates |= {name: candidate(PRESETS["paper"], name) for name in SCHEDULES}
    title = f"(a) {options.prompts} prompts x {GROUP}, {options.slots} slots, {options.engine}"
    part = compare(title, candidates, options.repetitions, ratios=("wall s", "CPU s", "engine steps"))
    pairs = [
        (a, b)
        for by_schedule in samples.values()
        for name in SCHEDULES[1:]
        for a, b in zip(by_schedule[SCHEDULES[0], True], by_schedule[name, True], strict=True)
    ]
    part["differing samples"] = f"{sum(a != b for a, b in pairs)} of {len(pairs)}"
    print("samples that differ between schedules:", part["differing samples"])
    return part


def draw_lengths(kind: str, n: int, rng: random.Random) -> list[int]:
    """n answers' lengths, in tokens, of a kind in `LENGTHS`."""
    middle, sigma, longest = LENGTHS[kind]
    return [min(longest, max(4, int(rng.lognormvariate(math.log(middle), sigma)))) for _ in range(n)]


def engines(options, model) -> list[dict]:
    """Part (b)."""
    rng = random.Random(0)
    prompts = [tuple(rng.randrange(5, 400) for _ in range(rng.randrange(10, 40))) for _ in range(SAMPLES // GROUP)]
    parts = []
    for kind in LENGTHS:
        lengths = draw_lengths(kind, SAMPLES, rng)
        work = [(prompts[i // GROUP], lengths[i]) for i in range(SAMPLES)]

        def speed(draw, lengths=lengths):
            def run(repetition):
                figures = timed(draw)
                return figures | {"tokens/s": sum(lengths) / figures["wall s"]}

            return run

        def ours(work=work):
            engine = TorchEngine(model, [], 0, slots=SAMPLES)
            generate(engine, [Request(ids, length, i) for i, (ids, length) in enumerate(work)])

        def theirs(size, work=work):
            for start in range(0, SAMPLES, size):
                batch = work[start : start + size]
                width = max(len(ids) for ids, _ in batch)
                ids = torch.tensor([(0,) * (width - len(ids)) + ids for ids, _ in batch])
                mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids, _ in batch])
                steps = max(length for _, length in batch)
                how = {"do_sample": True, "top_k": 0, "max_new_tokens": steps, "min_new_tokens": steps}
                with torch.no_grad():
                    model.generate(ids, attention_mask=mask, pad_token_id=0, eos_token_id=None, **how)

        def continuous(work=work):
            # It takes no length per request: it is given the mean, which is no harder. By default it would spend its
            # time on a cache as large as the machine.
            small = ContinuousBatchingConfig(block_size=32, num_blocks=512, max_batch_tokens=256)
            mean = sum(length for _, length in work) // len(work)
            how = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=mean, eos_token_id=-1, pad_token_id=0)
            model.generate_batch(
                [list(ids) for ids, _ in work], generation_config=how, continuous_batching_config=small
            )

        candidates = {f"generate, batches of {n}": speed(lambda n=n: theirs(n)) for n in (32, 64, 128)}
        candidates |= {"embedded engine": speed(ours), "continuous batching": speed(continuous)}
        title = f"(b) {kind} lengths, {SAMPLES} samples of {sum(lengths) / SAMPLES:.0f} tokens on average"
        part = compare(title, candidates, options.repetitions, ratios=(), settings={"lengths": lengths})
        speeds = {name: figures["tokens/s"] for name, figures in part["medians"].items()}
        best = max(v for name, v in speeds.items() if name.startswith("generate"))
        part["embedded / best generate"] = round(speeds["embedded engine"] / best, 3)
        print("embedded engine / best of generate:", part["embedded / best generate"])
        parts.append(part)
    return parts


def attention(options) -> list[dict]:
    """Part (c)."""
    parts = []
    for rows, columns in ((32, 128), (128, 336)):
        generator = torch.Generator().manual_seed(0)
        query = torch.randn(rows, 12, 1, 128, generator=generator)
        key, value = (torch.randn(rows, 2, columns + 16, 128, generator=generator)[:, :, :columns] for _ in "kv")
        mask = torch.zeros(rows, 1, 1, columns)

        def repeated(query, key, value, attn_mask):
            return scaled_dot_product_attention(query, repeat_kv(key, 6), repeat_kv(value, 6), attn_mask=attn_mask)

        ways = {
            "repeated": repeated,
            "grouped": partial(scaled_dot_product_attention, enable_gqa=True),
            "folded": folded,
        }

        def candidate(attend, tensors=(query, key, value), mask=mask):
            return lambda repetition: timed(lambda: [attend(*tensors, attn_mask=mask) for _ in range(10)] and None)

        title = f"(c) attention of 10 decode steps, {rows} rows x {columns} columns"
        parts.append(compare(title, {name: candidate(way) for name, way in ways.items()}, options.repetitions))
    return parts


def main() -> None:
    """Measure, print, write."""
    arguments = parser(__doc__, "rollout", 5)
    arguments.add_argument("--model", default=str(world.BASE))
    arguments.add_argument("--prompts", type=int, default=32)
    arguments.add_argument("--slots", type=int, default=64)
    arguments.add_argument("--engine", choices=("torch", "vllm"), default="torch")
    arguments.add_argument("--part", choices=("a", "b", "c"))
    options = arguments.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    parts = []
    if options.part in (None, "a"):
        with Grader() as grader:
            wide = widen_heads(model) if options.engine == "vllm" else model
            parts.append(schedules(options, wide, tokenizer, grader))
    if options.part in (None, "b") and options.engine == "torch":
        parts += engines(options, model)
    if options.part in (None, "c"):
        parts += attention(options)
    write(options.out, parts)


if __name__ == "__main__":
    main()
