"""Kinds of hostile or careless input; each makes, from a random generator, files in a folder and a command line."""

import json
import random
import shutil
from dataclasses import dataclass, fields
from pathlib import Path

import conftest
import run_folders

SECRET = "hf_Pl4ntedSecretPl4nted"
NAMES = [
    "[/a]",
    "[bold]",
    "a\x1b[31mb",
    "a\u202eb",
    "x y",
    "-",
    "--",
    "\\",
    "%s{0}",
    ":smile:",
    "é",
    "a" * 200,
    "'\"`$(x)",
]
VALUES = [
    None, True, False, 0, -1, 1.5, 10**20, -(10**20), 10**400, 1e308, float("nan"), float("inf"), "", "x", "1", "nan",
    "[/a]", "\x1b[31m", "\u202e", [], [1], ["x"], {}, {"a": 1}, [[]], {"a": {"b": [1]}}, "\ud800", "x" * 5000,
]  # fmt: skip
WORDS = ["", "x", "-1", "0", "1e400", "nan", "inf", "-inf", "9" * 20, "9" * 400, "1,2", "[1]", "{}", "{", "null",
         "true", "paper", "[/a]", "\x1b[31m", "a\u202eb", "../..", "/dev/null", "/proc/self/mem", "\u0661",
         "0x10", "1_000"]  # fmt: skip
WORLD = ["--max_completion_length", "24", "--per_device_train_batch_size", "16"]


@dataclass
class Try:
    """A command to run, and what it must leave alone."""

    arguments: list[str]
    kept: list[Path]
    secret: bool = False


class Base:
    """What tries start from, made once: a tiny model, rows, a run, two evaluations."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model, self.rows = folder / "model", folder / "rows.jsonl"
        conftest.new_model().save_pretrained(self.model)
        conftest.new_tokenizer().save_pretrained(self.model)
        self.rows.write_text("".join(json.dumps(row) + "\n" for row in conftest.ROWS))
        self.run = run_folders.make_run(folder / "run")
        self.evaluations = [evaluation(folder / f"eval-{i}", i) for i in range(2)]

    def train(self, *more, data=None, model=None):
        """A dry run on the tiny model."""
        named = ["--model", str(model or self.model), "--data", str(data or self.rows)]
        return ["train", "--dry-run", *named, *WORLD, *map(str, more)]


def evaluation(path: Path, seed: int) -> Path:
    """A finished evaluation of four questions."""
    path.mkdir()
    rng = random.Random(seed)
    samples = [
        {"key": f"{seed}-{q}-{i}", "task": "math500", "question": f"q{q}", "index": i, "seed": i, "finish": "stop",
         "prompt_tokens": 3, "tokens": 5, "ids": [1, 2], "logprob": None, "text": f"\\boxed{{{rng.randint(0, 1)}}}"}
        for q in range(4) for i in range(2)
    ]  # fmt: skip
    questions = [{"task": "math500", "id": f"q{q}", "prompt": "?", "answer": "1"} for q in range(4)]
    graded = [
        {"key": s["key"], "task": "math500", "question": s["question"], "index": s["index"], "gold": "1", "answer": "1",
         "status": "correct", "reference": "correct", "finish": "stop", "tokens": 5} for s in samples
    ]  # fmt: skip
    average = {"value": 0.5, "low": 0.1, "high": 0.9, "se_questions": 0.1, "se_resampling": 0.1}
    settings = {"bench": "math500", "temperature": 0.6, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "template": "raw",
                "seed": 0, "engine": "torch", "dtype": "float32", "samples": 2}  # fmt: skip
    data = {"questions": 4, "samples": 2, "max_tokens": 8, "hash": "h", "prompts": "p", "first prompt": "?", "of": 4}
    record = {
        "settings": settings, "data": {"math500": data},
        "model": {"label": f"m{seed}", "path": "m", "content": f"c{seed}", "alpha": None, "run": {}},
        "results": {"math500": {"avg@n": average, "questions": 4, "samples": 2}}, "groups": {},
        "environment": {"command": ["trapo", "eval"], "versions": {}}, "device": "cpu",
    }  # fmt: skip
    (path / "eval.json").write_text(json.dumps(record))
    for name, records in (("samples", samples), ("questions", questions), ("graded", graded)):
        run_folders.write(path / f"{name}.jsonl", records)
    return path


# ---------------------------------------------------------------- damage


def damaged(value, rng: random.Random):
    """A JSON value with one thing in it changed: replaced, removed, or added."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(list(value))
        if rng.random() < 0.2:
            return {k: v for k, v in value.items() if k != name}
        return value | {name: damaged(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        i = rng.randrange(len(value))
        return [*value[:i], damaged(value[i], rng), *value[i + 1 :]]
    return rng.choice(VALUES)


def dumped(value) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def damage_file(path: Path, rng: random.Random) -> None:
    """One of: a value changed, bytes cut, bytes replaced, nothing left, something else altogether."""
    content = path.read_bytes()
    how = rng.random()
    if how < 0.75:
        lines = content.splitlines() if path.suffix == ".jsonl" else [content]
        i = rng.randrange(len(lines))
        lines[i] = dumped(damaged(json.loads(lines[i]), rng))
        path.write_bytes(b"\n".join(lines) + b"\n")
    elif how < 0.85:
        path.write_bytes(content[: rng.randrange(len(content))])
    elif how < 0.92:
        i = rng.randrange(len(content))
        path.write_bytes(content[:i] + rng.randbytes(3) + content[i + 3 :])
    else:
        path.write_bytes(rng.choice([b"", b"[" * 3000 + b"]" * 3000, b"3", b"null", b"\xff\xfe", b"{}\n{}\n"]))


def copied(folder: Path, to: Path, rng: random.Random) -> Path:
    """A copy of a folder with one of its JSON files damaged."""
    copy = Path(shutil.copytree(folder, to))
    damage_file(rng.choice(sorted(path for path in copy.rglob("*.json*") if path.is_file())), rng)
    return copy


# ---------------------------------------------------------------- kinds


def run_folder(base: Base, tmp: Path, rng: random.Random) -> Try:
    """A damaged run beside a whole one: report."""
    shutil.copytree(base.run, tmp / "runs" / "whole")
    copied(base.run, tmp / "runs" / "bad", rng)
    return Try(["report", str(tmp / "runs"), "--out", str(tmp / "report.html")], [tmp / "runs"])


def compared(base: Base, tmp: Path, rng: random.Random) -> Try:
    """A damaged evaluation: compare."""
    bad = copied(base.evaluations[1], tmp / "bad", rng)
    pair = [str(base.evaluations[0]), str(bad)]
    return Try(["compare", *rng.sample(pair, 2), "--out", str(tmp / "out")], [bad])


def regraded(base: Base, tmp: Path, rng: random.Random) -> Try:
    """A damaged evaluation: eval --regrade."""
    bad = copied(base.evaluations[0], tmp / "bad", rng)
    return Try(["eval", "--regrade", str(bad)], [bad / "samples.jsonl"])


def sweep_state(base: Base, tmp: Path, rng: random.Random) -> Try:
    """A damaged sweep: sweep, with nothing left to run."""
    folder = tmp / "sweep"
    for alpha in ("0.1", "1"):
        run_folders.make_run(folder / f"alpha={alpha},seed=0", alpha=float(alpha))
    record = {"common": [], "bench": "", "samples": 4, "grids": [], "points": {}, "command": []}
    (folder / "sweep.json").write_text(json.dumps(record))
    damage_file(rng.choice(sorted(folder.rglob("*.json*"))), rng)
    flags = ["--seeds", "1", "--bench", "", "--out", str(folder), "--jobs", "1"]
    return Try(["sweep", "alpha=0.1,1", *flags], sorted(folder.glob("alpha*")))


def yaml_file(base: Base, tmp: Path, rng: random.Random) -> Try:
    """A YAML file of fields with values of any type."""
    import yaml

    path = tmp / "config.yaml"
    values = {name: rng.choice(VALUES) for name in rng.sample(field_names(), rng.choice([1, 1, 2, 4]))}
    text = yaml.safe_dump(values, allow_unicode=False)
    path.write_text(
        rng.choice([text, text, text, text, "[" * 3000 + "]" * 3000, "a: &a [*a]", "- 1", "3", "a: b: c", text + "\t"])
    )
    if rng.random() < 0.2:
        return Try(base.train("--recipe", path), [path, base.rows])
    return Try(base.train("--config", path), [path, base.rows])


def flag(base: Base, tmp: Path, rng: random.Random) -> Try:
    """A field of the configuration with any word."""
    name, word = rng.choice(field_names()), rng.choice(WORDS)
    form = rng.choice([[f"--{name}", word], [f"--{name}={word}"], [f"--{name.replace('_', '-')}", word]])
    return Try(base.train(*form), [base.rows])


def option(base: Base, tmp: Path, rng: random.Random) -> Try:
    """An option of another command with any word."""
    commands = {
        "eval": (["--bench", "math500", "--model", str(base.model), "--dry-run", "--template", "raw"],
                 "bench model data-dir samples limit temperature top-p top-k min-p max-tokens template seed engine "
                 "base-url dtype slots regrade"),
        "compare": ([str(base.evaluations[0]), str(base.evaluations[1]), "--out", str(tmp / "out")], "seed"),
        "report": ([str(base.run), "--out", str(tmp / "r.html")], "rollouts out"),
        "toy-gmm": (["--seeds", "1", "--out", str(tmp / "toy")], "seeds seed alpha token-alpha expert policy"),
        "sweep": (["alpha=0.1", "--bench", "", "--out", str(tmp / "sweep")], "seeds seed jobs launcher bench samples"),
        "data": (["prepare", str(base.rows), "--out", str(tmp / "p.jsonl"), "--bench", ""],
                 "out second tokenizer max-tokens bench data-dir split"),
    }  # fmt: skip
    command = rng.choice(list(commands))
    given, names = commands[command]
    word = rng.choice([word for word in WORDS if word not in ("..", "../..")])
    more = [f"--{rng.choice(names.split())}={word}"]
    if command in ("toy-gmm", "sweep") and not more[0].endswith(("=x", "=-1", "=nan", "=[1]", "=1e400", "=", "=inf")):
        more = [more[0].partition("=")[0] + "=nan"]  # what might be a size that it would then work through
    return Try([command, *given, *more], [base.rows, base.run, *base.evaluations])


def rows_file(base: Base, tmp: Path, rng: random.Random) -> Try:
    """Rows with values of any type, or lines that are none."""
    path = tmp / "rows.jsonl"
    rows = [dict(row) for row in conftest.ROWS]
    lines = [dumped(row) for row in rows]
    for _ in range(rng.choice([1, 3, 16])):
        i = rng.randrange(16)
        lines[i] = (
            dumped(damaged(rows[i], rng)) if rng.random() < 0.85 else rng.choice([b"", b"{", b"3", b"\xff", b"[]"])
        )
    path.write_bytes(b"\n".join(lines) + b"\n")
    if rng.random() < 0.3:
        return Try(["data", "prepare", str(path), "--bench", "", "--out", str(tmp / "out.jsonl")], [path])
    return Try(base.train(data=path), [path])


def model_folder(base: Base, tmp: Path, rng: random.Random) -> Try:
    """A model whose configuration or tokenizer is damaged."""
    copy = copied(base.model, tmp / "model", rng)
    return Try(base.train(model=copy), [base.rows])


def template(base: Base, tmp: Path, rng: random.Random) -> Try:
    """A chat template that is anybody's program."""
    copy = Path(shutil.copytree(base.model, tmp / "model"))
    text = rng.choice([
        "{{ messages }}", "{% for m in messages %}{{ m.content }}{% endfor %}", "{{ 1/0 }}",
        "{% if %}", "{{ messages[9].content }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ raise_exception('[/a]') }}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "{{ 'a' * 10**9 }}", "{{ 9**(9**9) }}", "\x1b[31m{{ messages[0].content }}\u202e", "",
    ])  # fmt: skip
    (copy / "chat_template.jinja").write_text(text)
    rows = [row | {"prompt": [{"role": "user", "content": row["prompt"]}]} for row in conftest.ROWS]
    run_folders.write(tmp / "rows.jsonl", rows)
    return Try(base.train(data=tmp / "rows.jsonl", model=copy), [tmp / "rows.jsonl"])


def name(base: Base, tmp: Path, rng: random.Random) -> Try:
    """A path or a name that is markup, control characters, or too long."""
    word = rng.choice(NAMES)
    where = tmp / "names"
    where.mkdir()
    arguments = [
        base.train("--output_dir", where / word), base.train("--run_name", word), base.train(data=where / word),
        base.train(model=where / word), base.train("--recipe", word), base.train("--config", where / word),
        ["report", str(where / word)], ["compare", str(where / word), str(base.run)],
        ["eval", "--regrade", str(where / word)], ["eval", "--bench", word], ["sweep", word],
        ["data", "prepare", str(where / word), "--out", str(tmp / "o.jsonl")],
    ]  # fmt: skip
    return Try(rng.choice(arguments), [base.rows, base.run])


def secret(base: Base, tmp: Path, rng: random.Random) -> Try:
    """A token or a password in any place that takes a text."""
    url = f"http://me:{SECRET}@127.0.0.1:9/v1"
    arguments = [
        base.train("--hub_token", SECRET), base.train("--run_name", SECRET),
        base.train("--engine", "vllm-server", "--vllm_server_base_url", url), base.train("--hub_tokn", SECRET),
        base.train("--model_init_kwargs", json.dumps({"token": SECRET})), base.train(data=url), base.train(model=url),
        ["eval", "--bench", "math500", "--model", str(base.model), "--engine", "server", "--base-url", url],
        ["eval", "--bench", "math500", "--model", f"{SECRET}/x", "--dry-run"],
        ["report", str(base.run), "--out", str(tmp / "r.html"), SECRET],
        ["sweep", "alpha", "--hub_token", SECRET, "--jobs", "0"],
        ["compare", *map(str, base.evaluations), "--out", str(tmp / SECRET[:3])],
    ]  # fmt: skip
    return Try(rng.choice(arguments), [base.rows, base.run], secret=True)


def foreign_folder(base: Base, tmp: Path, rng: random.Random) -> Try:
    """An output folder that holds somebody's work."""
    mine = tmp / "mine"
    mine.mkdir()
    (mine / rng.choice(["run.json", "notes.txt", "metrics.jsonl", "eval.json", "sweep.json"])).write_text(
        rng.choice(["", "{}", "[1]", "mine"])
    )
    (mine / "checkpoints").mkdir()
    (mine / "checkpoints" / rng.choice(["checkpoint-abc", "checkpoint-1", "best"])).mkdir()
    train = base.train("--output_dir", mine)
    train.remove("--dry-run")
    arguments = [
        train, [*train, "--resume"],
        ["eval", "--bench", "math500", "--model", str(base.model), "--template", "raw", "--out", str(mine)],
        ["compare", *map(str, base.evaluations), "--out", str(mine / "notes.txt")],
        ["data", "prepare", str(base.rows), "--bench", "", "--out", str(base.rows)],
    ]  # fmt: skip
    return Try(rng.choice(arguments), [mine, base.rows])


_fields: list[str] = []


def field_names() -> list[str]:
    """The fields of the configuration that a dry run may be given: without those that write or wait somewhere."""
    if not _fields:
        from trapo.run_config import RunConfig

        apart = {
            "output_dir",
            "logging_dir",
            "local_rank",
            "ddp_backend",
            "ddp_timeout",
            "deepspeed",
            "parallelism_config",
        }
        _fields.extend([*sorted(f.name for f in fields(RunConfig) if f.init and f.name not in apart), "deepspeed"])
    return _fields


# How often each is tried: what many found something in, more often.
KINDS = {
    run_folder: 10, compared: 10, regraded: 8, sweep_state: 8, yaml_file: 14, flag: 14, option: 10, rows_file: 8,
    model_folder: 6, template: 3, name: 10, secret: 6, foreign_folder: 4,
}  # fmt: skip
