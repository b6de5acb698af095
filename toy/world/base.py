"""The weak base model, made from scratch: what it is taught, and how.

It is a Llama of about 175,000 parameters that behaves like a language model after pretraining. On the world's problems
it nearly always guesses, at once or after a few far-apart values, and rarely (`Making.think`) works step by step, with
slips. What it knows well are bare facts and problems of one or two operations.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from . import task
from .tokenizer import make_tokenizer


@dataclass(frozen=True)
class Making:
    """How a base is made; all of it goes into `made.json`.

    Attributes:
        seed: of the weights and of everything drawn.
        modulus: of all arithmetic.
        steps, learning_rate, warmup: of AdamW; the rate falls linearly to zero after the warm-up.
        long, prose, short: texts per step: problems as long as the world's, the same in prose, shorter ones; 0 for
            none.
        think, terse, talk: how often a long problem is answered step by step, with far-apart values, or in prose; else
            it is a guess.
        practice: share of long texts that are `think` without loss on the first token: skill without the habit. All
            prose is such practice.
        slip_rate, prose_slip_rate: chance per step that `think`, or prose, is wrong in what the base is shown.
        embedding_std: of the first embeddings; too small, and what tells tokens apart is lost in the first steps.
        hidden, layers, heads, mlp: size of the model.
    """

    seed: int = 0
    modulus: int = task.MODULUS
    steps: int = 1500
    learning_rate: float = 6e-3
    warmup: int = 100
    long: int = 40
    prose: int = 16
    short: int = 128
    think: float = 0.02
    terse: float = 0.1
    talk: float = 0.01
    practice: float = 0.35
    slip_rate: float = 0.2
    prose_slip_rate: float = 0.1
    embedding_std: float = 0.2
    hidden: int = 64
    layers: int = 3
    heads: int = 4
    mlp: int = 160


def make_base(making: Making, log: Callable[[str], None] = lambda line: None) -> LlamaForCausalLM:
    """Train a base from scratch; the same settings on the same machine give the same bits."""
    tokenizer, model = make_tokenizer(), new_model(making)
    optimizer = torch.optim.AdamW(model.parameters(), lr=making.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    rng, started = Random(f"base {making.seed}"), time.perf_counter()
    sources = {
        "long": (long_texts(making, rng), making.long),
        "prose": (prose_texts(making, rng), making.prose),
        "short": (short_texts(making, rng), making.short),
    }
    for step in range(making.steps):
        ramp = min((step + 1) / making.warmup, (making.steps - step) / (making.steps - making.warmup))
        for group in optimizer.param_groups:
            group["lr"] = making.learning_rate * ramp
        losses = {}
        for name, (texts, n) in sources.items():
            if n:
                loss = answer_loss(model, tokenizer, [next(texts) for _ in range(n)])
                loss.backward()
                losses[name] = loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            seconds = time.perf_counter() - started
            figures = ", ".join(f"{loss:.3f} {name}" for name, loss in losses.items())
            log(f"step {step + 1}: loss {figures}, {seconds:.0f} s")
    return model.eval()


def new_model(making: Making) -> LlamaForCausalLM:
    """Fresh weights from the seed alone, whatever torch's global generator has done."""
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=making.hidden,
        intermediate_size=making.mlp,
        num_hidden_layers=making.layers,
        num_attention_heads=making.heads,
        num_key_value_heads=making.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(making.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.4 * making.hidden**-0.5, generator=generator)
        embedding = model.get_input_embeddings().weight.normal_(std=making.embedding_std, generator=generator)
        # "a*3" starts as the sum of a label and an operation: learnt once each, not once per pair.
        parts = torch.empty(len(task.LABELS) + len(task.OPERATIONS), making.hidden)
        parts.normal_(std=making.embedding_std, generator=generator)
        for i, label in enumerate(task.LABELS):
            for j, op in enumerate(task.OPERATIONS, len(task.LABELS)):
                (token,) = tokenizer(f" {label}{op}")["input_ids"]
                embedding[token] = (parts[i] + parts[j]) * 0.5**0.5
    return model


@dataclass(frozen=True)
class Text:
    """What the base learns from: no loss on the prompt, nor on the answer's first token where `habit` is False."""

    prompt: str
    answer: str
    habit: bool = True


def long_texts(making: Making, rng: Random) -> Iterator[Text]:
    """Problems of the split "base": guesses, far-apart values, a little step by step; and practice of the latter."""
    source = task.problems("base", rng.getrandbits(32), modulus=making.modulus)
    for problem in source:
        practice, u = rng.random() < making.practice, rng.random()
        if practice or u < making.think:
            answer = task.think(problem, rng, making.slip_rate)
        elif u < making.think + making.talk:
            answer = task.prose(problem, rng, making.prose_slip_rate)
        else:
            terse = u < making.think + making.talk + making.terse
            answer = task.terse(problem) if terse else task.guess(problem, rng)
        yield Text(problem.prompt, answer, habit=not practice)


def prose_texts(making: Making, rng: Random) -> Iterator[Text]:
    """Problems of the split "base" in prose, without the habit: an expert's sentences are not all foreign to it."""
    for problem in task.problems("base", rng.getrandbits(32), modulus=making.modulus):
        yield Text(problem.prompt, task.prose(problem, rng, making.prose_slip_rate), habit=False)


def short_texts(making: Making, rng: Random) -> Iterator[Text]:
    """Bare facts and problems of one or two operations, answered at once."""
    while True:
        if rng.random() < 0.3:
            op = rng.choice(task.OPERATIONS)
            x, labelled = rng.randrange(making.modulus), rng.choice(task.LABELS) + op
            yield Text(task.fact_prompt(x, labelled), task.boxed(task.apply(op, x, making.modulus)))
        else:
            n = rng.choice((1, 2, 2))
            problem = task.draw_problem(rng, (n, n), making.modulus)
            yield Text(problem.prompt, task.direct(problem))


def answer_loss(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[Text]) -> torch.Tensor:
    """Mean cross-entropy over the answers' tokens and EOS."""
    prompts = tokenizer([t.prompt for t in texts])["input_ids"]
    answers = tokenizer([t.answer for t in texts])["input_ids"]
    width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True)) + 1
    ids = torch.full((len(texts), width), tokenizer.pad_token_id)
    labels = torch.full((len(texts), width), -100)
    for i, (text, p, a) in enumerate(zip(texts, prompts, answers, strict=True)):
        a = [*a, tokenizer.eos_token_id]
        ids[i, : len(p) + len(a)] = torch.tensor(p + a)
        labels[i, len(p) + (not text.habit) : len(p) + len(a)] = torch.tensor(a[not text.habit :])
    kept = labels[:, 1:] != -100
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1][kept]  # (tokens with a loss, hidden)
    return torch.nn.functional.cross_entropy(model.lm_head(hidden), labels[:, 1:][kept])
