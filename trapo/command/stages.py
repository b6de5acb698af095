"""From a job to a finished run folder: evaluate, SFT stage, RL stage, evaluate, save; and going on after a kill."""

import gc
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import MISSING, fields
from pathlib import Path

from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from rich.text import Text
from transformers import PrinterCallback, ProgressCallback, TrainerState
from transformers.integrations import TensorBoardCallback, TrackioCallback
from transformers.utils import logging as transformers_logging

from ..files import locked, write_whole
from ..models import load_model
from ..records import Marker, read_json
from ..run_config import RunConfig
from ..runs.checkpoints import MARKER, Fault, fault
from ..runs.folder import DROPPED, LOCK, RunFolder
from ..runs.progress import ProgressLine, print_summary
from ..terminal import Console
from ..training.lora import check_tied, load_adapter, peft_config
from ..training.processes import processes
from ..training.saving import save_model
from ..training.sft import SFTStage
from ..training.trainer import TRAPOTrainer
from .hub import check_hub, push
from .job import Job
from .plan import print_data

# What a resumed run may change: where and how it runs and is reported, not what is computed.
FREE_ON_RESUME = {
    "per_device_eval_batch_size",
    "output_dir",
    "resume_from_checkpoint",
    "report_to",
    "run_name",
    "logging_dir",
    "disable_tqdm",
    "vllm_server_base_url",
    "vllm_server_timeout",
    "vllm_server_weights",
    "use_cpu",
    "ddp_backend",
    "gradient_checkpointing_kwargs",  # TRL sets them by itself for LoRA under ZeRO-3
}
# How a step's samples are shared out over processes and micro-batches: free where the step's total stays.
SHARES = {"per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation"}

DEFAULTS = {f.name: f.default_factory() if f.default is MISSING else f.default for f in fields(RunConfig)}


def train(
    job: Job,
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> RunFolder:
    """Train through the stages of `config`, evaluate before, between and after, save `final/`, print the summary.

    Args:
        job, config: what, and how.
        resume: go on with the run in the folder.
        overwrite: delete the run in the folder, and nothing that trapo did not write.
        console: to print to.

    Raises:
        ValueError, FileExistsError: before any work, in one line with the remedy.
    """
    folder = RunFolder(config.output_dir)
    with ExitStack() as held:

        def hold() -> None:
            if PartialState().is_main_process:
                held.enter_context(locked(folder.path / LOCK, "training", "wait for it, or choose another output_dir"))

        return _train(folder, job, config, resume, overwrite, console or Console(), hold)


def _train(
    folder: RunFolder,
    job: Job,
    config: RunConfig,
    resume: bool,
    overwrite: bool,
    console: Console,
    hold: Callable[[], None],
) -> RunFolder:
    transformers_logging.disable_progress_bar()
    if PartialState().is_main_process:
        check_hub(config)
    config.run_name = config.run_name or folder.path.name  # what trackers call it
    point = None
    if not resume:
        check_target(folder, job, overwrite)
    elif not folder.has_run():
        raise ValueError(f"{folder.path} holds no run to resume: start it without --resume, or name its --output_dir")
    else:
        hold()
        point, said = _resume_point(folder, job, config)
        if PartialState().is_main_process:
            console.print(said, markup=False, highlight=False, soft_wrap=True)
        PartialState().wait_for_everyone()  # each process has seen the folder as it was
        if point is None and PartialState().is_main_process:
            folder.clear()
    over = point is not None and point != folder.sft and folder.stage_is_over(point)  # killed before what comes after
    start = folder.sft if folder.sft.exists() else job.model_path
    trainer = _trainer(job, config, start, _best(point, config) if over else None)
    accuracies: dict[str, float] = {}
    if not resume:
        hold()  # not before: what is refused leaves no folder
    if overwrite and PartialState().is_main_process:
        folder.clear()
    PartialState().wait_for_everyone()
    if point is None:
        trainer.recorder.begin()
    else:
        _check_rows(folder, trainer)
        trainer.recorder.go_on(point)
    main = trainer.accelerator.is_main_process
    if main:
        alpha = config.method_settings()["alpha"]
        console.print(Text(processes(trainer.accelerator)), soft_wrap=True)
        said = f" (alpha {alpha}) on {job.model}, {job.data}: {folder.path}"
        console.print(Text(job.recipe, "bold").append(said, "not bold"))
        print_data(job, console)
        if job.reports:
            dropped = [record for report in job.reports for record in report.dropped]
            write_whole(folder.path / DROPPED, "".join(json.dumps(record) + "\n" for record in dropped))
    trainer.add_callback(ProgressLine(trainer.recorder, console, accuracies))
    _evaluate(trainer, job, config.stages[0], 0)
    if "sft" in config.stages:
        if not folder.sft.exists():
            stage = _sft_stage(trainer, config, folder, point)
            stage.add_callback(ProgressLine(stage.recorder, console, accuracies))
            _run(stage, point, over)
            save_model(stage, folder.sft, mark=True)
            del trainer, stage
            gc.collect()  # two models at a time are too many for some machines
            point, over = None, False
            if config.deepspeed_plugin:
                AcceleratorState._reset_state()  # the next stage brings a DeepSpeed of its own, which it would refuse
            trainer = _trainer(job, config, folder.sft)
            trainer.recorder.go_on(folder.sft)
            trainer.add_callback(ProgressLine(trainer.recorder, console, accuracies))
        _evaluate(trainer, job, "sft", read_json(folder.sft / MARKER, Marker)["step"])
    if "rl" in config.stages:
        _run(trainer, point if point != folder.sft else None, over)
        _evaluate_end(trainer, job)
    save_model(trainer, folder.final, card=True)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TrackioCallback):
            callback.on_train_end(trainer.args, trainer.state, trainer.control, model=trainer.model)
    if main:
        print_summary(folder, console)
        push(config, folder.final, console)
    return folder


def _run(trainer: TRAPOTrainer | SFTStage, checkpoint: Path | None, over: bool) -> None:
    """Train a stage from its start or a checkpoint; nothing where the checkpoint, whose weights these are, ends it."""
    if over:
        if (checkpoint / "trainer_state.json").exists():
            trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        trainer.state.global_step = read_json(checkpoint / MARKER, Marker)["step"]
    else:
        _open_trackio(trainer)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)


def _open_trackio(trainer: TRAPOTrainer | SFTStage) -> None:
    """Open trackio's run where it is not: TRL's timers write to it, also while we evaluate outside of training."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TrackioCallback) and callback._trackio.context_vars.current_run.get() is None:
            callback.setup(trainer.args, trainer.state, trainer.model)


def _trainer(job: Job, config: RunConfig, start: str | Path, checkpoint: Path | None = None) -> TRAPOTrainer:
    """The RL stage's trainer, which also evaluates: with the weights of `start`, or of a checkpoint begun there."""
    whole = checkpoint is not None and not config.lora_r
    model, tokenizer = load_model(str(checkpoint if whole else start), config.trust_remote_code)
    check_tied(config, model)
    try:
        trainer = TRAPOTrainer(
            model, args=config, train_dataset=job.train, eval_dataset=job.held_out or None, processing_class=tokenizer,
            peft_config=peft_config(config),
        )  # fmt: skip
        if checkpoint is not None and config.lora_r:
            load_adapter(trainer.model, checkpoint)
    except RuntimeError as error:
        if "to be installed" in str(error):  # a tracker's callback, which says what to install
            raise ValueError(f"report_to {config.report_to}: {error}") from error
        raise
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            # It learns of the run folder when training begins; our first evaluation's figures would go to ./runs.
            callback.logging_dir = str(Path(config.output_dir) / "tensorboard")
    trainer.recorder.job = {"recipe": job.recipe, "model": job.model, "data": job.data}
    if job.shared:
        trainer.recorder.job["held_out_in_training"] = job.shared
    return trainer


def _sft_stage(trainer: TRAPOTrainer, config: RunConfig, folder: RunFolder, point: Path | None) -> SFTStage:
    """The SFT stage on the weights of `trainer`."""
    model, demonstrations = trainer.accelerator.unwrap_model(trainer.model), trainer.demonstrations()
    stage = SFTStage(model, config, demonstrations, trainer.processing_class, folder)
    stage.remove_callback(PrinterCallback)
    stage.remove_callback(ProgressCallback)
    if point is not None:
        stage.recorder.take_up(point)
    return stage


def _evaluate(trainer: TRAPOTrainer, job: Job, stage: str, step: int) -> None:
    """Evaluate the held-out sets that have no record yet at this point of the run."""
    done = {
        r["set"] for r in trainer.recorder.folder.records("evals.jsonl") if (r["stage"], r["step"]) == (stage, step)
    }
    missing = {name: rows for name, rows in job.held_out.items() if name not in done}
    trainer.accelerator.wait_for_everyone()  # before the first process appends to what the others are reading
    if missing:
        trainer.recorder.at = (stage, step)
        _open_trackio(trainer)
        trainer.evaluate(missing)
        trainer.recorder.at = None


def _best(checkpoint: Path, config: RunConfig) -> Path:
    """The checkpoint whose weights a stage that ended at `checkpoint` leaves: itself, or the best where that is asked.

    Raises:
        ValueError: if the best is not whole.
    """
    if not config.load_best_model_at_end or checkpoint.parent.name == "sft":
        return checkpoint
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if state.best_model_checkpoint is None:
        return checkpoint
    best = checkpoint.with_name(Path(state.best_model_checkpoint).name)
    if broken := fault(best):
        raise ValueError(f"the best checkpoint cannot be loaded: {broken}")
    return best


def _evaluate_end(trainer: TRAPOTrainer, job: Job) -> None:
    """Record what the model at the end of RL reaches; of the best checkpoint it is known from when it was chosen."""
    state, recorder = trainer.state, trainer.recorder
    best = state.best_global_step if trainer.args.load_best_model_at_end else None
    if best in (None, state.global_step):
        _evaluate(trainer, job, "rl", state.global_step)
        return
    records = recorder.folder.records("evals.jsonl")
    if recorder.main and not records[-1].get("final"):
        chosen = [r for r in records if (r["stage"], r["step"]) == ("rl", best)]
        recorder.folder.append("evals.jsonl", [r | {"final": True} for r in chosen])
    trainer.accelerator.wait_for_everyone()


def _check_rows(folder: RunFolder, trainer: TRAPOTrainer) -> None:
    """Refuse to go on with other training rows than the run was begun with."""
    before, now = (r["rows_fingerprint"] for r in (folder.record(), trainer.recorder.describe()))
    if before != now:
        raise ValueError(
            f"{folder.path} was begun with other training rows (fingerprint {before}, now {now}): give the data as it "
            "was, or start a new run"
        )


def check_target(folder: RunFolder, job: Job, overwrite: bool) -> None:
    """Raise unless a run can be begun in the folder; with `overwrite`, unless all that goes can be spared.

    Raises:
        ValueError, FileExistsError: as `RunFolder.check_free`; also where the model or the data would be deleted.
    """
    folder.check_free(overwrite)
    for what, name in (("model", job.model_path), ("data", job.data)):
        used = Path(name).absolute()
        if overwrite and any(used.is_relative_to(path.absolute()) for path in folder.written()):
            raise ValueError(
                f"--overwrite would delete the {what} {name}, which this training needs: copy it elsewhere"
            )


def _resume_point(folder: RunFolder, job: Job, config: RunConfig) -> tuple[Path | None, str]:
    """Where to go on, and why there: the newest whole checkpoint, or the end of the SFT stage; None for the start.

    Raises:
        ValueError: if the run is finished, was begun otherwise, or what it had saved is gone.
    """
    if folder.final.exists():
        raise ValueError(f"{folder.path} is finished: look at {folder.final}, or start a new run in another output_dir")
    record = folder.record()
    names = {"recipe": job.recipe, "model": job.model}  # the model too: a checkpoint of LoRA's holds no weights of it
    before = record.get("config", {}) | {name: record.get(name, value) for name, value in names.items()}
    now = json.loads(json.dumps(config.to_dict(), default=str)) | names
    # A field that this version added was at its default when the run was begun.
    for name in now.keys() - before.keys():
        before[name] = now[name] if name not in DEFAULTS else json.loads(json.dumps(DEFAULTS[name], default=str))
    _check_shares(folder, before, now, record.get("world_size") or 1, config)
    free = FREE_ON_RESUME | SHARES
    changed = [k for k in sorted(before | now) if k not in free and before.get(k) != now.get(k)]
    if changed:
        differences = ", ".join(f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in changed)
        raise ValueError(f"{folder.path} was begun with another configuration: {differences}")
    main = PartialState().is_main_process  # one process reads all those bytes
    found = broadcast_object_list([_newest(folder, config) if main else None])[0]
    if isinstance(found, str):
        raise ValueError(found)
    return found


def _check_shares(folder: RunFolder, before: dict, now: dict, ranks: int, config: RunConfig) -> None:
    """Refuse another number of samples a step, and processes that DeepSpeed's checkpoints are not of."""
    sizes = "per_device_train_batch_size", "gradient_accumulation_steps"
    found = []
    for fields_, processes_ in ((before, ranks), (now, config.world_size)):
        each, parts = (fields_.get(name) or 1 for name in sizes)
        found.append((each * parts * processes_, f"{processes_} process(es) x {each} samples x {parts} accumulated"))
    (total, was), (total_now, is_) = found
    if total != total_now:
        raise ValueError(
            f"{folder.path} was begun with {total} samples a step ({was}), now there are {total_now} ({is_}): choose "
            "per_device_train_batch_size or gradient_accumulation_steps so that it stays"
        )
    if config.deepspeed_plugin and ranks != config.world_size:
        raise ValueError(
            f"{folder.path} was begun with {ranks} process(es), now there are {config.world_size}: DeepSpeed's "
            "checkpoints are for as many as wrote them"
        )


def _newest(folder: RunFolder, config: RunConfig) -> tuple[Path | None, str] | str:
    """The newest whole state of a run and why it is that one; or why the run cannot go on."""
    faults: list[Fault] = []
    lost = False
    for stage in reversed(config.stages):
        if stage == "sft" and folder.sft.exists():
            found = [broken] if (broken := fault(folder.sft, ("the weights",))) else []
            point = None if found else folder.sft
        else:
            point, found = folder.whole_checkpoint(stage)
        faults += found
        if point is not None:
            return point, f"Going on from {point}" + "".join(f"; {newer}" for newer in faults)
        lost |= folder.has_saved(stage) or any(not newer.unfinished for newer in found)
        if lost:
            said = "; ".join(map(str, faults)) or f"the checkpoints that it had in {folder.checkpoints} are gone"
            return (
                f"{folder.path} cannot be resumed: {said}, and no older one is there. Put one back, or start anew with "
                "--overwrite instead of --resume"
            )
    return None, f"{folder.path} had no checkpoint yet: it begins again"
