"""What a run logs to W&B: its name and tags, its numbers beside the paper's, and its files."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.engine import checkpoint, identity
from experiments.engine.history import read_history
from experiments.engine.interfaces import Section
from experiments.engine.result import Result
from experiments.engine.tracking import AGAINST_PAPER, Tracker


def start_tracker(cfg: DictConfig, facts: dict[str, Any], folder: Path, *, enabled: bool = True) -> Tracker:
    """Starts the W&B run of a run. Its group is a cell of a table; the runs of a group are the seeds.

    Args:
        cfg: the configuration.
        facts: the keys of `Result` that are known before the training.
        folder: the run directory.
        enabled: False for a process that does not log.
    """
    settings: Any = OmegaConf.to_container(cfg.wandb, resolve=True)
    group = f"{cfg.experiment}/{folder.parent.name}"
    transform, revision = identity.transform_name(facts["config"]), facts["git_revision"]
    return Tracker(
        folder,
        root=Path(cfg.output_dir),
        **settings | ({} if enabled else {"mode": "disabled"}),
        group=group,
        name=f"{group}/{folder.name}",
        job_type=cfg.trainer.name,
        tags=[
            *(cfg.experiment, cfg.model.name, transform or "", cfg.trainer.name, facts["dataset"]),
            *([f"git-{revision[:7]}"] if revision else []),
            *(["dirty"] if facts["git_dirty"] else []),
        ],
        config=facts["config"]
        | {key: facts[key] for key in ("config_hash", "parameters", "git_revision", "git_dirty")},
    )


def log_result(
    tracker: Tracker, section: Section | None, result: Result, figures: dict[str, Path] | None = None
) -> None:
    """Logs the metrics of a finished run, the paper's number beside them, and the pictures.

    Args:
        tracker: the W&B run.
        section: has the paper's numbers; None for none.
        result: of the run.
        figures: name -> path.
    """
    step, metrics = result.iterations, result.metrics
    tested = {key: value for key, value in metrics.items() if key.startswith("test_")}
    tracker.log(step, {key.replace("test_", "test/"): value for key, value in tested.items()})
    line = section.against_paper(result) if section else None
    if line is not None:
        tracker.table(AGAINST_PAPER, [line], step=step)
    known = {key: line[key] for key in ("paper", "difference") if line[key] is not None} if line else {}
    facts = {key: value for key, value in result.to_dict().items() if key not in ("config", "metrics")}
    tracker.summary(facts | metrics | known)
    tracker.figures(step, figures or {})


def upload_files(tracker: Tracker, result: Result, folder: Path) -> None:
    """Records the files of a finished run as artifacts: the result, the tested weights, the best ones if there are any.

    This writes weights.pt, which is last.pt without what only the training needs. Other runs have no such file.
    """
    facts = {
        key: getattr(result, key) for key in ("config_hash", "git_revision", "git_dirty", "test_fingerprint")
    }
    files = [folder / name for name in ("result.json", "config.json", "predictions.pt")]
    tracker.artifact("result", [file for file in files if file.exists()], metadata=facts | result.metrics)
    best, weights = folder / "best.pt", folder / "weights.pt"
    if best.exists():
        about = {key: value for key, value in checkpoint.load(best).items() if key != "model"}
        tracker.artifact("model", [best], alias="best", metadata=facts | about)
    state = checkpoint.load(folder / checkpoint.LAST)
    checkpoint.save(weights, {"step": state["step"], "model": state["model"]})
    tracker.artifact("model", [weights], alias="last", metadata=facts | {"step": state["step"]})


def log_finished_run(cfg: DictConfig, section: Section | None, result: Result, folder: Path) -> None:
    """Logs a run that was finished before, for the run of a W&B sweep that has chosen the same configuration."""
    with start_tracker(cfg, result.to_dict(), folder) as tracker:
        for step, metrics in read_history(folder / "metrics.jsonl"):
            tracker.log(step, metrics)
        tracker.attempt(lambda: log_result(tracker, section, result))
        if tracker.artifacts:
            tracker.attempt(lambda: upload_files(tracker, result, folder))
