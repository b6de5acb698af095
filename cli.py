"""The commands of `trapo`: parse, call one function, print the path of what was made."""

import os
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from trapo.command.errors import Commands, check_installed, crashes_go_to, interruptible, one_line_errors
from trapo.terminal import Console, say

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which mix of imitation and RL really works?",
)

ANALYSIS = ("matplotlib", "pandas", "plotly", "scipy")  # what that extra has
PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=PASS_THROUGH)
def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Option(help="Method: a name that `trapo recipes` lists, or a YAML file.")] = "trapo",
    model: Annotated[str, typer.Option(help="'world', a folder, a hub id, or a .gguf file.")] = "world",
    data: Annotated[
        str | None,
        typer.Option(help="'world', 'world:error_rate=0.1,style=0.5', a .jsonl or .parquet file, or a hub id."),
    ] = None,
    eval_data: Annotated[
        str | None, typer.Option("--eval-data", "--eval_data", help="Held-out rows for --data, in any of its forms.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "--output_dir", help="Run folder. Default: runs/RECIPE-TIME.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of config fields; flags win over it.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "--dry_run", help="Print the resolved config and the plan, and stop.")
    ] = False,
    rates: Annotated[
        str | None,
        typer.Option(
            help="For --dry-run: tokens per second that are drawn and trained, such as 2000,9000: adds times."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output_dir.")] = False,
    list_fields: Annotated[bool, typer.Option("--fields", help="List every config field, and stop.")] = False,
) -> None:
    """Train. Every field of TRAPOConfig is a flag too: --alpha 0.1 --max_steps 30 (- or _).

    Without arguments: TRAPO on the built-in world, on whatever device is there.
    """
    with one_line_errors():
        from trapo.command import job as launch
        from trapo.command import stages
        from trapo.runs.folder import RunFolder

        if list_fields:
            say(launch.describe_fields())
            return
        if output_dir is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("--output_dir is needed with several processes: each would name a folder by its own clock")
        folder = output_dir or Path("runs") / f"{Path(recipe).stem}-{datetime.now():%Y%m%d-%H%M%S}"
        crashes_go_to(folder)
        if resume and output_dir is None:
            raise ValueError("--resume needs --output_dir, the folder of the run to go on with")
        if data is None and model != "world":
            raise ValueError(
                f"--model {model} needs --data: rows of your own, or 'world' for another base of the world"
            )
        data = data or "world"
        settings = resolve(recipe, model, data, config, [*context.args, "--output_dir", str(folder)])
        if not (dry_run or resume):
            RunFolder(settings.output_dir).check_free()  # before minutes go into checking a large data file
        job = make_job(recipe, model, data, eval_data, settings, resume)
        if dry_run:
            launch.print_plan(job, settings, Console(), parse_rates(rates))
            return
        with interruptible(f"go on with the same command and --resume --output_dir {folder}"):
            stages.train(job, settings, resume=resume)


@app.command(context_settings=PASS_THROUGH)
def doctor(context: typer.Context) -> None:
    """Check this machine and a model for a training, whose flags these are. Exit code 1 if it cannot work.

    Versions, device, DeepSpeed, group layout, tokenizer, memory and disk, grader, engine, one gradient from any split,
    a step of training.
    """
    with one_line_errors():
        from trapo.command import doctor as doctors

        named, _ = parse_names(context.args)
        settings = settings_of_flags(context.args)
        patient = doctors.Patient(settings, model_path_of(named.model))
        tell = say if settings.process_index == 0 else lambda line: None  # the first of several processes
        worst = doctors.examine(patient, tell)
        tell({"ok": "All is well.", "warning": "It can work; see the warnings.", "error": "It cannot work yet."}[worst])
        if worst == "error":
            raise typer.Exit(1)


data_app = typer.Typer(no_args_is_help=True, help="Prepare data for training.")
app.add_typer(data_app, name="data")


@data_app.command("prepare")
def data_prepare(
    source: Annotated[str, typer.Argument(help="A .jsonl or .parquet file, a folder of such, or a hub id.")],
    out: Annotated[Path, typer.Option(help="A .parquet or .jsonl file.")],
    second: Annotated[
        str | None, typer.Option(help="A second demonstration by problem, such as open-r1/OpenR1-Math-220k.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="For lengths in tokens; without it, characters.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", "--max_tokens", help="What training will cut traces to.")
    ] = None,
    check_experts: Annotated[bool, typer.Option(help="Whether traces are graded and wrong ones dropped.")] = True,
    bench: Annotated[str, typer.Option(help="Benchmarks to decontaminate against; '' for none.")] = "math,general",
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", "--data_dir", help="Folder with local files of the benchmarks.")
    ] = None,
    drop_contaminated: Annotated[
        bool, typer.Option("--drop-contaminated", "--drop_contaminated", help="Leave out what repeats a question.")
    ] = False,
    split: Annotated[str, typer.Option(help="Of hub datasets.")] = "train",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "--dry_run", help="Show the first row as read, and stop.")
    ] = False,
) -> None:
    """Check, join and decontaminate rows of any known layout, into a file that `trapo train --data` takes."""
    with one_line_errors():
        from trapo.data import prepare

        if dry_run:
            for line in prepare.first_row(source, split):
                say(line)
            return
        settings = prepare.Settings(
            source, out, second, tokenizer, max_tokens, check_experts, drop_contaminated, split
        )  # fmt: skip
        questions, unchecked = questions_of(bench, data_dir)
        started = time.perf_counter()
        with Console(stderr=True).status(f"reading {source}") as status:
            summary = prepare.prepare(settings, questions, unchecked, lambda n: status.update(f"{source}: {n} rows"))
        for line in summary.lines():
            say(line)
        seconds, graded = time.perf_counter() - started, "" if check_experts else " not"
        say(f"{seconds:.0f} s, {summary.rows / seconds:.0f} rows per second; traces{graded} graded")
        say(f"Rows: {out}  (beside it .dropped.jsonl, .contaminated.jsonl, .summary.json)")


def questions_of(bench: str, data_dir: str | None) -> tuple[dict[str, list[tuple[str, str]]], dict[str, str]]:
    """The questions of benchmarks, and of those that are not at hand, why; ValueError for other rows or no folder."""
    from trapo_evals import benchmarks
    from trapo_evals.tasks.utils import data_folder

    found, missing = {}, {}
    for name in benchmarks.names(bench) if bench else []:
        try:
            found[name] = [(q.id, q.problem) for q in benchmarks.load(name, data_folder(data_dir))]
        except benchmarks.NotAtHand as error:
            missing[name] = " ".join(str(error).split())
    return found, missing


@app.command()
def recipes() -> None:
    """List the methods that come with trapo."""
    from trapo.recipe import recipe_names, summary

    for name in recipe_names():
        say(f"{name:18} {summary(name)}")


@app.command("toy-gmm")
def toy_gmm(
    out: Annotated[Path, typer.Option(help="Folder for the figures and the numbers.")] = Path("toy-gmm"),
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 16,
    seed: Annotated[int, typer.Option(help="The first of them.")] = 0,
    alpha: Annotated[
        list[str] | None,
        typer.Option(
            help="TrSFT's alpha in the mixture: a density, in 1/length. Several (0.02,0.05 or repeated): the first is "
            "drawn everywhere, all join the sweep. Default: 0.15 of the expert's peak."
        ),
    ] = None,
    token_alpha: Annotated[
        float, typer.Option("--token-alpha", "--token_alpha", help="TrSFT's alpha on tokens: in (0, 1].")
    ] = 0.1,
    expert: Annotated[str | None, typer.Option(help="weight:mean:sd,... Default: 0.35:-6:1,0.35:0:1,0.3:8:1.")] = None,
    policy: Annotated[str | None, typer.Option(help="The start. Default: thirds at -6, -0.3 and 0.6, sd 1.")] = None,
) -> None:
    """SFT, TrSFT and their rivals on a Gaussian mixture and on tokens; Proposition 1. Under a minute."""
    with one_line_errors():
        from trapo_toy import mixture_command as run

        run.make(run.read_settings(expert, policy, alpha or (), token_alpha, seeds, seed), out, Console())


@app.command("eval")
def evaluate(
    context: typer.Context,
    bench: Annotated[
        str | None, typer.Option(help="Benchmarks: aime24,math500,...; or the groups math, general, world, all.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A folder, a hub id, a .gguf file, or 'world'. Default: the newest run's final/.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder. Default: evaluations/MODEL-BENCH-HASH.")] = None,
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", "--data_dir", help="Folder with local files of the benchmarks.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Samples of each question. Default: 32 for AIME and AMC, else 1.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first questions of each benchmark.")] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.6,
    top_p: Annotated[float, typer.Option("--top-p", "--top_p")] = 1.0,
    top_k: Annotated[int, typer.Option("--top-k", "--top_k", help="0: all tokens.")] = 0,
    min_p: Annotated[float, typer.Option("--min-p", "--min_p")] = 0.0,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", "--max_tokens", help="Of an answer. Default: 8192; 136 in the world.")
    ] = None,
    template: Annotated[
        str, typer.Option(help="tokenizer, reference (TRAPO's training), reference-eval (the papers' evaluation), raw.")
    ] = "tokenizer",
    seed: Annotated[int, typer.Option(help="Of the samples and of the choices' order.")] = 0,
    engine: Annotated[str, typer.Option(help="auto, torch, vllm, or server with --base-url.")] = "auto",
    base_url: Annotated[
        str | None, typer.Option("--base-url", "--base_url", help="An OpenAI-compatible server: http://HOST:PORT/v1.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    slots: Annotated[int, typer.Option(help="Most samples drawn at once.")] = 64,
    dry_run: Annotated[bool, typer.Option("--dry-run", "--dry_run", help="Print what would run, and stop.")] = False,
    regrade: Annotated[
        Path | None, typer.Option(help="Grade the samples in this evaluation's folder again, and draw nothing.")
    ] = None,
) -> None:
    """Evaluate a model: accuracy with its errors, pass@k, maj@n. The same command again goes on after a kill."""
    with one_line_errors():
        if (bench is None) == (regrade is None):
            raise ValueError("give --bench, such as --bench aime24,math500; or --regrade DIR, without it")
        given = [name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"]
        if regrade is not None and (others := [f"--{n.replace('_', '-')}" for n in given if n != "regrade"]):
            raise ValueError(f"--regrade {regrade} only grades again what was drawn: leave out {', '.join(others)}")
        os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars of libraries, before these are loaded
        from trapo_evals import evaluate as run
        from trapo_evals.folder import EvalFolder

        if regrade is not None:
            run.regrade(EvalFolder(regrade), Console())
            return
        from trapo_evals.models import newest_run

        model = model or str(newest_run(Path("runs")))
        if model == "world":
            from trapo_toy import world

            model = str(world.BASE)
        register_world(model)
        settings = run.Settings(
            bench, model, data_dir, samples, limit, temperature, top_p, top_k, min_p, max_tokens, template, seed,
            engine, base_url, dtype,
        )  # fmt: skip
        with interruptible("what was drawn is kept: the same command goes on"):
            run.evaluate(settings, out, Console(), slots=slots, dry_run=dry_run)


@app.command(context_settings=PASS_THROUGH)
def sweep(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Folder. Default: sweeps/GRID.")] = None,
    seeds: Annotated[int, typer.Option(help="How many at each point.")] = 2,
    seed: Annotated[int, typer.Option(help="The first of them.")] = 0,
    jobs: Annotated[int | None, typer.Option(help="Points at a time. Default: one per GPU, or per two cores.")] = None,
    launcher: Annotated[str, typer.Option(help="local, or ray (the cluster of RAY_ADDRESS, or one here).")] = "local",
    bench: Annotated[
        str, typer.Option(help="What each trained model is evaluated on, as in `trapo eval`; '' for nothing.")
    ] = "world",
    samples: Annotated[int, typer.Option(help="Of each question of it.")] = 4,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "--dry_run", help="Show the points and their cost, by measured steps, and stop."),
    ] = False,
) -> None:
    """Train at every point of a grid, several seeds each: `trapo sweep alpha`, `prefix`, `methods`, or FIELD=a,b,c.

    Several grids are crossed; every other flag of `trapo train` holds for all points. The same command again runs only
    what is missing.
    """
    with one_line_errors():
        check_installed("sweep", "analysis", ANALYSIS)
        check_installed("sweep", "evals", ("lm_eval",) if bench else ())
        from trapo_analysis import sweep as sweeps
        from trapo_evals import benchmarks

        flags = context.args
        first = next((i for i, part in enumerate(flags) if part.startswith("-")), len(flags))
        grids, common = flags[:first], flags[first:]
        if common and not grids:
            raise ValueError(
                f"{' '.join(common)}: give a grid before the flags, as in trapo sweep alpha --max_steps 50"
            )
        if launcher not in ("local", "ray"):
            raise ValueError(f"--launcher {launcher}: choose local or ray")
        if seeds < 1 or samples < 1:
            raise ValueError(f"--seeds {seeds}, --samples {samples}: give at least 1 of each")
        if bench:
            benchmarks.names(bench)  # its error comes before any training
        asked = sweeps.points(grids, range(seed, seed + seeds))
        # What is wrong with any of them is said before any runs.
        points = sweeps.merged(asked, lambda flags: settings_of_flags([*common, *flags]))
        folder = out or Path("sweeps") / "-".join(grid.replace("=", "_").replace(",", "_") for grid in grids)
        named, _ = parse_names(common)
        same = named.data in (None, "world") and not any(grid.startswith(("model=", "data=")) for grid in grids)
        base = named.model if same else None  # elsewhere it would be asked other questions than the runs
        what = sweeps.Sweep(points, tuple(common), bench, samples, folder, grids, base)
        if len(points) < len(asked):
            say(f"{len(asked)} points are {len(points)}: a method trains the same whatever it makes no use of")
        if dry_run:
            sweeps.dry_run(what, Console(), steps_of_flags, jobs)
            return
        with interruptible("the same command goes on"):
            failed = sweeps.run(what, Console(), jobs, launcher)
            if any(path.is_dir() for path in folder.glob("*/final")):
                from trapo_analysis import report as reports

                made = reports.make([folder], folder / "report.html", command_line())
                say(f"Sweep: {folder}  (report: {made}; figures/)")
            if failed:
                raise typer.Exit(1)


@app.command()
def report(
    paths: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold them (a sweep).")],
    out: Annotated[Path, typer.Option(help="The file.")] = Path("report.html"),
    rollouts: Annotated[int, typer.Option(help="Most samples in its browser.")] = 20_000,
) -> None:
    """Write one HTML file about runs: settings, results, curves, figures, rollouts. It needs no network."""
    with one_line_errors():
        check_installed("report", "analysis", ANALYSIS)
        from trapo_analysis import report as reports

        made = reports.make(paths, out, command_line(), rollouts)
        say(f"Report: {made}  ({made.stat().st_size / 2**20:.1f} MiB)")


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders of `trapo eval`; the others are held to the first.")],
    out: Annotated[Path, typer.Option(help="Folder for the figures and the numbers.")] = Path("comparison"),
    seed: Annotated[int, typer.Option(help="Of the bootstrap and the permutation test.")] = 0,
) -> None:
    """Compare evaluations question by question: difference with its interval, paired test, wins, ties and losses."""
    with one_line_errors():
        check_installed("compare", "evals", ("matplotlib", "scipy"))
        from trapo_evals import compare

        compare.run(folders, out, seed, Console())


def parse_rates(text: str | None) -> tuple[float, float]:
    """ "2000,9000" as two numbers; zeros for None."""
    try:
        drawn, trained = map(float, text.split(",")) if text else (0.0, 0.0)
    except ValueError:
        raise ValueError(f"--rates {text}: give tokens drawn and trained per second, such as 2000,9000") from None
    return drawn, trained


def register_world(model: str) -> None:
    """Let `trapo eval` find the built-in world's questions, as the model's run was given them."""
    from trapo_evals import benchmarks, models
    from trapo_toy import world

    data = models.run_of(Path(model)).get("data") or "world"
    options = world.options(data) if is_world(data) else {}
    options.pop("held_out", None)  # settings are chosen on the tuning split; a benchmark asks the test questions
    for name in ("test", "direct", "facts"):
        benchmarks.register(f"world_{name}", lambda name=name: world.training_data(**options)[1][name])


def resolve(recipe: str, model: str, data: str, config: Path | None, flags: list[str]):
    """The configuration of a training: the recipe's, the world's where it is about the world, a file's, the flags'."""
    from trapo.command import job as launch

    layers = [world_settings(recipe)] if model == "world" or is_world(data) else []
    return launch.resolve_config(recipe, layers, config, flags)


def command_line() -> str:
    """The command that is running."""
    import shlex
    import sys

    return shlex.join(["trapo", *sys.argv[1:]])


def settings_of_flags(flags: list[str]):
    """The configuration that `trapo train FLAGS` trains with; ValueError as there. Rows need not be named."""
    named, rest = parse_names(flags)
    data = named.data or ("world" if named.model == "world" else "")
    return resolve(named.recipe, named.model, data, named.config, ["--output_dir", "runs/none", *rest])


def steps_of_flags(flags: list[str], rows: int) -> int | None:
    """Steps of all stages of `trapo train FLAGS` on so many rows; None where they depend on its demonstrations."""
    from trapo.command import job as launch

    settings = settings_of_flags(flags)
    if "sft" in settings.stages:
        sft, rl = settings.sft_max_steps, settings.max_steps if "rl" in settings.stages else 0
        return sft + rl if sft > 0 and rl >= 0 else None
    return launch.rl_plan(rows, settings)["steps"]


def parse_names(flags: list[str]):
    """The names among the flags of `trapo train` (recipe, model, data, eval_data, config), and the other flags."""
    import argparse

    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False, add_help=False)
    for name, default in (("recipe", "trapo"), ("model", "world"), ("data", None), ("eval_data", None)):
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", default=default)
    parser.add_argument("--config", type=Path)
    try:
        return parser.parse_known_args(flags)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None


def world_settings(recipe: str) -> dict:
    """The built-in world's training defaults: small batches, its tuned learning rates."""
    from trapo_toy import world

    return world.settings(recipe)


def make_job(recipe: str, model: str, data: str, eval_data: str | None, settings, resume: bool):
    """The names on the command line as things: this is where `world` means the rooms of toy/."""
    from trapo.command import job as launch

    model_path = model_path_of(model)
    if is_world(data):
        if eval_data:
            raise ValueError(f"--eval_data {eval_data} belongs to data of your own: the world has its held-out sets")
        return launch.Job(recipe, model, data, model_path, *world_data(data))
    held_out = world_data(eval_data)[1] if eval_data and is_world(eval_data) else {}
    own = None if held_out else eval_data
    job = launch.file_job(recipe, model, data, model_path, own, settings, resume=resume)
    job.held_out |= held_out
    return job


def world_data(name: str):
    """The training rows and the held-out sets that `world` or `world:...` means."""
    from datasets import Dataset

    from trapo_toy import world

    train_rows, held_out = world.training_data(**world.options(name))
    return Dataset.from_list(train_rows), {name: Dataset.from_list(rows) for name, rows in held_out.items()}


def model_path_of(model: str) -> str:
    """Where transformers finds a model; `world` is the built-in base."""
    if model != "world":
        return model
    from trapo_toy import world

    return str(world.BASE)


def is_world(data: str) -> bool:
    """Whether a data name means the built-in world, with or without options."""
    return data == "world" or data.startswith("world:")


if __name__ == "__main__":
    app()
