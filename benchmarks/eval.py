"""Evaluating: trapo's sampler (journal, fsync and all) beside lm-eval's own `hf` model with `repeats`.

    python benchmarks/eval.py --model runs/.../final [--questions 32] [--samples 8] [--repetitions 3]

Both answer the same lm-eval task of the built-in world, graded by the same code: the same prompts, sampled at T = 1,
and the same answers' lengths, log-normal as a reasoning model's are and uniform, where all are about as long as each
other; EOS comes where the length says so. The peer runs in every batch size given and ours with every number of slots;
of each the best counts. Loading is not timed.
"""

import logging
import os
import random
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # for the libraries below

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from rollout import LENGTHS, draw_lengths
from sidebyside import compare, parser, timed, write
from transformers import LogitsProcessor, LogitsProcessorList

from trapo.models import load_model
from trapo.rollout.engines.torch import TorchEngine
from trapo_evals import benchmarks, verdicts
from trapo_evals.evaluate import Settings, load_benches
from trapo_evals.journal import Journal
from trapo_evals.sampler import Prompts, Sampler
from trapo_toy import world


class EndAt(LogitsProcessor):
    """Lets each row of a batch end at its length, and not before."""

    def __init__(self, prompt: int, lengths: list[int], eos: int):
        self.prompt, self.lengths, self.eos = prompt, torch.tensor(lengths), eos

    def __call__(self, input_ids, scores):
        last = input_ids.shape[1] - self.prompt + 1 >= self.lengths
        eos = scores[:, self.eos].clone()
        scores[last] = -torch.inf
        scores[:, self.eos] = torch.where(last, eos, -torch.inf)
        return scores


class Peer(HFLM):
    """lm-eval's model with answers of given lengths."""

    lengths: tuple[int, ...] = ()
    begun = 0

    def _model_generate(self, context, max_length, stop, **kwargs):
        mine = list(self.lengths[self.begun : self.begun + len(context)])
        self.begun += len(context)
        ends = LogitsProcessorList([EndAt(context.shape[1], mine, self.eot_token_id)])
        return super()._model_generate(context, max_length, stop, logits_processor=ends, **kwargs)


class GivenLengths(TorchEngine):
    """The embedded engine with answers of given lengths."""

    def __init__(self, model, lengths, **kwargs):
        super().__init__(model, [], 0, **kwargs)
        self.lengths = iter(lengths)

    def submit(self, request):
        return super().submit(replace(request, max_tokens=next(self.lengths)))


def measure(kind: str, options, bench, model, tokenizer) -> dict:
    """One kind of lengths."""
    total = options.questions * options.samples
    lengths = tuple(draw_lengths(kind, total, random.Random(0)))

    def evaluated(lm):
        verdicts.shared.cache_clear()  # every run grades anew
        verdicts.shared().status("math", "\\boxed{x}", "y")  # and does not wait for its workers to start
        tasks = {"tasks": {"trapo_world_test": bench.task}, "groups": {}, "group_map": {}}
        figures = timed(
            lambda: lm_eval.evaluate(lm, tasks, limit=options.questions, bootstrap_iters=0, log_samples=False) and None
        )
        return figures | {"samples/s": total / figures["wall s"]}

    def ours(slots):
        def run(repetition):
            with tempfile.TemporaryDirectory() as folder:
                sampler = Sampler(
                    Prompts(tokenizer, "tokenizer"),
                    lambda name: False,
                    Journal(Path(folder) / "samples.jsonl"),
                    model="a hash",
                    start=lambda how: GivenLengths(model, lengths, sampling=how, slots=slots),
                    seed=repetition,
                )
                figures = evaluated(sampler)
                assert sorted(record["tokens"] for record in sampler.records) == sorted(lengths)
                return figures

        return run

    def stock(size):
        def run(repetition):
            lm = Peer(pretrained=model, tokenizer=tokenizer, batch_size=size, device="cpu")
            lm.lengths = lengths
            return evaluated(lm)

        return run

    candidates = {f"lm-eval hf, batches of {size}": stock(size) for size in options.batch_sizes}
    candidates |= {f"trapo, {slots} slots": ours(slots) for slots in options.slots}
    title = f"{kind} lengths: {options.questions} questions x {options.samples}, {sum(lengths) / total:.0f} tokens each"
    part = compare(title, candidates, options.repetitions, ratios=(), settings={"lengths": lengths})
    speeds = {name: figures["samples/s"] for name, figures in part["medians"].items()}
    best, peer = (max(v for name, v in speeds.items() if name.startswith(who)) for who in ("trapo", "lm-eval"))
    part["trapo / lm-eval"] = best / peer
    print(f"samples per second, best of trapo / best of lm-eval: {best / peer:.3g}")
    return part


def main() -> None:
    """Measure, print, write."""
    arguments = parser(__doc__, "eval", 3)
    arguments.add_argument("--model", required=True)
    arguments.add_argument("--questions", type=int, default=32)
    arguments.add_argument("--samples", type=int, default=8)
    arguments.add_argument("--slots", type=int, nargs="+", default=[64, 256])
    arguments.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 64, 128, 256])
    options = arguments.parse_args()
    logging.disable(logging.WARNING)
    benchmarks.register("world_test", lambda: world.training_data()[1]["test"])
    longest = max(most for _, _, most in LENGTHS.values())
    settings = Settings("world_test", options.model, samples=options.samples, temperature=1.0, max_tokens=longest)
    (bench,) = load_benches(settings)
    model, tokenizer = load_model(options.model)
    write(options.out, [measure(kind, options, bench, model, tokenizer) for kind in LENGTHS])


if __name__ == "__main__":
    main()
