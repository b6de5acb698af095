"""Benchmark questions for those who do not evaluate: decontamination, and the built-in world's own questions."""

from pathlib import Path

from . import benchmarks, models
from .tasks.utils import data_folder


def at_hand(bench: str, data_dir: str | None) -> tuple[dict[str, list[tuple[str, str]]], dict[str, str]]:
    """The questions (id, problem) of benchmarks, and of those that are not at hand, why.

    Args:
        bench: names as in `benchmarks.names`; "" for none.
        data_dir: a folder with local files.

    Raises:
        ValueError: for a name that is none, a file with other rows, or no such folder.
    """
    found, missing = {}, {}
    for name in benchmarks.names(bench) if bench else []:
        try:
            found[name] = [(q.id, q.problem) for q in benchmarks.load(name, data_folder(data_dir))]
        except benchmarks.NotAtHand as error:
            missing[name] = " ".join(str(error).split())
    return found, missing


def register_world(world, model: str) -> None:
    """Let benchmarks find the built-in world's questions, as the run that `model` is from was given them.

    Args:
        world: with `options` and `training_data`, as `trapo.command.job.World`.
        model: a path or a name.
    """
    data = models.run_of(Path(model)).get("data") or "world"
    options = world.options(data) if data == "world" or data.startswith("world:") else {}
    options.pop("held_out", None)  # settings are chosen on the tuning split; a benchmark asks the test questions
    for name in ("test", "direct", "facts"):
        benchmarks.register(f"world_{name}", lambda name=name: world.training_data(**options)[1][name])
