"""One run, from a configuration to result.json."""

import importlib.metadata
import inspect
import json
import logging
import platform
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch import nn

from experiments.engine import checkpoint, identity, rundir, telling
from experiments.engine.build import UserError, build
from experiments.engine.compute import DEVICES, PRECISIONS, Compute, choose
from experiments.engine.distributed import Group, joined
from experiments.engine.durations import duration
from experiments.engine.files import ROOT, write_atomically
from experiments.engine.interfaces import Section
from experiments.engine.loop import Training, seconds_per_step, train
from experiments.engine.optim import make_optimizer
from experiments.engine.required import with_run_dirs
from experiments.engine.result import Result
from experiments.engine.tracking import MODES, under_agent
from stn.seeds import stream_seed

log = logging.getLogger(__name__)

CODE = ("train.py", "stn", "experiments", "configs")  # what a result depends on


def run(
    cfg: DictConfig,
    overrides: Iterable[str] = (),
    sections: Mapping[str, Section] = MappingProxyType({}),
    *,
    wait: bool = False,
) -> Result:
    """Trains and tests what `cfg` describes, or returns the result that already stands in its run directory.

    overrides: the command line's, for the directory's name.
    sections: by name; those that `section` may choose.
    wait: while another process trains it.
    returns: what result.json holds.
    raises: UserError with one sentence for what the user can mend.
    """
    check(cfg)
    section = section_of(cfg, sections)
    folder = rundir.run_dir(cfg, overrides)
    with (
        joined(cfg.device) as group,
        rundir.locked(folder, wait=wait) if group.first else nullcontext(),
        rundir.telling_failure(folder) if group.first else nullcontext(),
    ):
        result = group.share(rundir.finished(folder, cfg) if group.first else None)
        if result is not None:
            log.info("%s is finished already (%s); skipped.", folder, result.summary)
            if group.first and under_agent():
                telling.tell_agent(cfg, section, result, folder)
            return result
        return _run(cfg, section, folder, group)


def check(cfg: DictConfig) -> None:
    """raises: UserError for a value that no part of the run would refuse clearly by itself."""
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"This experiment does not run without {missing[0]}: give {missing[0]}=VALUE.")
    for key, value, valid in (
        ("device", cfg.device, DEVICES),
        ("trainer.precision", cfg.trainer.precision, PRECISIONS),
        ("wandb.mode", cfg.wandb.mode, MODES),
    ):
        if value not in valid:
            raise UserError(f"{key}={value} is not valid: choose one of {', '.join(valid)}.")
    if not isinstance(cfg.wandb.artifacts, bool):
        raise UserError(f"wandb.artifacts={cfg.wandb.artifacts} is not valid: it is true or false.")
    if not isinstance(cfg.figures, bool):
        raise UserError(f"figures={cfg.figures} is not valid: it is true or false.")
    for key in ("iterations", "batch_size", "eval_batch_size", "log_every", "checkpoint_every", "val_every"):
        if not isinstance(cfg.trainer[key], int) or cfg.trainer[key] < 1:
            raise UserError(f"trainer.{key}={cfg.trainer[key]} is not valid: it is a whole number from 1.")
    every = cfg.trainer.snapshot_every
    if every is not None and (not isinstance(every, int) or every < 1):
        raise UserError(f"trainer.snapshot_every={every} is not valid: it is null or a whole number from 1.")
    for key in ("checkpoint_every", "val_every"):
        if cfg.trainer[key] % cfg.trainer.log_every:
            raise UserError(
                f"trainer.{key}={cfg.trainer[key]} must be a multiple of trainer.log_every={cfg.trainer.log_every}."
            )
    if not isinstance(cfg.seed, int) or cfg.seed < 0:
        raise UserError(f"seed={cfg.seed} is not valid: it is a whole number from 0.")


def section_of(cfg: DictConfig, sections: Mapping[str, Section]) -> Section | None:
    """The section that a configuration names; None where it names none, or none are given.

    Raises:
        UserError: for a name that is not among the sections.
    """
    if cfg.section is None or not sections:
        return None
    if cfg.section not in sections:
        raise UserError(f"section={cfg.section} is not valid: choose one of {', '.join(sections)}, or null.")
    return sections[cfg.section]


def assemble(cfg: DictConfig, device: torch.device) -> tuple[Any, nn.Module]:
    """The data and the freshly initialised network of a configuration, on the device."""
    torch.manual_seed(cfg.seed)
    data = build(cfg.dataset, seed=cfg.seed, device=device)
    classes = {"num_classes": data.num_classes} if hasattr(data, "num_classes") else {}
    model = build(cfg.model, in_shape=data.in_shape, **classes).to(device)
    if cfg.trainer.precision != "plain":
        for layer in model.modules():  # one by one: there is no such format for volumes
            if isinstance(layer, nn.Conv2d):
                layer.to(memory_format=torch.channels_last)
    return data, model


def load_run(
    folder: str | Path, cfg_overrides: dict[str, Any] | None = None
) -> tuple[Any, nn.Module, dict[str, Any]]:
    """A finished or interrupted run's data, trained network and config, on the CPU, for a notebook or a probe.

    folder: a run directory with config.json and last.pt.   cfg_overrides: such as {"data_dir": ...}.
    raises: UserError where either file is missing.
    """
    folder = Path(folder)
    for name in ("config.json", "last.pt"):
        if not (folder / name).exists():
            raise UserError(f"{folder} has no {name}: give the directory of a run that has trained.")
    config = json.loads((folder / "config.json").read_text())
    cfg = OmegaConf.create(config)
    assert isinstance(cfg, DictConfig)
    put_back(cfg, cfg_overrides or {})
    data, model = assemble(cfg, torch.device("cpu"))
    model.load_state_dict(checkpoint.load(folder / "last.pt")["model"])
    return data, model.eval(), config


def put_back(node: Any, circumstances: dict[str, Any]) -> None:
    """Tells every `_target_` in a configuration that takes them of circumstances, which no stored one holds."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            known = inspect.signature(get_object(identity.current_name(node._target_))).parameters
            node.update({key: value for key, value in circumstances.items() if key in known})
        for value in node.values():
            put_back(value, circumstances)


def _run(cfg: DictConfig, section: Section | None, folder: Path, group: Group) -> Result:
    compute = choose(cfg.device, cfg.trainer.precision, cfg.threads)
    data, model = assemble(cfg, compute.device)
    task = build(with_run_dirs(cfg).task)
    if isinstance(task, nn.Module):  # one with a network of its own
        task.to(compute.device)
    model = group.prepare(model, task)
    optimizer = make_optimizer(
        model, OmegaConf.to_container(cfg.optimizer, resolve=True), plain=compute.plain
    )
    schedule = build(cfg.trainer.schedule)(optimizer)
    try:
        stream = group.part(data.train_stream(cfg.trainer.batch_size))
    except ValueError as error:  # more than there are training digits
        raise UserError(str(error)) from error
    training = Training(model, optimizer, schedule, stream)
    parameters = sum(p.numel() for p in model.parameters())
    last = folder / "last.pt"
    best = checkpoint.Best(folder / "best.pt")
    if last.exists():
        state = checkpoint.load(last, compute.device)
        training.load_state_dict(state)
        best.state = state.get("best")
        log.info("Resuming %s at step %d.", folder, training.step)
    if not group.first:  # what is dropped out of the network differs from process to process
        torch.manual_seed(stream_seed(cfg.seed, f"process {group.rank} from step {training.step}"))
    _announce(cfg, training, parameters, compute, seconds_per_step(training, task, compute.autocast))

    config, revision = identity.stored(cfg), git_revision()
    about = {
        "dataset": data.name,
        "config": config,
        "config_hash": identity.config_hash(config),
        "parameters": parameters,
        **revision,
    }
    tracker = telling.tracker_of(cfg, about, folder, silent=not group.first)
    history = _History(folder / "metrics.jsonl", training.step) if group.first else None

    def record(step: int, numbers: dict[str, float]) -> None:
        if history:
            history.add({"step": step, **numbers})
        tracker.log(step, numbers)

    def validate() -> dict[str, float]:
        if not group.first:
            return {}
        metrics, _ = task.evaluate(model, data.val.batches(cfg.trainer.eval_batch_size))
        return {f"val/{key}": value for key, value in metrics.items()}

    def validate_and_remember() -> dict[str, float]:
        numbers = validate()
        if "val/error" in numbers:
            best.offer(training.step, numbers["val/error"], model)
        return numbers

    def keep() -> None:
        save(last, training.state_dict() | ({"best": best.state} if best.state else {}))
        if group.first:
            best.save()  # second: what a kill leaves out here, the next time makes up for

    def save(path: Path, state: Any) -> None:
        if group.first:
            checkpoint.save(path, state)

    exit_code = 1
    try:
        train(
            training,
            task,
            iterations=cfg.trainer.iterations,
            autocast=compute.autocast,
            graph=compute.graph and group.size == 1,
            log_every=cfg.trainer.log_every,
            checkpoint_every=cfg.trainer.checkpoint_every,
            log=record,
            checkpoint=keep,
            val_every=cfg.trainer.val_every,
            validate=validate_and_remember if data.val is not None else None,
            snapshot_every=cfg.trainer.snapshot_every or 0,
            snapshot=lambda step: save(snapshot_path(folder, step), model.state_dict()),
            group=group,
        )
        if not group.first:
            exit_code = 0
            return group.share(None)
        best.save()
        metrics: dict[str, float] = {}
        if data.val is not None:
            metrics |= {key.replace("val/", "val_"): value for key, value in validate().items()}
        tested, predictions = task.evaluate(model, data.test.batches(cfg.trainer.eval_batch_size))
        metrics |= {f"test_{key}": value for key, value in tested.items()}
        figures = section.figures(model, data, folder) if section and cfg.figures else {}
        result = Result(
            experiment=cfg.experiment,
            dataset=data.name,
            model=cfg.model.name,
            transform=identity.transform_name(cfg),
            trainer=cfg.trainer.name,
            seed=cfg.seed,
            metrics=metrics,
            width=getattr(model, "width", None),
            parameters=parameters,
            iterations=training.step,
            wall_seconds=round(training.seconds, 1),
            images_per_second=round(training.step * cfg.trainer.batch_size / max(training.seconds, 1e-9), 1),
            **revision,
            versions=versions(),
            device=compute.name,
            precision=compute.precision,
            test_fingerprint=data.test.fingerprint,
            config_hash=identity.config_hash(config),
            config=config,
            path=folder / "result.json",
        )
        tracker.attempt(lambda: telling.tell(tracker, section, result, figures))
        compact = predictions
        if not predictions.is_floating_point():
            compact = predictions.to(torch.uint8 if int(predictions.max()) < 256 else torch.int16)
        torch.save(compact, folder / "predictions.pt")
        result.write(result.path)
        if tracker.artifacts:
            tracker.attempt(lambda: telling.hand_over(tracker, result, folder))
        group.share(result)
        exit_code = 0
    finally:
        tracker.finish(exit_code)
    log.info("%s: %s", folder.parent.name, result.summary)
    for path in figures.values():
        log.info("figure: %s", path)
    log.info("result: %s", folder / "result.json")
    if tracker.sync_command:
        log.info("W&B:    %s", tracker.sync_command)
    return result


def snapshot_path(folder: Path, step: int) -> Path:
    """Where the network's weights at a step are kept, with trainer.snapshot_every."""
    return folder / "snapshots" / f"step_{step:06d}.pt"


def snapshot_steps(folder: Path) -> dict[int, Path]:
    """The steps whose weights are kept, in order, and where."""
    found = sorted((folder / "snapshots").glob("step_*.pt"))
    return {int(path.stem.removeprefix("step_")): path for path in found}


class _History:
    """metrics.jsonl: a line per logged step. On resuming, lines after the checkpoint are dropped, to come again."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                numbers = json.loads(line)
            except ValueError:  # the line that a kill cut short
                break
            if numbers["step"] <= step:
                kept.append(line + "\n")
        write_atomically(path, lambda temporary: temporary.write_text("".join(kept)))

    def add(self, numbers: dict[str, float]) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(numbers) + "\n")


def _announce(
    cfg: DictConfig,
    training: Training,
    parameters: int,
    compute: Compute,
    step_seconds: float,
) -> None:
    left = (cfg.trainer.iterations - training.step) * step_seconds
    what = "-".join(p for p in (cfg.model.name, identity.transform_name(cfg)) if p)
    hint = f" {cfg.trainer.hint}" if compute.device.type == "cpu" and cfg.trainer.hint else ""
    log.info(
        "%s %s, %s parameters, %s steps of %d on %s in %s: about %s (%.0f ms a step).%s",
        cfg.experiment, what, f"{parameters:,}", f"{cfg.trainer.iterations - training.step:,}", cfg.trainer.batch_size,
        compute.name, compute.precision, duration(left), 1000 * step_seconds, hint,
    )  # fmt: skip


def git_revision() -> dict[str, Any]:
    """The revision of this repository, and whether the code differs from it. None outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        return {
            "git_revision": git("rev-parse", "HEAD"),
            "git_dirty": bool(git("status", "--porcelain", "--", *CODE)),
        }
    except (OSError, subprocess.SubprocessError):
        return {"git_revision": None, "git_dirty": None}


def versions() -> dict[str, str]:
    names = ("torch", "torchvision", "numpy", "hydra-core", "wandb")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
