"""The commands of `trapo`: parse, call one function, print the path of what was made.

Each command imports what it needs when it runs, so that `--help` answers at once.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from trapo.command.errors import Commands, check_installed, command_line, interruptible, one_line_errors
from trapo.terminal import Console, say

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which mix of imitation and RL really works?",
)
data_app = typer.Typer(no_args_is_help=True, help="Prepare data for training.")
app.add_typer(data_app, name="data")

ANALYSIS = ("matplotlib", "pandas", "plotly", "scipy")  # what that extra has
PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}


def both(name: str, help: str | None = None):
    """An option spelled with - or with _."""
    return typer.Option(f"--{name}", f"--{name.replace('-', '_')}", help=help)


DataDir = Annotated[str | None, both("data-dir", help="Folder with local benchmark files.")]
DryRun = Annotated[bool, both("dry-run", help="Print what would be done, and stop.")]


def job_maker():
    """What makes jobs and configurations of flags; here `world` is given its meaning."""
    from trapo.command.job import Jobs
    from trapo_toy import world

    return Jobs(world)


@app.command(context_settings=PASS_THROUGH)
def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Option(help="Method: a name that `trapo recipes` lists, or a YAML file.")] = "trapo",
    model: Annotated[str, typer.Option(help="'world', a folder, a hub id, or a .gguf file.")] = "world",
    data: Annotated[
        str | None,
        typer.Option(help="'world', 'world:error_rate=0.1,style=0.5', a .jsonl or .parquet file, or a hub id."),
    ] = None,
    eval_data: Annotated[str | None, both("eval-data", help="Held-out rows for --data, in any of its forms.")] = None,
    output_dir: Annotated[Path | None, both("output-dir", help="Run folder. Default: runs/RECIPE-TIME.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of config fields; flags win over it.")] = None,
    dry_run: DryRun = False,
    rates: Annotated[
        str | None,
        typer.Option(
            help="For --dry-run: tokens per second that are drawn and trained, such as 2000,9000: adds times."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output_dir.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run in --output_dir first; what else is there stays.")
    ] = False,
    list_fields: Annotated[bool, typer.Option("--fields", help="List every config field, and stop.")] = False,
) -> None:
    """Train. Every field of TRAPOConfig is a flag too: --alpha 0.1 --max_steps 30 (- or _).

    Without arguments: TRAPO on the built-in world, on whatever device is there.
    """
    with one_line_errors():
        from trapo.command.settings import describe_fields

        if list_fields:
            say(describe_fields(" ".join(context.args)))
            return
        from trapo.command.train import Asked
        from trapo.command.train import train as run

        asked = Asked(recipe, model, data, eval_data, output_dir, config, dry_run, rates, resume, overwrite)
        run(asked, job_maker(), context.args)


@app.command(context_settings=PASS_THROUGH)
def doctor(context: typer.Context) -> None:
    """Check this machine and a model for a training, whose flags these are. Exit code 1 if it cannot work.

    Versions, device, DeepSpeed, group layout, tokenizer, memory and disk, grader, engine, one gradient from any split,
    a step of training.
    """
    with one_line_errors():
        from trapo.command.doctor import Patient, examine
        from trapo.command.settings import parse_names

        made, (named, _) = job_maker(), parse_names(context.args)
        settings = made.config_of_flags(context.args)
        tell = say if settings.process_index == 0 else lambda line: None  # the first of several processes
        worst = examine(Patient(settings, made.model_path(named.model)), tell)
        tell({"ok": "All is well.", "warning": "It can work; see the warnings.", "error": "It cannot work yet."}[worst])
        if worst == "error":
            raise typer.Exit(1)


@data_app.command("prepare")
def data_prepare(
    source: Annotated[str, typer.Argument(help="A .jsonl or .parquet file, a folder of such, or a hub id.")],
    out: Annotated[Path, typer.Option(help="A .parquet or .jsonl file.")],
    second: Annotated[
        str | None, typer.Option(help="A second demonstration by problem, such as open-r1/OpenR1-Math-220k.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="For lengths in tokens; without it, characters.")] = None,
    max_tokens: Annotated[int | None, both("max-tokens", help="What training will cut traces to.")] = None,
    check_experts: Annotated[bool, typer.Option(help="Whether traces are graded and wrong ones dropped.")] = True,
    bench: Annotated[str, typer.Option(help="Benchmarks to decontaminate against; '' for none.")] = "math,general",
    data_dir: DataDir = None,
    drop_contaminated: Annotated[bool, both("drop-contaminated", help="Leave out what repeats a question.")] = False,
    split: Annotated[str, typer.Option(help="Of hub datasets.")] = "train",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out and the files beside it.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Check, join and decontaminate rows of any known layout, into a file that `trapo train --data` takes."""
    with one_line_errors():
        from trapo.data import prepare
        from trapo_evals.sources import at_hand

        if dry_run:
            say("\n".join(prepare.first_row(source, split)))
            return
        settings = prepare.Settings(
            source, out, second, tokenizer, max_tokens, check_experts, drop_contaminated, split, overwrite
        )  # fmt: skip
        say("\n".join(prepare.report(settings, *at_hand(bench, data_dir))))


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
    token_alpha: Annotated[float, both("token-alpha", help="TrSFT's alpha on tokens: in (0, 1].")] = 0.1,
    expert: Annotated[str | None, typer.Option(help="weight:mean:sd,... Default: 0.35:-6:1,0.35:0:1,0.3:8:1.")] = None,
    policy: Annotated[str | None, typer.Option(help="The start. Default: thirds at -6, -0.3 and 0.6, sd 1.")] = None,
) -> None:
    """SFT, TrSFT and their rivals on a Gaussian mixture and on tokens; Proposition 1. Under a minute."""
    with one_line_errors():
        from trapo_toy.mixture_command import make, read_settings

        make(read_settings(expert, policy, alpha or (), token_alpha, seeds, seed), out, Console())


@app.command("eval")
def evaluate(
    context: typer.Context,
    bench: Annotated[
        str | None,
        typer.Option(help="Benchmarks: aime24,math500,...; groups math, contests, general, world, all; mine=rows.csv."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A folder, a hub id, a .gguf file, or 'world'. Default: the newest run's final/.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder. Default: evaluations/MODEL-BENCH-HASH.")] = None,
    data_dir: DataDir = None,
    samples: Annotated[
        str | None,
        typer.Option(help="Samples of each question, or auto, with --half-width. Default: the benchmark's, 1 to 32."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first questions of each benchmark.")] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.6,
    top_p: Annotated[float, both("top-p")] = 1.0,
    top_k: Annotated[int, both("top-k", help="0: all tokens.")] = 0,
    min_p: Annotated[float, both("min-p")] = 0.0,
    max_tokens: Annotated[int | None, both("max-tokens", help="Of an answer. Default: 8192; 136 in the world.")] = None,
    template: Annotated[
        str, typer.Option(help="tokenizer, reference (TRAPO's training), reference-eval (the papers' evaluation), raw.")
    ] = "tokenizer",
    grader: Annotated[
        str, typer.Option(help="own, reference (TRAPO's training reward) or luffy (LUFFY's: behind </think> only).")
    ] = "own",
    seed: Annotated[int, typer.Option(help="Of the samples and of the choices' order.")] = 0,
    engine: Annotated[str, typer.Option(help="auto, torch, transformers, vllm, or server with --base-url.")] = "auto",
    base_url: Annotated[str | None, both("base-url", help="An OpenAI-compatible server: http://HOST:PORT/v1.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    half_width: Annotated[float, both("half-width", help="With --samples auto: of the 95% interval to reach.")] = 0.02,
    max_samples: Annotated[int, both("max-samples", help="With --samples auto: at most so many.")] = 256,
    server_api: Annotated[
        str, both("server-api", help="completions, or chat if a server has nothing else.")
    ] = "completions",
    server_timeout: Annotated[float, both("server-timeout", help="Seconds for one attempt at a sample.")] = 600.0,
    server_retries: Annotated[int, both("server-retries", help="Attempts at a sample after the first.")] = 8,
    model_date: Annotated[str | None, both("model-date", help="When the model came out, such as 2024-09.")] = None,
    slots: Annotated[int, typer.Option(help="Most samples drawn at once.")] = 64,
    dry_run: DryRun = False,
    regrade: Annotated[
        Path | None, typer.Option(help="Grade the samples in this evaluation's folder again, and draw nothing.")
    ] = None,
) -> None:
    """Evaluate a model: accuracy with its errors, pass@k, maj@n. The same command again goes on after a kill."""
    with one_line_errors():
        if (bench is None) == (regrade is None):
            raise ValueError("give --bench, such as --bench aime24,math500; or --regrade DIR, without it")
        given = [name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"]
        others = [f"--{n.replace('_', '-')}" for n in given if n not in ("regrade", "grader")]
        if regrade is not None and others:
            raise ValueError(f"--regrade {regrade} only grades again what was drawn: leave out {', '.join(others)}")
        os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars of libraries, before these are loaded
        from trapo_evals import evaluate as evaluation
        from trapo_evals.folder import EvalFolder
        from trapo_evals.models import newest_run
        from trapo_evals.settings import number_of
        from trapo_evals.sources import register_world

        if regrade is not None:
            evaluation.regrade(EvalFolder(regrade), Console(), grader if "grader" in given else None)
            return
        made = job_maker()
        model = made.model_path(model or str(newest_run(Path("runs"))))
        register_world(made.world, model)
        settings = evaluation.Settings(
            bench, model, data_dir, number_of(samples), limit, temperature, top_p, top_k, min_p, max_tokens, template,
            seed, engine, base_url, dtype, grader, half_width, max_samples, server_api, server_timeout, server_retries,
            model_date,
        )  # fmt: skip
        with interruptible("what was drawn is kept: the same command goes on"):
            evaluation.evaluate(settings, out, Console(), slots=slots, dry_run=dry_run)


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
        both("dry-run", help="Show the points and their cost, by measured steps, and stop."),
    ] = False,
) -> None:
    """Train at every point of a grid, several seeds each: `trapo sweep alpha`, `prefix`, `methods`, or FIELD=a,b,c.

    Several grids are crossed; every other flag of `trapo train` holds for all points. The same command again runs only
    what is missing.
    """
    with one_line_errors():
        check_installed("sweep", "analysis", ANALYSIS)
        check_installed("sweep", "evals", ("lm_eval",) if bench else ())
        from trapo.command.plan import total_steps
        from trapo_analysis import report as reports
        from trapo_analysis import sweep as sweeps
        from trapo_analysis.sweep_command import sweep_of_flags

        if launcher not in ("local", "ray"):
            raise ValueError(f"--launcher {launcher}: choose local or ray")
        config_of = job_maker().config_of_flags
        seeds = range(seed, seed + seeds)
        what, asked = sweep_of_flags(context.args, config_of, seeds=seeds, bench=bench, samples=samples, out=out)
        if (left := len(what.points)) < asked:
            say(f"{asked} points are {left}: a method trains the same whatever it makes no use of")
        if dry_run:
            sweeps.dry_run(what, Console(), lambda flags, rows: total_steps(rows, config_of(flags)), jobs)
            return
        with interruptible("the same command goes on"):
            failed = sweeps.run(what, Console(), jobs, launcher)
            if any(path.is_dir() for path in what.out.glob("*/final")):
                made = reports.make([what.out], what.out / "report.html", command_line())
                say(f"Sweep: {what.out}  (report: {made}; figures/)")
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
    folders: Annotated[list[Path], typer.Argument(help="Folders of `trapo eval`; each is held to each before it.")],
    out: Annotated[Path, typer.Option(help="Folder for the figures and the numbers.")] = Path("comparison"),
    seed: Annotated[int, typer.Option(help="Of the bootstrap and the permutation test.")] = 0,
) -> None:
    """Compare evaluations question by question: difference with its interval, paired test, wins, ties and losses."""
    with one_line_errors():
        check_installed("compare", "evals", ("matplotlib", "scipy"))
        from trapo_evals import compare

        compare.run(folders, out, seed, Console())


if __name__ == "__main__":
    app()
