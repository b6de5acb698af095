"""The lm-eval tasks: graded to 1 and to 0, ours to sample from, and plain lm-eval's."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from bench_rows import HUB, STAND_IN, real, write
from places import DATA

import trapo_evals.benchmarks as benchmarks
from trapo_evals.benchmarks import BENCHMARKS, GROUPS, load, register

TASKS = Path(benchmarks.__file__).parent / "tasks"


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """A folder with six rows of every benchmark, in one layout or another."""
    folder = tmp_path_factory.mktemp("data")
    for name, benchmark in BENCHMARKS.items():
        if benchmark.kind == "math":
            write(folder / f"{name}.jsonl", STAND_IN[:6])
        elif benchmark.kind == "choice":
            write(folder / f"{name}.parquet", HUB[name](6))
    return folder


@pytest.fixture
def world_rows():
    from trapo_toy import world

    register("world_test", lambda: world.rows("test", 6))
    for probe in ("direct", "facts"):
        register(f"world_{probe}", lambda probe=probe: world.probes(probe, 6))
    yield
    benchmarks._loaders.clear()


def manager(data_dir, **metadata):
    from lm_eval.tasks import TaskManager

    metadata = {"data_dir": str(data_dir), **metadata}
    return TaskManager(include_path=str(TASKS), include_defaults=False, metadata=metadata)


def evaluate(answer, tasks, manager, repeats=None, **arguments):
    """lm-eval's results with a model that says `answer(gold, i)` as a question's i-th sample.

    repeats: instead of the tasks' own. Of {"task": name, "repeats": n}, lm-eval 0.4.13 makes a task without our YAML.
    """
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM

    class Says(LM):
        def __init__(self):
            super().__init__()
            self.prompts, self.asked, self.settings = {}, Counter(), {}

        def generate_until(self, requests):
            said = []
            for request in requests:
                (prompt, self.settings[request.task_name]), key = request.args, (request.task_name, request.doc_id)
                self.prompts[key] = prompt
                said.append(answer(request.doc["answer"], self.asked[key]))
                self.asked[key] += 1
            return said

        def loglikelihood(self, requests):
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    if repeats:
        loaded = manager.load(tasks)
        tasks = [loaded["groups"].get(name) or loaded["tasks"][name] for name in tasks]
        for task in loaded["tasks"].values():
            task.set_config("repeats", repeats)
    model = Says()
    arguments = {"bootstrap_iters": 0} | arguments
    found = simple_evaluate(model=model, tasks=tasks, task_manager=manager, **arguments)
    return found, model


def boxed(gold, i):
    return f"<think>\\boxed{{0}}</think> so \\boxed{{{gold}}}"


def wrong(gold, i):
    other = ("B" if gold == "A" else "A") if gold in tuple("ABCDEFGHIJ") else "-987654321"
    return f"\\boxed{{{gold}}}</think> so \\boxed{{{other}}}"


METRICS = ("avg@n", "wrong", "no_box", "timeout", "error")


@pytest.mark.parametrize(
    ("answer", "metric"),
    [(boxed, "avg@n"), (wrong, "wrong"), (lambda gold, i: "", "no_box"), (lambda gold, i: r"\boxed{ }", "no_box")],
)
def test_every_task_is_graded_to_one_and_to_zero(answer, metric, stand_ins, world_rows):
    found, model = evaluate(answer, ["trapo_all"], manager(stand_ins, check=False))
    assert {f"trapo_{name}" for name in BENCHMARKS} < set(found["results"])
    for name, benchmark in BENCHMARKS.items():
        result = found["results"][f"trapo_{name}"]
        assert [result[f"{m},none"] for m in METRICS] == [float(m == metric) for m in METRICS], name
        assert {k: n for (task, k), n in model.asked.items() if task == f"trapo_{name}"} == dict.fromkeys(
            range(6), benchmark.samples
        )
    for group in ("trapo_math", "trapo_general"):
        assert found["groups"][group]["avg@n,none"] == float(metric == "avg@n")


@pytest.mark.parametrize("name", ["aime24", "math500"])
def test_the_real_golds_in_a_box_are_all_correct(name):
    real(name)
    found, model = evaluate(boxed, [f"trapo_{name}"], manager(DATA), repeats=1)
    assert found["results"][f"trapo_{name}"]["avg@n,none"] == 1.0
    assert len(model.prompts) == BENCHMARKS[name].rows[0]
    if name == "aime24":
        found, _ = evaluate(wrong, ["trapo_aime24"], manager(DATA), repeats=1)
        assert found["results"]["trapo_aime24"]["wrong,none"] == 1.0


def test_every_sample_counts_and_repeats_can_be_set(stand_ins):
    """Of four samples one is right where the gold is odd, else three."""

    def quarter(gold, i):
        right = i == 3 if int(gold) % 2 else i != 3
        return rf"\boxed{{{gold}}}" if right else (r"\boxed{-5}" if i else "hm")

    found, model = evaluate(
        quarter, ["trapo_math"], manager(stand_ins, check=False), repeats=4, limit=2, bootstrap_iters=10
    )
    assert len(model.asked) == 6 * 2 and set(model.asked.values()) == {4}
    assert found["groups"]["trapo_math"]["avg@n,none"] == (0.25 + 0.75) / 2
    # Its error is over questions, clustered: sd of (1/4, 3/4) / sqrt(2), not of eight samples.
    assert found["results"]["trapo_aime24"]["avg@n_stderr,none"] == pytest.approx(0.25)
    first, second = found["samples"]["trapo_aime24"]
    assert (first["avg@n"], first["wrong"], first["no_box"]) == (0.25, 0.5, 0.25) and second["avg@n"] == 0.75


def test_what_the_model_is_asked_and_how(stand_ins, world_rows):
    tasks = ["trapo_aime24", "trapo_arc_c", "trapo_world_test"]
    _, model = evaluate(boxed, tasks, manager(stand_ins, check=False), limit=1)
    request = "Please reason step by step, and put your final answer within \\boxed{}."
    assert model.prompts["trapo_aime24", 0] == f"What is 0 + 1?\n\n{request}"
    assert model.prompts["trapo_arc_c", 0] == load("arc_c", stand_ins, check=False)[0].prompt
    assert request not in model.prompts["trapo_arc_c", 0] + model.prompts["trapo_world_test", 0]
    papers_own = {"until": [], "do_sample": True, "temperature": 0.6, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
    for task, tokens in zip(tasks, (8192, 8192, 136), strict=True):
        assert model.settings[task] == papers_own | {"repetition_penalty": 1.0, "max_gen_toks": tokens}
    _, bare = evaluate(boxed, ["trapo_aime24"], manager(stand_ins, check=False, request=False), limit=1)
    assert bare.prompts == {("trapo_aime24", 0): "What is 0 + 1?"}
    _, other = evaluate(boxed, ["trapo_gpqa"], manager(stand_ins, check=False, choice_seed=0))
    _, seeded = evaluate(boxed, ["trapo_gpqa"], manager(stand_ins, check=False, choice_seed=1))
    assert other.prompts != seeded.prompts


def test_a_problem_that_holds_its_choices_is_followed_by_the_request(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAPO_DATA_DIR", str(tmp_path / "no"))  # the metadata's folder goes first
    write(tmp_path / "arc_c.jsonl", [{"problem": "Which? (A) iron (B) neon", "answer": "B"}])
    _, model = evaluate(boxed, ["trapo_arc_c"], manager(tmp_path, check=False))
    request = "Please reason step by step, and put your final answer within \\boxed{}."
    assert model.prompts["trapo_arc_c", 0] == f"Which? (A) iron (B) neon\n\n{request}"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (r"\boxed{E}", "correct"),
        (r"\boxed{A} no, \boxed{\text{(E)}.}", "correct"),
        (r"\boxed{e}", "wrong"),  # Euler's, perhaps
        (r"\boxed{D}", "wrong"),
        (r"\boxed{F} or \boxed{E", "wrong"),
        (r"\boxed{E} it was</think> E", "no_box"),
        (r"\boxed{}", "no_box"),
    ],
)
def test_letters(text, status):
    from trapo_evals.tasks.utils import letter
    from trapo_evals.verdicts import letter_status

    assert letter_status(text, "E") == status
    assert letter({"answer": "E"}, [[text, r"\boxed{E}"]])["avg@n"] == (1.0 if status == "correct" else 0.5)


def test_the_yaml_files_and_the_table_say_the_same():
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    files = {path.stem: yaml.load(path.read_text(), Loader) for path in TASKS.glob("trapo_*.yaml")}
    groups = {name: file["task"] for name, file in files.items() if "group" in file}
    assert set(files) == {f"trapo_{name}" for name in (*BENCHMARKS, *GROUPS)}
    assert set(groups) == {f"trapo_{name}" for name in GROUPS}
    for name, benchmark in BENCHMARKS.items():
        file = files[f"trapo_{name}"]
        kind = {"math": "_math.yaml", "choice": "_choice.yaml", "world": "_world.yaml"}[benchmark.kind]
        assert file == {
            "task": f"trapo_{name}",
            "include": kind,
            "dataset_kwargs": {"benchmark": name},
            "repeats": benchmark.samples,
        }
    for name in ("math", "contests", "general", "world"):
        assert groups[f"trapo_{name}"] == [f"trapo_{member}" for member in GROUPS[name]]
    assert groups["trapo_all"] == ["trapo_math", "trapo_contests", "trapo_general", "trapo_world"]


def test_plain_lm_eval_runs_a_task(tmp_path, make_model, tokenizer):
    make_model(max_position_embeddings=512).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    data = write(tmp_path / "data" / "aime24.jsonl", STAND_IN)
    command = [sys.executable, "-m", "lm_eval", "--include_path", TASKS, "--tasks", "trapo_aime24", "--limit", "2"]
    command += ["--model_args", f"pretrained={tmp_path / 'model'},max_length=512,dtype=float32", "--device", "cpu"]
    command += ["--gen_kwargs", "max_gen_toks=4", "--batch_size", "64", "--metadata", '{"check": false}']
    env = os.environ | {"TRAPO_DATA_DIR": str(data)}
    done = subprocess.run([*map(str, command)], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "'top_k': 0" in done.stderr and "/64 [" in done.stderr  # 2 questions, 32 samples of each
    cells = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines() if "none" in line]
    shares = {row[5]: float(row[7]) for row in cells}  # of five bytes at most: none has a whole box
    assert shares == {"avg@n": 0, "wrong": 0, "no_box": 1, "gold-unparsed": 0, "timeout": 0, "error": 0}
