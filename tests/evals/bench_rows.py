"""Rows of every benchmark's layout, made up, and files of them."""

import json

import pytest
from places import DATA

from trapo_evals.benchmarks import load

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
