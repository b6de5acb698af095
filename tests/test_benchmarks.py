"""Benchmarks: the right questions, whatever file they come from; and as lm-eval tasks, graded 1.0 and 0.0."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import conftest
import httpx
import pyarrow
import pyarrow.parquet
import pytest
import yaml

from trapo_evals import benchmarks
from trapo_evals.benchmarks import BENCHMARKS, GROUPS, content_hash, load, names, shuffled
from trapo_toy import world

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("TRAPO_TEST_DATA", ROOT / ".." / "shared" / "data"))
TASKS = ROOT / "evals" / "tasks"
CHOICE = ("gpqa", "mmlu_pro", "arc_c")


def real(name):
    path = DATA / f"{name}.parquet"
    if not path.is_file():
        pytest.skip(f"{path} is not there: set TRAPO_TEST_DATA to a folder that has it")
    return path


def write(path, rows):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def plain(n, offset=0):
    return [{"problem": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(offset, offset + n)]


def papers(rows, source="x", times=1):
    return [
        {
            "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": row["problem"]}],
            "reward_model": {"ground_truth": row["answer"], "style": "rule"},
            "data_source": source,
        }
        for row in rows
        for _ in range(times)
    ]


def gpqa(n):
    wrong = {f"Incorrect Answer {k}": [f"no {k} of {{}}", f"never {k} of {{}}"][k % 2] for k in (1, 2, 3)}
    return [
        {"Question": f"Which is {i}?", "Correct Answer": f"yes {i}\n", "Record ID": str(i)}
        | {name: text.format(i) for name, text in wrong.items()}
        for i in range(n)
    ]


def mmlu_pro(n):
    return [
        {
            "question_id": i,
            "question": f"Pick {i}.",
            "options": [f"option {k} of {i}" for k in range(3 + i % 8 if i % 8 != 7 else 9)] + ["N/A"] * (i % 2),
            "answer": "ABC"[i % 3],
            "answer_index": i % 3,
            "category": "math",
        }
        for i in range(n)
    ]


def arc(n):
    rows = []
    for i in range(n):
        count = 3 + i % 3
        labels = [str(k + 1) for k in range(count)] if i % 2 else list("ABCDE"[:count])
        texts = [f"text {k} of {i}" for k in range(count)]
        rows.append(
            {
                "id": str(i),
                "question": f"Why {i}?",
                "choices": {"text": texts, "label": labels},
                "answerKey": labels[i % 3],
            }
        )
    return rows


HUB = {"gpqa": gpqa, "mmlu_pro": mmlu_pro, "arc_c": arc}


# ---------------------------------------------------------------- the papers' files


@pytest.mark.parametrize(("name", "rows"), [("aime24", 30), ("math500", 500)])
def test_the_papers_files_are_what_the_papers_asked(name, rows):
    path = real(name)
    questions = load(name, path.parent)
    assert len(questions) == rows == len({q.id for q in questions})
    assert content_hash(questions) == BENCHMARKS[name].content_hash
    if name == "aime24":
        assert pyarrow.parquet.read_table(path).num_rows == 960  # each 32 times


def test_another_file_in_their_place_is_refused(tmp_path):
    rows = pyarrow.parquet.read_table(real("math500")).to_pylist()
    rows[3]["reward_model"]["ground_truth"] = "17"
    write(tmp_path / "math500.parquet", rows)
    with pytest.raises(ValueError, match=r"math500.parquet has the content hash \w+, the papers' is 7156baeddb14a114"):
        load("math500", tmp_path)
    write(tmp_path / "math500.parquet", rows[:-1])
    with pytest.raises(ValueError, match=r"has 499 questions .*, not 500: take the benchmark's own rows"):
        load("math500", tmp_path)
    assert len(load("math500", tmp_path, check=False)) == 499


# ---------------------------------------------------------------- layouts


@pytest.fixture
def small(monkeypatch):
    """aime24 of thirty small sums."""
    questions = [benchmarks.Question("", row["problem"], row["answer"]) for row in plain(30)]
    aime = replace(BENCHMARKS["aime24"], content_hash=content_hash(questions))
    monkeypatch.setitem(BENCHMARKS, "aime24", aime)
    return aime


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_every_layout_asks_the_same(small, suffix, tmp_path):
    found = []
    for i, rows in enumerate((plain(30), papers(plain(30)), papers(plain(30), times=32), plain(30)[::-1])):
        folder = tmp_path / str(i)
        folder.mkdir()
        write(folder / f"{'valid.' * (i % 2)}aime24.{suffix}", rows)
        found.append(load("aime24", folder))
    assert found[0] == found[1] == found[2] == found[3][::-1]
    assert found[0][2].problem == found[0][2].prompt == "What is 2 + 2?" and found[0][2].answer == "4"


def test_the_combined_file_is_told_apart_by_content(small, tmp_path):
    write(tmp_path / "valid.all.parquet", papers(plain(30, 50), "other") + papers(plain(30), "who knows", 32))
    assert [q.answer for q in load("aime24", tmp_path)] == [row["answer"] for row in plain(30)]
    with pytest.raises(
        ValueError, match=r"no data source in .*valid.all.parquet \(other, who knows\) has the content hash"
    ):
        load("amc23", tmp_path)


def test_a_question_asked_twice_keeps_both(tmp_path):
    rows = plain(271) + plain(1)
    write(tmp_path / "minerva.jsonl", [{"question": r["problem"], "answer": r["answer"]} for r in rows])
    questions = load(replace(BENCHMARKS["minerva"], content_hash=None), tmp_path)
    assert len(questions) == 272 and questions[-1].id == f"{questions[0].id}-2"


def test_numbers_are_golds_as_people_write_them(tmp_path):
    write(tmp_path / "amc23.jsonl", [{"problem": str(i), "answer": answer} for i, answer in enumerate((27.0, 2.5, 3))])
    assert [q.answer for q in load("amc23", tmp_path, check=False)] == ["27", "2.5", "3"]


@pytest.mark.parametrize("name", CHOICE)
def test_the_letter_is_that_of_the_right_choice(name, tmp_path):
    rows = HUB[name](40)
    write(tmp_path / f"{name}.parquet", rows)
    questions = load(name, tmp_path, check=False)
    for row, q in zip(rows, questions, strict=True):
        right = {
            "gpqa": lambda r: r["Correct Answer"].strip(),
            "mmlu_pro": lambda r: r["options"][r["answer_index"]],
            "arc_c": lambda r: r["choices"]["text"][r["choices"]["label"].index(r["answerKey"])],
        }[name](row)
        assert q.choices["ABCDEFGHIJ".index(q.answer)] == right
        assert f"\n{q.answer}. {right}\n" in q.prompt and q.prompt.endswith("such as \\boxed{A}.")
    assert {len(q.choices) for q in questions} == {"gpqa": {4}, "mmlu_pro": {*range(3, 10)}, "arc_c": {3, 4, 5}}[name]
    assert "N/A" not in str([q.choices for q in questions])
    letters = Counter(q.answer for q in load(name, tmp_path, seed=1, check=False) + questions)
    assert max(letters.values()) < 45  # of 80: not always the same place


def test_the_shuffle_is_a_pure_function_of_seed_and_question(tmp_path):
    assert (
        shuffled("wxyz", 0, "Why?") == shuffled("zyxw", 0, " Why? ") == ["x", "z", "y", "w"]
    )  # in any process, for ever
    orders = {tuple(shuffled("wxyz", seed, question)) for seed in range(20) for question in ("Why?", "How?")}
    assert len(orders) > 15  # of 24
    write(tmp_path / "gpqa.jsonl", gpqa(20))
    one = load("gpqa", tmp_path, seed=3, check=False)
    write(tmp_path / "gpqa.jsonl", gpqa(20)[::-1])
    assert load("gpqa", tmp_path, seed=3, check=False)[::-1] == one
    other = load("gpqa", tmp_path, seed=4, check=False)[::-1]
    assert [q.id for q in other] == [q.id for q in one] and content_hash(other) == content_hash(one)
    assert other != one


# ---------------------------------------------------------------- what is not there


def test_names_and_groups():
    assert names("math500, world,aime24,math500") == ["math500", "world_test", "world_direct", "world_facts", "aime24"]
    assert len(names("all")) == len(BENCHMARKS) == 12
    with pytest.raises(ValueError, match="'aime' is no benchmark: there are aime24, aime25"):
        names("aime24,aime")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has 0 questions"),
        ('{"problem": "x", "answer": "1"}\n{"problem": "y", "ans', "cannot be read: Unterminated string"),
        ('{"text": "x"}\n', "row 1 has text, and KeyError"),
        ('{"problem": "x", "answer": NaN}\n', "has the problem 'x' and the answer nan: give both"),
        ('{"problem": " ", "answer": "1"}\n', "has the problem ' ' and the answer '1': give both"),
        ("[1, 2]\n", "row 1 has list"),
    ],
)
def test_a_broken_file_is_one_line(content, message, tmp_path):
    (tmp_path / "aime24.jsonl").write_text(content)
    with pytest.raises(ValueError) as caught:
        load("aime24", tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value) and "aime24.jsonl" in str(caught.value)


def test_no_folder_and_no_hub(tmp_path):
    with pytest.raises(ValueError, match=r"is no folder: give the one that holds aime24.parquet"):
        load("aime24", tmp_path / "none")
    code = "from trapo_evals.benchmarks import load\ntry: load('arc_c')\nexcept ValueError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr == "" and done.stdout.count("\n") == 1
    assert "arc_c: allenai/ai2_arc (revision 210d026f" in done.stdout and "--data-dir" in done.stdout


def test_a_gated_benchmark_says_what_to_do(monkeypatch):
    import datasets
    from huggingface_hub.errors import GatedRepoError

    def gated(*args, **kwargs):
        try:
            raise GatedRepoError("401", response=httpx.Response(401, request=httpx.Request("GET", "https://hub")))
        except Exception as error:
            raise RuntimeError("could not load") from error

    monkeypatch.setattr(datasets, "load_dataset", gated)
    with pytest.raises(
        ValueError, match=r"is gated: accept its terms .*https://huggingface.co/datasets/Idavidrein/gpqa.* HF_TOKEN"
    ):
        load("gpqa")


# ---------------------------------------------------------------- as lm-eval tasks


class Oracle:
    """Answers each request with `say(gold, i)` for its i-th clone."""

    def __new__(cls, say):
        from lm_eval.api.model import LM

        class Model(LM):
            def generate_until(self, requests, disable_tqdm=False):
                times, said = Counter(), []
                for request in requests:
                    name = (request.task_name, request.doc["id"])
                    said.append(say(request.doc["answer"], times[name]))
                    times[name] += 1
                return said

            loglikelihood = loglikelihood_rolling = None

        Model.__abstractmethods__ = frozenset()
        return Model()


@pytest.fixture(scope="module")
def score(tmp_path_factory):
    """benches, say, limit -> each one's avg@n, no_box and number of questions, by lm-eval."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("data")
    for name in CHOICE:
        write(folder / f"{name}.parquet", HUB[name](30))
    for name in ("aime24", "math500"):
        if (DATA / f"{name}.parquet").is_file():
            (folder / f"{name}.parquet").symlink_to((DATA / f"{name}.parquet").resolve())
    held_out = world.training_data()[1]
    for name, rows in held_out.items():
        benchmarks.register(f"world_{name}", lambda rows=rows: rows)

    def run(benches, say, limit=None, samples=None):
        metadata = {"data_dir": str(folder), "check": False}
        manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata=metadata)
        tasks = manager.load([f"trapo_{name}" for name in benches])
        for task in tasks["tasks"].values():
            task.set_config("repeats", samples or 1)
        found = lm_eval.evaluate(Oracle(say), tasks, limit=limit, bootstrap_iters=0, log_samples=True)
        return {
            name: (found["results"][f"trapo_{name}"]["avg@n,none"], found["results"][f"trapo_{name}"]["no_box,none"],
                   len(found["samples"][f"trapo_{name}"]))
            for name in benches
        }  # fmt: skip

    return run


def right(gold, i):
    return f"Let us see. So \\boxed{{{gold}}}."


def wrong(gold, i):
    return f"So \\boxed{{{'ABCDEFGHIJ'[('ABCDEFGHIJ'.index(gold) + 1) % 3] if gold in 'ABCDEFGHIJ' else gold + '+1'}}}."


@pytest.mark.parametrize("name", ["aime24", "math500", *CHOICE, "world_test", "world_direct", "world_facts"])
def test_an_oracle_scores_one_and_a_wrong_one_zero(name, score):
    if name in ("aime24", "math500"):
        real(name)
    n = {"aime24": 30, "math500": 500, "world_test": 200, "world_direct": 100, "world_facts": 100}.get(name, 30)
    assert score([name], right) == {name: (1.0, 0.0, n)}
    assert score([name], wrong, limit=60) == {name: (0.0, 0.0, min(n, 60))}
    assert score([name], lambda gold, i: "no idea", limit=3) == {name: (0.0, 1.0, 3)}


def test_all_samples_count(score):
    found = score(["world_facts", "gpqa"], lambda gold, i: right(gold, i) if i == 2 else "hm", limit=5, samples=4)
    assert found == {"world_facts": (0.25, 0.75, 5), "gpqa": (0.25, 0.75, 5)}


def test_tasks_and_benchmarks_agree():
    files = {
        path.stem: yaml.safe_load(path.read_text().replace("!function", "")) for path in TASKS.glob("trapo_*.yaml")
    }
    for name, benchmark in BENCHMARKS.items():
        task = files[f"trapo_{name}"]
        assert task["repeats"] == benchmark.samples and task["dataset_kwargs"] == {"benchmark": name}
        assert task["include"] == f"_{benchmark.kind}.yaml"
    for group in GROUPS.keys() - {"all"}:
        assert files[f"trapo_{group}"]["task"] == [f"trapo_{name}" for name in GROUPS[group]]


def test_plain_lm_eval_runs_a_task(tmp_path):
    conftest.new_model().save_pretrained(tmp_path / "model")
    conftest.new_tokenizer().save_pretrained(tmp_path / "model")
    write(tmp_path / "arc_c.jsonl", arc(1172))
    command = [
        Path(sys.executable).with_name("lm_eval"),
        "--include_path",
        TASKS,
        "--tasks",
        "trapo_arc_c",
        "--limit",
        2,
    ]
    command += ["--model", "hf", "--model_args", f"pretrained={tmp_path / 'model'},dtype=float32", "--device", "cpu"]
    command += ["--gen_kwargs", "max_gen_toks=8", "--output_path", tmp_path / "out"]
    done = subprocess.run(
        [str(part) for part in command],
        env=os.environ | {"TRAPO_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = (tmp_path / "out").rglob("results_*.json")
    result = json.loads(path.read_text())["results"]["trapo_arc_c"]
    assert result["avg@n,none"] == 0.0 and result["no_box,none"] == 1.0
