"""The benchmarks' rows, whatever layout they come in, and their lm-eval tasks: graded to 1 and to 0."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from places import DATA

import trapo_evals.benchmarks as benchmarks
from trapo_evals.benchmarks import BENCHMARKS, GROUPS, content_hash, load, names, register, shuffled

TASKS = Path(benchmarks.__file__).parent / "tasks"

STAND_IN = [{"problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(30)]


def real(name):
    """Its real file's path, or the test is skipped."""
    path = DATA / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not here: set TRAPO_TEST_DATA")
    return path


def read(path):
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


def write(path, rows):
    """Rows as JSONL or parquet, by the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    return path.parent


def papers(row, source="set"):
    """A row in the layout of the papers' validation files."""
    prompt = [{"role": "system", "content": "Think."}, {"role": "user", "content": row["problem"]}]
    return {"data_source": source, "prompt": prompt, "reward_model": {"ground_truth": row["answer"], "style": "rule"}}


def refusal(*args, **kwargs):
    """The one line with which `load` refuses."""
    with pytest.raises(ValueError) as error:
        load(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


# The hub's layouts. Each question says which text is right.


def gpqa_rows(n):
    wrong = {f"Incorrect Answer {i}": f"false {i} " for i in (1, 2, 3)}
    return [{"Question": f"Q{i}?\n", "Correct Answer": f"\ttrue {i}\n", "Subdomain": "x"} | wrong for i in range(n)]


def mmlu_pro_rows(n):
    rows = []
    for i in range(n):
        options = [f"false {k}" for k in range(3 + i % 8)]  # 3 to 10
        options[i % len(options)] = f"true {i}"
        options += ["N/A"] * (len(options) < 10)
        answer = {"answer": "ABCDEFGHIJ"[options.index(f"true {i}")], "answer_index": options.index(f"true {i}")}
        rows.append({"question_id": i, "question": f"Q{i}?", "options": options} | answer)
    return rows


def arc_rows(n):
    rows = []
    for i in range(n):
        labels = ("12345" if i % 2 else "ABCDE")[: 3 + i % 3]
        texts = [f"true {i}" if k == i % len(labels) else f"false {k}" for k in range(len(labels))]
        choices = {"text": texts, "label": list(labels)}
        rows.append({"id": f"x{i}", "question": f"Q{i}?", "choices": choices, "answerKey": labels[i % len(labels)]})
    return rows


HUB = {"gpqa": gpqa_rows, "mmlu_pro": mmlu_pro_rows, "arc_c": arc_rows}


# The real files


@pytest.mark.parametrize(
    ("name", "rows", "n", "found"),
    [("aime24", 960, 30, "bad2768cab7db517"), ("math500", 500, 500, "7156baeddb14a114")],
)
def test_the_papers_files(name, rows, n, found, tmp_path):
    path = real(name)
    questions = load(name, path.parent)
    assert len(read(path)) == rows and len(questions) == n == len({q.id for q in questions})
    assert content_hash(questions) == found == BENCHMARKS[name].content_hash
    assert not any(q.choices for q in questions)

    rows = read(path)
    changed, dropped = [json.loads(json.dumps(row)) for row in rows], tmp_path / "dropped"
    for row in changed:
        if row["prompt"] == rows[0]["prompt"]:
            row["reward_model"]["ground_truth"] = "123456"
    other = write(tmp_path / "changed" / f"valid.{name}.parquet", changed)
    said = refusal(name, other)
    assert f"valid.{name}.parquet has the content hash" in said and f"the papers' is {found}" in said
    assert "take the benchmark's own rows" in said and "check=False" in said
    passed = load(name, other, check=False)
    assert passed[0].answer == "123456" and [q.id for q in passed[1:]] == [q.id for q in questions[1:]]

    write(dropped / f"{name}.jsonl", [row for row in rows if row["prompt"] != rows[0]["prompt"]])
    said = refusal(name, dropped)
    assert f"{name}.jsonl has {n - 1} questions (hash " in said and f"not {n}: take" in said and "check=False" in said
    assert len(load(name, dropped, check=False)) == n - 1


def test_a_real_question_word_for_word():
    real("aime24")
    first = load("aime24", DATA)[0]
    assert first.problem.startswith("Every morning Aya goes for a $9$-kilometer-long walk") and first.answer == "204"
    assert first.prompt == first.problem  # without the papers' system prompt


# Layouts


def test_every_layout_and_file_gives_the_same_questions(tmp_path):
    chats = [papers(row) for row in STAND_IN]
    found = []
    for i, (file, rows) in enumerate(
        [
            ("aime24.jsonl", STAND_IN),
            ("aime24.parquet", STAND_IN),
            ("valid.aime24.parquet", chats),
            ("valid.aime24.jsonl", chats * 32),
            ("aime24.jsonl", [row | {"answer": float(row["answer"])} for row in STAND_IN]),  # as AMC's on the hub
        ]
    ):
        found.append(load("aime24", write(tmp_path / str(i) / file, rows), check=False))
    assert all(questions == found[0] for questions in found)
    assert [q.problem for q in found[0]] == [row["problem"] for row in STAND_IN]
    assert [q.answer for q in found[0]] == [row["answer"] for row in STAND_IN]
    assert len({q.id for q in found[0]}) == 30


def test_jsonl_as_others_write_it(tmp_path):
    """A byte order mark, Windows line ends, empty lines, and a line separator within a problem."""
    text = '\ufeff{"problem": "a\u2028b", "answer": 1}\r\n\r\n{"problem": "c", "answer": [1, "2"]}\r\n'
    (tmp_path / "aime24.jsonl").write_bytes(text.encode())
    found = load("aime24", tmp_path, check=False)
    assert [(q.problem, q.answer) for q in found] == [("a\u2028b", "1"), ("c", "1, 2")]


def test_ids_are_of_what_is_said_and_questions_asked_twice_are_kept_where_the_count_is_right(tmp_path):
    rows = [*STAND_IN[:29], STAND_IN[3] | {"problem": "What is  3 +\n1?"}]
    questions = load("aime24", write(tmp_path / "aime24.jsonl", rows), check=False)
    assert questions[29].id == questions[3].id + "-2" and len({q.id for q in questions}) == 30
    back = load("aime24", write(tmp_path / "b" / "aime24.jsonl", STAND_IN[::-1]), check=False)
    assert {q.problem: q.id for q in back if q in questions} == {q.problem: q.id for q in questions[:29]}


def test_the_hash_by_hand():
    from hashlib import sha256

    one = benchmarks.Question("", "b  e\u0301", "2")
    two = benchmarks.Question("", "a", "T", ())
    three = replace(two, problem="c", answer="B", choices=("y", "x"))
    lines = "\n".join(["a\tT", "b \u00e9\t2", "c x y\tx"])
    assert content_hash([three, one, two, one]) == sha256(lines.encode()).hexdigest()[:16]


def test_the_papers_file_of_all_six_is_told_apart_by_content(tmp_path, monkeypatch):
    parts = {
        name: [{"problem": f"{name} {i}", "answer": i} for i in range(BENCHMARKS[name].rows[0])]
        for name in ("aime25", "minerva")
    }
    for name, rows in parts.items():
        alone = load(name, write(tmp_path / name / f"{name}.jsonl", rows), check=False)
        monkeypatch.setitem(BENCHMARKS, name, replace(BENCHMARKS[name], content_hash=content_hash(alone)))
    mixed = [("two", row) for row in parts["minerva"]] + [("one", row) for row in parts["aime25"]] * 32
    mixed = [papers(row | {"answer": str(row["answer"])}, source) for source, row in mixed[::-1]]
    folder = write(tmp_path / "all" / "valid.all.parquet", mixed)
    assert {q.problem for q in load("aime25", folder)} == {f"aime25 {i}" for i in range(30)}
    assert [q.answer for q in load("minerva", folder)] == [str(i) for i in range(272)][::-1]
    said = refusal("aime24", folder)
    assert "no data source in" in said and "(one, two) has the content hash bad2768cab7db517" in said
    assert "put aime24.parquet or aime24.jsonl beside it" in said


# Choices


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", HUB)
def test_the_right_letter_is_at_the_right_text(name, kind, tmp_path):
    rows = HUB[name](400)
    folder = write(tmp_path / f"{name}.{kind}", rows)
    questions = load(name, folder, check=False)
    assert [q.problem for q in questions] == [f"Q{i}?" for i in range(400)]
    for i, (q, row) in enumerate(zip(questions, rows, strict=True)):
        assert q.choices["ABCDEFGHIJ".index(q.answer)] == f"true {i}"
        assert f"\n{q.answer}. true {i}\n" in q.prompt and q.prompt.startswith(f"Q{i}?\n\nA. {q.choices[0]}\nB. ")
        assert q.prompt.endswith(r"Give the letter of the right choice in \boxed{}, such as \boxed{A}.")
        n = {"gpqa": 4, "mmlu_pro": 3 + i % 8, "arc_c": 3 + i % 3}[name]
        assert sorted(q.choices) == sorted([f"true {i}", *(f"false {k}" for k in _wrong(name, row))])
        assert len(q.choices) == n
    # Uniform: of the 400 / k questions with k choices at its letter, within four standard deviations.
    for n in {len(q.choices) for q in questions}:
        letters = Counter(q.answer for q in questions if len(q.choices) == n)
        expected = sum(letters.values()) / n
        assert all(abs(letters[letter] - expected) < 4 * expected**0.5 for letter in "ABCDEFGHIJ"[:n])


def _wrong(name, row):
    if name == "gpqa":
        return (1, 2, 3)
    texts = row["options"] if name == "mmlu_pro" else row["choices"]["text"]
    return [text.removeprefix("false ") for text in texts if text.startswith("false")]


@pytest.mark.parametrize("name", HUB)
def test_the_order_depends_on_seed_and_question_alone(name, tmp_path):
    rows = HUB[name](100)
    ahead = {q.problem: q for q in load(name, write(tmp_path / f"{name}.jsonl", rows), check=False)}
    back = load(name, write(tmp_path / "b" / f"{name}.parquet", rows[::-1]), check=False)
    assert {q.problem: q for q in back} == ahead
    other = load(name, write(tmp_path / f"{name}.jsonl", rows), seed=1, check=False)
    assert {q.problem: q.id for q in other} == {p: q.id for p, q in ahead.items()}
    assert content_hash(other) == content_hash(ahead.values())
    # Two random orders of k >= 3 texts agree with probability 1/6 at most.
    assert sum(q.choices != ahead[q.problem].choices for q in other) > 60


def test_orders_that_no_process_may_change():
    choices = ["iron", "neon", "wood", "salt"]
    assert shuffled(choices, 0, "Which is a metal?") == ["neon", "iron", "wood", "salt"]
    assert shuffled(reversed(choices), 0, " Which is  a metal?\n") == ["neon", "iron", "wood", "salt"]
    assert shuffled(choices, 1, "Which is a metal?") == ["iron", "salt", "wood", "neon"]
    assert shuffled(choices, 0, "Which is a gas?") == ["salt", "wood", "iron", "neon"]


def test_fillers_and_repeated_choices_are_shown_once(tmp_path):
    rows = [
        {"question": "a", "options": ["N/A", "x", " x", "y", "N/A"], "answer_index": 1},
        {"question": "b", "options": ["N/A", "x", "y", "N/A"], "answer_index": 0},  # not a filler: it is right
    ]
    first, second = load("mmlu_pro", write(tmp_path / "mmlu_pro.jsonl", rows), check=False)
    assert sorted(first.choices) == ["x", "y"] and sorted(second.choices) == ["N/A", "x", "y"]
    assert second.choices["ABC".index(second.answer)] == "N/A"


def test_choices_within_the_problem_need_a_letter(tmp_path):
    row = {"problem": "Which? (A) iron (B) neon", "answer": "B"}
    (question,) = load("arc_c", write(tmp_path / "arc_c.jsonl", [row]), check=False)
    assert (question.prompt, question.answer, question.choices) == (row["problem"], "B", ())
    for bad in ("neon", "AB", "0"):
        said = refusal("arc_c", write(tmp_path / "arc_c.jsonl", [row | {"answer": bad}]), check=False)
        assert "row 1 has no choices" in said and repr(bad) in said


# Bad input


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no rows"),
        ("\n \n", "has no rows"),
        ('{"problem": "a", "answer": "1"}\n\n{"problem": "b", "ans', "aime24.jsonl, line 3 cannot be read: Unterm"),
        ('{"question": "a", "answer": "1"}\n', "row 1 has question, answer, but KeyError('problem'): give problem and"),
        ("[1, 2]\n", "row 1 has list, but AttributeError"),
        (
            '{"problem": "a", "answer": "1"}\n{"problem": "b", "answer": NaN}\n',
            "row 2 has the problem 'b' and the answ",
        ),
        ('{"problem": "b", "answer": null}\n', "and the answer None: give both"),
        ('{"problem": "b", "answer": ""}\n', "and the answer '': give both"),
        ('{"problem": "b", "answer": []}\n', "and the answer []: give both"),
        ('{"problem": " ", "answer": "1"}\n', "has the problem ' ' and"),
        ('{"problem": null, "answer": "1"}\n', "has the problem None and"),
        ('{"problem": 3, "answer": "1"}\n', "has the problem 3 and"),
        ('{"prompt": "a", "reward_model": {"ground_truth": "1"}}\n', "has prompt, reward_model, but TypeError"),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_bad_rows(text, said, check, tmp_path):
    (tmp_path / "aime24.jsonl").write_text(text)
    found = refusal("aime24", tmp_path, check=check)
    assert found.startswith(f"aime24: {tmp_path / 'aime24.jsonl'}") and said in found


def test_bad_choices(tmp_path):
    def said(name, row):
        return refusal(name, write(tmp_path / f"{name}.jsonl", [row]), check=False)

    (gpqa,), (arc,), (mmlu,) = gpqa_rows(1), arc_rows(1), mmlu_pro_rows(1)
    assert "row 1 has Question, Correct Answer" in said("gpqa", gpqa | {"Correct Answer": None})
    assert "ValueError(\"'Z' is not in list\")" in said("arc_c", arc | {"answerKey": "Z"})
    assert "IndexError('list index out of range')" in said("mmlu_pro", mmlu | {"answer_index": 12})
    assert "has 1 choices: give 2 to 10" in said("mmlu_pro", mmlu | {"options": ["x", "x"], "answer_index": 0})
    many = list(map(str, range(11)))
    assert "has 11 choices: give 2 to 10" in said("mmlu_pro", mmlu | {"options": many, "answer_index": 0})


def test_bad_names_files_and_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "_loaders", {})  # whatever another test has registered
    assert refusal("aime23").startswith("'aime23' is no benchmark: there are aime24, aime25,")
    assert refusal("math", tmp_path).startswith("'math' is no benchmark")  # a group: see `names`
    assert f"the data folder {tmp_path / 'no'} is none: give the one" in refusal("aime24", tmp_path / "no")
    (tmp_path / "aime24.parquet").write_bytes(b"PAR1 torn")
    assert refusal("aime24", tmp_path).startswith(f"aime24: {tmp_path / 'aime24.parquet'} cannot be read: ")
    (tmp_path / "aime25.jsonl").write_bytes(b'{"problem": "\xff"}')
    assert "can't decode byte 0xff" in refusal("aime25", tmp_path)
    with pytest.raises(ValueError, match="'nothing' is no benchmark"):
        register("nothing", list)
    assert "its rows come from `trapo eval`; elsewhere, put world_test.parquet" in refusal("world_test")


def test_where_rows_come_from(tmp_path):
    path = write(tmp_path / "valid.aime24.jsonl", STAND_IN[:6]) / "valid.aime24.jsonl"
    assert benchmarks.source("aime24", tmp_path) == str(path)
    hub = "math-ai/minervamath, test, revision main (unverified)"
    assert benchmarks.source("minerva", tmp_path) == benchmarks.source("minerva") == hub
    assert benchmarks.source("gpqa").startswith("Idavidrein/gpqa, gpqa_diamond, train, revision 633f5ee8")
    assert benchmarks.source("world_test") is None


def test_names():
    assert names("math500, general,aime24,math500") == ["math500", "gpqa", "mmlu_pro", "arc_c", "aime24"]
    assert names("all") == list(BENCHMARKS)
    for bad in ("", "math,", "aime24;aime25"):
        with pytest.raises(ValueError, match=r"is no benchmark: .*; groups math, contests, general, world, all; or"):
            names(bad)


# The hub


@pytest.fixture
def log_lines():
    """All that the two libraries log."""
    lines, handler = [], logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    loggers = [logging.getLogger(library) for library in ("huggingface_hub", "datasets")]
    for logger in loggers:
        logger.addHandler(handler)
    yield lines
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.mark.parametrize("offline", ["1", "0"])
def test_without_the_hub_it_ends_soon_in_one_line(offline, tmp_path):
    """With HF_HUB_OFFLINE=0 at an address where nothing listens: the libraries alone would sleep for 20 seconds."""
    code = """
import sys, time
slept = []
time.sleep = slept.append
import datasets
from trapo_evals.benchmarks import load
try:
    load("gpqa")
except ValueError as error:
    print(error)
assert sum(slept) < 8
assert datasets.config.HF_HUB_OFFLINE == (sys.argv[1] == "1")  # as it was before
"""
    hub = {"HF_HUB_OFFLINE": offline, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "NO_PROXY": "*"}
    done = subprocess.run([sys.executable, "-c", code, offline], env=os.environ | hub, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.startswith("gpqa: Idavidrein/gpqa (revision 633f5ee") and "the hub is out of reach" in line
    assert line.endswith("or put gpqa.parquet, .jsonl or .csv into a folder and give it as --data-dir")
    assert "gated" not in line


@pytest.mark.parametrize("fake", ["datasets", "hub"])
def test_a_gated_set_says_so(fake, tmp_path, monkeypatch, log_lines):
    """Both as datasets raises it, which loses the cause on its way, and with the cause still there."""
    import datasets
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def gated(*args, **kwargs):
        raise GatedRepoError("403", response=SimpleNamespace(status_code=403, headers={}, request=None))

    def load_dataset(*args, **kwargs):
        try:
            gated()
        except GatedRepoError as error:
            raise RuntimeError("no") from error

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=lambda *a, **k: None))
    if fake == "hub":
        monkeypatch.setattr(huggingface_hub.HfApi, "hf_hub_download", gated)
    else:
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    said = refusal("gpqa")
    assert "is gated: accept its terms at https://huggingface.co/datasets/Idavidrein/gpqa and set HF_TOKEN" in said
    assert "out of reach" not in said and "or put gpqa.parquet" in said and log_lines == []


def test_another_failure_of_the_hub_is_passed_on(monkeypatch):
    import datasets

    def load_dataset(*args, **kwargs):
        raise datasets.exceptions.DatasetNotFoundError("no such\nrevision")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    said = refusal("gpqa")
    assert "cannot be loaded from the hub: no such revision; or put" in said and "gated" not in said


def test_a_cached_set_loads_offline(tmp_path, monkeypatch, log_lines):
    import datasets

    file = write(tmp_path / "rows.jsonl", STAND_IN) / "rows.jsonl"
    made = datasets.load_dataset("json", data_files={"test": str(file)}, cache_dir=str(tmp_path / "made"))["test"]
    arrow = Path(made.cache_files[0]["filename"])
    cached = tmp_path / "cache" / "math-ai___aime25" / "default" / "0.0.0" / "abc"
    cached.mkdir(parents=True)
    shutil.copy(arrow, cached / "aime25-test.arrow")
    info = json.loads((arrow.parent / "dataset_info.json").read_text()) | {"dataset_name": "aime25"}
    (cached / "dataset_info.json").write_text(json.dumps(info))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.warns(UserWarning, match="the papers' is 20163a6125362aa4; its revision 563bb84.* is unverified"):
        questions = load("aime25")
    assert [q.answer for q in questions] == [row["answer"] for row in STAND_IN] and log_lines == []
    assert logging.getLogger("datasets").level == logging.WARNING  # as before


# The tasks


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
    found = simple_evaluate(model=model, tasks=tasks, task_manager=manager, bootstrap_iters=0, **arguments)
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

    found, model = evaluate(quarter, ["trapo_math"], manager(stand_ins, check=False), repeats=4, limit=2)
    assert len(model.asked) == 6 * 2 and set(model.asked.values()) == {4}
    assert found["groups"]["trapo_math"]["avg@n,none"] == (0.25 + 0.75) / 2
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
