"""One run, from a configuration to result.json."""

import contextlib
import copy
import logging
import random
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from experiments.engine import checkpoint, identity, longer, rundir
from experiments.engine.build import UserError, build, with_arguments
from experiments.engine.classes import write_classes
from experiments.engine.compute import DEVICES, PRECISIONS, choose
from experiments.engine.distributed import Group, process_group
from experiments.engine.durations import duration
from experiments.engine.history import History
from experiments.engine.initial import check_initial, load_initial
from experiments.engine.interfaces import Data, DescribedData, Section, Task
from experiments.engine.loading import MADE_FOR, load_weights, made_for, make_network, read_run
from experiments.engine.loop import Cadence, Observer, Training, seconds_per_step, train
from experiments.engine.optim import make_optimizer
from experiments.engine.provenance import git_revision, refuse_secrets, versions
from experiments.engine.ranges import check_ranges
from experiments.engine.required import with_run_dirs
from experiments.engine.result import Result
from experiments.engine.tracking import MODES, Tracker, under_agent
from experiments.engine.wandb_run import log_finished_run, log_result, start_tracker, upload_files
from stn.seeds import stream_seed

log = logging.getLogger(__name__)

BATCH = "batch"  # a value of `figures`


def run(
    cfg: DictConfig,
    overrides: Iterable[str] = (),
    sections: Mapping[str, Section] = MappingProxyType({}),
    *,
    wait: bool = False,
) -> Result:
    """Trains and tests what a configuration describes, or returns the result that its run directory already has.

    Args:
        cfg: the configuration.
        overrides: of the command line; they name the run directory.
        sections: name -> section, for `section` of the configuration to choose from.
        wait: whether to wait for another process that trains the same run.

    Returns:
        What result.json holds.

    Raises:
        UserError: the user can mend it; the message is one sentence.
    """
    check(cfg)
    section = section_of(cfg, sections)
    folder = rundir.run_dir(cfg, overrides)
    with (
        process_group(cfg.device) as group,
        rundir.locked(folder, wait=wait) if group.first else nullcontext(),
        rundir.recorded_failure(folder) if group.first else nullcontext(),
    ):
        result = group.broadcast(rundir.finished(folder, cfg) if group.first else None)
        if result is None:
            return _run(cfg, section, folder, group)
        log.info("%s is finished already (%s); skipped.", folder, result.summary)
        if group.first and under_agent():
            log_finished_run(cfg, section, result, folder)
        return result


def check(cfg: DictConfig) -> None:
    """Refuses values that no part of the run would refuse clearly by itself.

    Raises:
        UserError: names the key and the valid values.
    """
    check_initial(cfg)  # before its interpolation is resolved, which gives errors without a sentence
    try:
        if missing := sorted(OmegaConf.missing_keys(cfg)):
            raise UserError(f"This experiment does not run without {missing[0]}: give {missing[0]}=VALUE.")
        config: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(
            f"experiment={cfg.experiment} and what else is chosen do not fit together: "
            f"{str(error.msg).splitlines()[0]}."
        ) from error
    refuse_secrets(cfg)  # before a message quotes a value
    for key, value, valid in (
        ("device", cfg.device, DEVICES),
        ("trainer.precision", cfg.trainer.precision, PRECISIONS),
        ("wandb.mode", cfg.wandb.mode, MODES),
    ):
        if value not in valid:
            raise UserError(f"{key}={value} is not valid: choose one of {', '.join(valid)}.")
    for key, value, words in (
        ("wandb.artifacts", cfg.wandb.artifacts, "true or false"),
        ("figures", cfg.figures, f"true, {BATCH} or false"),
    ):
        if not isinstance(value, bool) and not (key == "figures" and value == BATCH):
            raise UserError(f"{key}={value} is not valid: it is {words}.")
    if "transform" in config["model"] and config["model"]["transform"] is None:
        raise UserError(
            f"model.transform=null does not fit model={cfg.model.name}, which has transformers: choose a transform, or "
            "a model without."
        )
    check_ranges(config)
    dataset = config["dataset"]
    if "content" in dataset and dataset["content"] is None:
        try:  # the folder cannot be read, or is refused: the data set says why
            build(cfg.dataset, seed=cfg.seed)
        except FileNotFoundError as error:
            raise UserError(str(error)) from error
    for key in ("checkpoint_every", "val_every"):
        if cfg.trainer[key] % cfg.trainer.log_every:
            raise UserError(
                f"trainer.{key}={cfg.trainer[key]} must be a multiple of trainer.log_every={cfg.trainer.log_every}."
            )


def section_of(cfg: DictConfig, sections: Mapping[str, Section]) -> Section | None:
    """Returns the section that a configuration names; None where it names none, or `sections` is empty.

    Raises:
        UserError: the name is not among the sections.
    """
    if cfg.section is None or not sections:
        return None
    if cfg.section not in sections:
        raise UserError(f"section={cfg.section} is not valid: choose one of {', '.join(sections)}, or null.")
    return sections[cfg.section]


def assemble(cfg: DictConfig, device: torch.device) -> tuple[Any, nn.Module]:
    """Builds the data and the freshly initialised network of a configuration on a device.

    Returns:
        The data, as `interfaces.Data`, and the network, as `interfaces.Network`.
    """
    random.seed(cfg.seed)
    torch.manual_seed(cfg.seed)
    data: Data = build(cfg.dataset, seed=cfg.seed, device=device)
    return data, make_network(cfg, data.in_shape, data.num_classes, device)


def load_run(
    folder: str | Path, arguments: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Any, nn.Module, dict[str, Any]]:
    """Loads a run that has trained, finished or not, on the CPU, for a notebook or a probe.

    The folder may be somebody else's: nothing in it is run as code, and it chooses no place to write to. Data sets of
    images write decoded images to `cache_dir`, outputs/cache unless `arguments` names another; nothing is downloaded
    unless `arguments` has {"download": True}.

    Args:
        folder: a run directory with config.json and last.pt.
        arguments: what the stored configuration leaves out, such as {"data_dir": ...}.

    Returns:
        The data, the trained network in evaluation mode, and the stored configuration.

    Raises:
        UserError: one of the files is missing, damaged, or names what is not `build.offered`.
    """
    config, state = read_run(folder)
    data, model = assemble(OmegaConf.create(with_arguments(config, arguments)), torch.device("cpu"))
    load_weights(model, state, folder)
    return data, model.eval(), config


def _run(cfg: DictConfig, section: Section | None, folder: Path, group: Group) -> Result:
    """Prepares, trains, tests and records; the first process does the last two for all."""
    run = _prepare(cfg, folder, group)
    if group.first:
        _show_data(run, section)
    _announce(run, seconds_per_step(run.training))
    result: Result | None = None
    figures: dict[str, Path] = {}
    with start_tracker(cfg, run.facts, folder, enabled=group.first) as tracker:
        every = ("log_every", "checkpoint_every", "val_every", "snapshot_every")
        cadence = Cadence(cfg.trainer.iterations, **{key: cfg.trainer[key] for key in every})
        if group.size == 1:
            with _stopping_at_sigterm(recorder := _Recorder(run, tracker)):
                train(run.training, cadence, recorder)
        else:  # of several processes none may leave alone: the last checkpoint stands
            train(run.training, cadence, _Recorder(run, tracker) if group.first else Observer())
        if group.first:
            result, figures = _record(run, section, tracker, *_test(run))
        result = group.broadcast(result)
    assert result is not None
    log.info("%s: %s", folder.parent.name, result.summary)
    for path in figures.values():
        log.info("figure: %s", path)
    log.info("result: %s", folder / "result.json")
    if tracker.sync_command:
        log.info("W&B:    %s", tracker.sync_command)
    return result


@dataclass
class _Prepared:
    """A run that can be trained.

    Attributes:
        training: at the step of the last checkpoint.
        best: the weights with the lowest validation error.
        facts: the keys of the result that are known before the training.
    """

    cfg: DictConfig
    folder: Path
    data: Data
    training: Training
    best: checkpoint.Best
    facts: dict[str, Any]


def _prepare(cfg: DictConfig, folder: Path, group: Group) -> _Prepared:
    """Builds everything that is trained, and loads the last checkpoint if there is one."""
    compute = choose(cfg.device, cfg.trainer.precision, cfg.threads)
    data, model = assemble(cfg, compute.device)
    task: Task = build(with_run_dirs(cfg).task)
    task.to(compute.device)
    model = group.prepare(model, task)
    settings: Any = OmegaConf.to_container(cfg.optimizer, resolve=True)
    optimizer = make_optimizer(model, settings, plain=compute.plain)
    schedule = build(cfg.trainer.schedule)(optimizer)
    try:
        stream = group.shard(data.train_stream(cfg.trainer.batch_size))
    except ValueError as error:  # the batch is larger than the training set
        raise UserError(str(error)) from error
    training = Training(model, task, optimizer, schedule, stream, compute, group)
    best = checkpoint.Best(folder / "best.pt")
    if group.first:
        longer.adopt(folder, cfg, task, validates=data.val is not None)
    group.broadcast(None)  # the others wait for the checkpoint
    state, path = checkpoint.load_last(folder, compute.device)
    if state is not None:
        _resume(training, state, f"{path}", cfg.trainer.iterations)
        best.state = state.get("best")
        log.info("Resuming %s at step %d.", folder, training.step)
    elif cfg.get("init_from") is not None:
        load_initial(model, cfg.init_from, cfg.get("init_without"))
    if not group.first:  # dropout differs from process to process
        torch.manual_seed(stream_seed(cfg.seed, f"process {group.rank} from step {training.step}"))
    return _Prepared(cfg, folder, data, training, best, _facts(cfg, data, training))


def _resume(training: Training, state: dict[str, Any], path: str, iterations: int) -> None:
    """Restores a checkpoint, and refuses one that is not of this run."""
    try:
        training.load_state_dict(state)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is a checkpoint of another network or of another program: delete it to start the run anew."
        ) from error
    if training.step > iterations:
        raise UserError(
            f"{path} is of step {training.step}, and trainer.iterations={iterations} ends before it: delete it to "
            "start the run anew."
        )


def _facts(cfg: DictConfig, data: Data, training: Training) -> dict[str, Any]:
    config = identity.stored(cfg)
    return {
        "experiment": cfg.experiment,
        "dataset": data.name,
        "model": cfg.model.name,
        "transform": identity.transform_name(cfg),
        "trainer": cfg.trainer.name,
        "seed": cfg.seed,
        "width": getattr(training.model, "width", None),
        "parameters": sum(p.numel() for p in training.model.parameters()),
        **git_revision(),
        "versions": versions(),
        "device": training.compute.name,
        "precision": training.compute.precision,
        "config_hash": identity.config_hash(config),
        "config": config,
    }


def _show_data(run: _Prepared, section: Section | None) -> None:
    """Says what the data are, where they can tell, and draws a training batch, where `figures` asks for it."""
    if isinstance(run.data, DescribedData):
        log.info("%s", run.data.description)
    if section is not None and run.cfg.figures == BATCH and run.training.step == 0:
        stream = copy.deepcopy(run.training.stream)  # the run's own gives the same batch to step 1
        images, labels, *_ = stream.next_batch()
        for path in section.batch(images, labels, run.data, run.folder, run.facts).values():
            log.info("figure: %s", path)


def _announce(run: _Prepared, step_seconds: float) -> None:
    """Says what is trained, on what, and how long it will take."""
    trainer, compute, facts = run.cfg.trainer, run.training.compute, run.facts
    steps = trainer.iterations - run.training.step
    network = "-".join(name for name in (facts["model"], facts["transform"]) if name)
    hint = f" {trainer.hint}" if compute.device.type == "cpu" and trainer.hint else ""
    log.info(
        "%s %s, %s parameters, %s steps of %d on %s in %s: about %s (%.0f ms a step).%s",
        facts["experiment"], network, f"{facts['parameters']:,}", f"{steps:,}", trainer.batch_size,
        compute.name, compute.precision, duration(steps * step_seconds), 1000 * step_seconds, hint,
    )  # fmt: skip


class _Recorder(Observer):
    """Writes what happens during the training into the run directory and to W&B."""

    def __init__(self, run: _Prepared, tracker: Tracker) -> None:
        self.run, self.tracker = run, tracker
        self.history = History(run.folder / "metrics.jsonl", run.training.step)
        self.terminated = False

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.history.add(step, metrics)
        self.tracker.log(step, metrics)

    def validate(self, step: int) -> dict[str, float]:
        metrics = _validate(self.run)
        if "error" in metrics:
            self.run.best.offer(step, metrics["error"], self.run.training.model)
        return {f"val/{key}": value for key, value in metrics.items()}

    def checkpoint(self) -> None:
        state, best = self.run.training.state_dict(), self.run.best
        state[MADE_FOR] = made_for(self.run.data)
        checkpoint.save_last(self.run.folder, state | ({"best": best.state} if best.state else {}))
        best.save()  # after last.pt: a kill in between loses nothing, since last.pt has the weights too

    def stopping(self) -> bool:
        return self.terminated

    def snapshot(self, step: int) -> None:
        path = checkpoint.snapshot_path(self.run.folder, step)
        checkpoint.save(path, self.run.training.model.state_dict())


@contextlib.contextmanager
def _stopping_at_sigterm(recorder: _Recorder) -> Iterator[None]:
    """Lets SIGTERM end the training at the next log line, with a checkpoint, where nobody else answers the signal."""
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return

    def terminate(*_: object) -> None:
        recorder.terminated = True

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _validate(run: _Prepared) -> dict[str, float]:
    if run.data.val is None:
        return {}
    batches = run.data.val.batches(run.cfg.trainer.eval_batch_size)
    return run.training.task.evaluate(run.training.model, batches)[0]


def _test(run: _Prepared) -> tuple[dict[str, float], Tensor, dict[str, Tensor]]:
    """Measures the trained network.

    Returns:
        Metrics as `val_<name>` and `test_<name>`; of the test set, the predictions and `Task.details`.
    """
    task, model, size = run.training.task, run.training.model, run.cfg.trainer.eval_batch_size
    validated = _validate(run)
    tested, predictions = task.evaluate(model, run.data.test.batches(size))
    details = task.details(model, run.data.test.batches(size))
    metrics = {f"val_{key}": value for key, value in validated.items()}
    return metrics | {f"test_{key}": value for key, value in tested.items()}, predictions, details


def _record(
    run: _Prepared,
    section: Section | None,
    tracker: Tracker,
    metrics: dict[str, float],
    predictions: Tensor,
    details: dict[str, Tensor],
) -> tuple[Result, dict[str, Path]]:
    """Writes the weights, predictions and numbers, result.json last, and only then draws pictures and logs to W&B."""
    training, folder = run.training, run.folder
    run.best.save()
    images = training.step * run.cfg.trainer.batch_size
    result = Result(
        **run.facts,
        metrics=metrics,
        iterations=training.step,
        wall_seconds=round(training.seconds, 1),
        images_per_second=round(images / max(training.seconds, 1e-9), 1),
        test_fingerprint=run.data.test.fingerprint,
        path=folder / "result.json",
    )
    if not predictions.is_floating_point():
        predictions = predictions.to(torch.uint8 if int(predictions.max()) < 256 else torch.int16)
    checkpoint.save(folder / "predictions.pt", predictions)
    write_classes(folder, run.data, predictions)
    if details:
        checkpoint.save(folder / "details.pt", details)
    result.write(result.path)
    drawn = section is not None and run.cfg.figures
    figures = section.figures(training.model, run.data, folder, result) if section and drawn else {}
    tracker.attempt(lambda: log_result(tracker, section, result, figures))
    if tracker.artifacts:
        tracker.attempt(lambda: upload_files(tracker, result, folder))
    return result, figures
