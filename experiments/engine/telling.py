"""What W&B is told of a run: its place among others, its numbers beside the paper's, its files."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.engine import checkpoint, identity
from experiments.engine.interfaces import Section
from experiments.engine.result import Result
from experiments.engine.tracking import AGAINST_PAPER, Tracker


def tracker_of(cfg: DictConfig, about: dict[str, Any], folder: Path, *, silent: bool = False) -> Tracker:
    """W&B's run of this run: a group is a cell of a table, its runs are the seeds.

    about: the keys of a result that are known before it.   silent: for a process that does not log.
    """
    settings: Any = OmegaConf.to_container(cfg.wandb, resolve=True)
    group = f"{cfg.experiment}/{folder.parent.name}"
    transform, revision = identity.transform_name(about["config"]), about["git_revision"]
    return Tracker(
        folder,
        root=Path(cfg.output_dir),
        **settings | ({"mode": "disabled"} if silent else {}),
        group=group,
        name=f"{group}/{folder.name}",
        job_type=cfg.trainer.name,
        tags=[
            *(cfg.experiment, cfg.model.name, transform or "", cfg.trainer.name, about["dataset"]),
            *([f"git-{revision[:7]}"] if revision else []),
            *(["dirty"] if about["git_dirty"] else []),
        ],
        config=about["config"]
        | {key: about[key] for key in ("config_hash", "parameters", "git_revision", "git_dirty")},
    )


def tell(tracker: Tracker, section: Section | None, result: Result, figures: dict[str, Path]) -> None:
    """A finished run's numbers to W&B: the result's metrics under their names, and the paper's number beside ours."""
    step, metrics = result.iterations, result.metrics
    tested = {key: value for key, value in metrics.items() if key.startswith("test_")}
    tracker.log(step, {key.replace("test_", "test/"): value for key, value in tested.items()})
    line = section.against_paper(result) if section else None
    if line is not None:
        tracker.table(AGAINST_PAPER, [line], step=step)
    known = {key: line[key] for key in ("paper", "difference") if line[key] is not None} if line else {}
    tracker.summary(
        {k: v for k, v in result.to_dict().items() if k not in ("config", "metrics")} | metrics | known
    )
    tracker.figures(step, figures)


def hand_over(tracker: Tracker, result: Result, folder: Path) -> None:
    """A finished run's files to W&B: the result, the tested weights and, where there are, the best by validation."""
    facts = {
        key: getattr(result, key) for key in ("config_hash", "git_revision", "git_dirty", "test_fingerprint")
    }
    files = [folder / name for name in ("result.json", "config.json", "predictions.pt")]
    tracker.artifact("result", [file for file in files if file.exists()], metadata=facts | result.metrics)
    best, last = folder / "best.pt", folder / "weights.pt"
    if best.exists():
        about = {key: value for key, value in checkpoint.load(best).items() if key != "model"}
        tracker.artifact("model", [best], alias="best", metadata=facts | about)
    state = checkpoint.load(folder / "last.pt")
    checkpoint.save(
        last, {"step": state["step"], "model": state["model"]}
    )  # last.pt without what only training needs
    tracker.artifact("model", [last], alias="last", metadata=facts | {"step": state["step"]})


def tell_agent(cfg: DictConfig, section: Section | None, result: Result, folder: Path) -> None:
    """A run of a W&B sweep that stands already: the agent's run gets its numbers all the same."""
    tracker = tracker_of(cfg, result.to_dict(), folder)
    log_file = folder / "metrics.jsonl"
    for text in log_file.read_text().splitlines() if log_file.exists() else []:
        numbers = json.loads(text)
        tracker.log(numbers.pop("step"), numbers)
    tracker.attempt(lambda: tell(tracker, section, result, {}))
    if tracker.artifacts:
        tracker.attempt(lambda: hand_over(tracker, result, folder))
    tracker.finish()
