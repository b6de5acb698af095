import json
import os
import shutil
import signal
import subprocess
import sys
import time

import conftest
import pytest
from places import ROOT, TRAPO
from typer.testing import CliRunner

from trapo.recipe import load_recipe, recipe_names, summary
from trapo.runs.folder import MARKER
from trapo_cli.cli import app


def run(*arguments, **kwargs):
    """The installed command in a process of its own."""
    return subprocess.run([TRAPO, *map(str, arguments)], capture_output=True, text=True, **kwargs)


def invoke(*arguments):
    """The same command in this process, which has already imported torch."""
    return CliRunner().invoke(app, [str(a) for a in arguments], prog_name="trapo")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    conftest.new_model().save_pretrained(folder / "model")
    conftest.new_tokenizer().save_pretrained(folder / "model")
    shutil.copytree(folder / "model", folder / "damaged")
    (folder / "damaged" / "tokenizer.json").write_text('{"a": 1}')
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in conftest.ROWS))
    (folder / "odd.jsonl").write_text('{"question": "1+1=", "solution": "2"}\n')
    (folder / "circle.yaml").write_text("extends: circle.yaml\n")
    (folder / "folder").mkdir()
    (folder / "broken.jsonl").write_text('{"prompt": "1+1=", "answer"\n')
    return folder


@pytest.mark.parametrize(
    "command",
    [["--help"], ["train", "--help"], ["eval", "--help"], ["compare", "--help"], ["recipes"], ["recipes", "--help"]],
)
def test_help_answers_without_torch(command, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('torch was loaded')")
    done = run(*command, env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr


def test_importing_trapo_loads_no_torch_and_no_other_room():
    code = "import sys, trapo; print([m for m in ('torch', 'trl', 'trapo_toy', 'trapo_evals') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_trapo_imports_no_other_room():
    for path in (ROOT / "trapo").rglob("*.py"):
        for room in ("trapo_toy", "trapo_evals", "trapo_analysis", "trapo_cli"):
            assert room not in path.read_text(), f"{path} names {room}"


def test_recipes_are_listed_with_what_they_are():
    done = run("recipes")
    assert [line.split()[0] for line in done.stdout.splitlines()] == recipe_names()
    assert {"trapo", "trapo-reference", "grpo"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_valid_and_says_its_source(name):
    from trapo import TRAPOConfig

    TRAPOConfig(use_cpu=True, **load_recipe(name))
    header = [line for line in _text(name).splitlines() if line.startswith("#")]
    assert any("arXiv" in line or "github.com" in line for line in header) and any("Deviations:" in x for x in header)
    assert summary(name)


def _text(name):
    return (ROOT / "trapo/recipes" / f"{name}.yaml").read_text()


def test_reference_recipe_extends_trapo():
    fields = load_recipe("trapo-reference")
    assert fields["expert_weight"] == "trsft" and fields["guidance"] == "reference" and fields["learning_rate"] == 1e-6


def test_flags_win_over_config_file_over_recipe(files, tmp_path):
    (tmp_path / "my.yaml").write_text("extends: trapo\nalpha: 0.3\nlearning_rate: 2.0e-5\nmax_completion_length: 40\n")
    done = invoke(
        "train", "--model", files / "model", "--data", files / "rows.jsonl", "--config", tmp_path / "my.yaml",
        "--learning-rate", "3e-5", "--per_device_train_batch_size", "16", "--max-steps", "3", "--dry-run",
        "--prefix_ratios", "0", "0.3", "0.6", "1", "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    cells = [[c.strip() for c in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    shown = {name: value for name, value in cells if name}  # a long value goes on in lines without a name
    assert (shown["alpha"], shown["learning_rate"], shown["loss_type"]) == ("0.3", "3e-05", "dr_grpo")
    assert (shown["steps"], shown["samples"], shown["training rows"]) == ("3", "48", "16")
    assert shown["rollout tokens, at most"] == str(48 * 40)
    assert shown["prefix_ratios"] == "[0.0, 0.3, 0.6, 1.0]"
    assert not (tmp_path / "run").exists()


def test_train_leaves_the_whole_run_folder(files, tmp_path):
    done = run(
        "train", "--model", files / "model", "--data", files / "rows.jsonl", "--eval_data", files / "rows.jsonl",
        "--max_steps", "3", "--per_device_train_batch_size", "16", "--max_completion_length", "40", "--save_steps", "3",
        "--num_generations_eval", "1", "--per_device_eval_batch_size", "16", "--output_dir", "run", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run"
    record = json.loads((folder / "run.json").read_text())
    assert record["method"]["alpha"] == 0.1 and record["recipe"] == "trapo" and record["config"]["seed"] == 42
    assert record["versions"]["trl"] and record["command"][:2] == ["trapo", "train"] and record["rows"] == 16
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert len((folder / "rollouts.jsonl").read_text().splitlines()) == 48
    assert (folder / "checkpoints/checkpoint-3/trapo.json").exists()
    assert "before" in done.stdout and "after" in done.stdout and "Run folder: run" in done.stdout
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoModelForCausalLM.from_pretrained(folder / "final").num_parameters() == record["parameters"]
    assert AutoTokenizer.from_pretrained(folder / "final").eos_token == "<eos>"


ERRORS = [
    (["--alfa", "3"], "unknown option '--alfa': did you mean 'alpha'?"),
    (["--alpha", "3"], "alpha is 3.0"),
    (["--alpha", "x"], "invalid float value: 'x'"),
    (["--recipe", "trappo"], "recipe 'trappo' is unknown: choose one of bread, chord, dft, grpo"),
    (["--recipe", "none.yaml"], "recipe file none.yaml is not there"),
    (["--config", "none.yaml"], "config file none.yaml is not there"),
    (["--data", "none.jsonl"], "data file none.jsonl is not there"),
    (["--data", "odd.jsonl"], "which is no known layout: it needs prompt and answer"),
    (["--data", "broken.jsonl"], "data broken.jsonl cannot be read: row 1 is not JSON: "),
    (["--data", "no/such-dataset"], "dataset no/such-dataset cannot be loaded from the hub"),
    (["--output_dir", "rows.jsonl"], "output_dir rows.jsonl cannot be written"),
    (["--model", "none.gguf", "--data", "rows.jsonl"], "model file none.gguf is not there"),
    (["--model", "./nothing", "--data", "rows.jsonl"], "model ./nothing cannot be loaded"),
    (["--model", "model"], "--model model needs --data"),
    (
        ["--data", "world:stile=0.5"],
        "world:stile=0.5: the world has no option 'stile'; choose from steps, modulus",
    ),
    (["--data", "world:style=much"], "world:style=much: style is 'much', but must look like a number (float)"),
    (["--data", "world:steps=5"], "steps is '5', but must look like 5-8"),
    (["--data", "world:style=1.5"], "style is 1.5"),
    (["--data", "world:steps=8-5"], "world:steps=8-5: steps is 8-5, but must be fewest-most, from 1 to 8"),
    (["--data", "world:steps=0-3"], "steps is 0-3, but must be fewest-most, from 1 to 8"),
    (["--data", "world:steps=5-9"], "steps is 5-9, but must be fewest-most, from 1 to 8"),
    (["--data", "world:modulus=0"], "modulus 0 must be a prime in 11..61"),
    (["--data", "none.jsonl", "--eval_data", "world:steps=8-5"], "world:steps=8-5: steps is 8-5"),
    (["--data", "world", "--eval_data", "rows.jsonl"], "--eval_data rows.jsonl belongs to data of your own"),
    (["--recipe", "circle.yaml"], "recipes extend each other in a circle: circle.yaml -> circle.yaml"),
    (["--model", "folder", "--data", "rows.jsonl"], "model folder cannot be loaded"),
    (["--learning_rate", "-1"], "learning_rate is -1.0, but must not be negative"),
    (["--temperature", "0", "--recipe", "grpo"], "temperature is 0.0, but must be above 0"),
    (["--max_completion_length", "5000", "--dry-run"], "together more than the model's context of 512"),
    (["--model", "damaged", "--data", "rows.jsonl"], "model damaged cannot be loaded: "),
    (["--config", "numbers.yaml"], "must be a mapping of fields, name: value"),
    (["--config", "binary.yaml"], "binary.yaml is no text file: "),
    (["--sft_loss_type", "foo"], "sft_loss_type 'foo' is unknown; choose nll or dft"),
    (["--sft_lr_scheduler_type", "foo"], "foo is not a valid SchedulerType"),
    (["--report_to", "wandb", "--max_steps", "1"], "report_to ['wandb']: WandbCallback requires wandb to be installed"),
    (["--resume"], "--resume needs --output_dir"),
    (["--config", "list.yaml"], "must be a mapping of fields"),
    (["--config", "bad.yaml"], "is not YAML"),
    (["--config", "typo.yaml"], "unknown field 'alhpa': did you mean 'alpha'?"),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS, ids=["".join(a)[:24] for a, _ in ERRORS])
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, files, monkeypatch):
    monkeypatch.chdir(files)
    texts = {"list.yaml": "- 1\n", "bad.yaml": "a: [1\n", "typo.yaml": "alhpa: 1\n", "numbers.yaml": "1: 2\n"}
    for name, text in texts.items():
        (files / name).write_text(text)
    (files / "binary.yaml").write_bytes(b"\xed\x00")
    done = invoke("train", *arguments)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (files / "runs").exists()


def test_bad_input_has_no_traceback_in_a_process_of_its_own(tmp_path):
    done = run("train", "--alfa", "3", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown option '--alfa': did you mean 'alpha'?\n"
    assert not list(tmp_path.iterdir())


def test_a_variant_of_the_world_on_a_base_given_by_its_folder():
    from trapo_toy import world

    chosen = "world:steps=2-3,error_rate=1,traces=1,modulus=53"
    options = {"steps": (2, 3), "error_rate": 1.0, "traces": 1, "modulus": 53}
    assert world.options(chosen) == options and world.options("world") == {}
    done = invoke("train", "--model", world.BASE, "--data", chosen, "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert chosen in done.stdout and "gradient_checkpointing" in done.stdout


def test_the_worlds_held_out_sets_beside_rows_of_ones_own(tmp_path):
    from trapo_cli.cli import job_maker
    from trapo_toy import world

    rows = world.rows("train", 4)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = job_maker().config_of_flags(["--data", str(tmp_path / "rows.jsonl")])
    job = job_maker().make("trapo", "world", str(tmp_path / "rows.jsonl"), "world:steps=2-3,held_out=tune", settings)
    assert job.train["prompt"] == [row["prompt"] for row in rows]
    expected = world.training_data(steps=(2, 3), held_out="tune")[1]
    assert {name: held_out.to_list() for name, held_out in job.held_out.items()} == expected
    assert list(expected) == ["tune", "direct", "facts"]


def test_every_field_is_listed():
    listing = invoke("train", "--fields").stdout
    assert "--alpha  [0.1]" in listing and "--prefix_ratios" in listing and "--learning_rate  [5e-06]" in listing


def test_constraints_pin_what_issue_and_project_name():
    root = ROOT
    pins = dict(line.split("==") for line in (root / "constraints.txt").read_text().splitlines() if "==" in line)
    assert (pins["torch"], pins["trl"], pins["lm_eval"], pins["math-verify"]) == ("2.13.0", "1.16.0", "0.4.13", "0.9.0")
    assert pins["transformers"].startswith("5.17.")


def test_a_tracker_gets_the_metrics(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = ["--max_steps", "2", "--per_device_train_batch_size", "16", "--max_completion_length", "24"]
    done = run("train", *flags, "--report_to", "tensorboard", "--output_dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # nothing beside it
    found = []
    for path in (tmp_path / "run" / "tensorboard").iterdir():
        events = EventAccumulator(str(path))
        events.Reload()
        if "train/reward/plain" in events.Tags()["scalars"]:
            found += [event.value for event in events.Scalars("train/reward/plain")]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert found == pytest.approx([line["reward/plain"] for line in lines]) and len(found) == 2


def test_ctrl_c_says_how_to_go_on_and_leaves_no_process(tmp_path):
    command = [TRAPO, "train", "--output_dir", str(tmp_path / "run"), "--max_steps", "500", "--save_steps", "1"]
    child = subprocess.Popen(
        command, start_new_session=True, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    complete = tmp_path / "run" / "checkpoints" / "checkpoint-1" / MARKER
    deadline = time.monotonic() + 240
    while not complete.exists():
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(timeout=60) == 130
    message = child.stderr.read().splitlines()[-1]
    assert message == f"interrupted; go on with the same command and --resume --output_dir {tmp_path / 'run'}"
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)
