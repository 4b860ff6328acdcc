"""A run tested again: on its own data, or on others of the same kind."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.engine.build import UserError, build, with_arguments
from experiments.engine.classes import class_names
from experiments.engine.compute import choose
from experiments.engine.configuration import configuration
from experiments.engine.files import write_json
from experiments.engine.identity import current_name, differences, identity, leaves, stored
from experiments.engine.initial import sha256_of
from experiments.engine.interfaces import Data, Task
from experiments.engine.loading import Trained, load_network
from experiments.engine.overrides import Overrides, word
from experiments.engine.provenance import git_revision, versions
from experiments.engine.required import with_run_dirs
from experiments.engine.result import Result
from experiments.engine.run import check
from experiments.engine.rundir import LONGEST, shortened

FOLDER = "evaluations"  # of the run directory
WHICH = ("dataset", "experiment")  # groups that choose the data anew
HOW = ("trainer.eval_batch_size", "device", "threads", "data_dir", "output_dir")


@dataclass(frozen=True)
class Evaluation:
    """What a test has measured.

    Attributes:
        trained: the network.
        metrics: `test_<name>` -> value.
        differs: in what the data differ from the run's own, each as "key (theirs -> ours)"; empty for its own data.
        fingerprint: of the test set.
        device: that it was measured on.
        result: the run's own, None where it is not finished.
    """

    trained: Trained
    metrics: dict[str, float]
    differs: list[str]
    fingerprint: str
    device: str
    result: Result | None

    def __str__(self) -> str:
        lines = [
            f"network  {self.trained.progress}",
            f"data     {', '.join(self.differs) or 'those of the run'}",
        ]
        lines.append(f"test     {_told(self.metrics)}")
        if self.result is not None:
            lines.append(f"result   {_told(self.result.metrics)}")
            if not self.differs and self.fingerprint != self.result.test_fingerprint:
                lines.append(
                    "         of other test images: this code and these data give others than the run had"
                )
        return "\n".join(lines)


def evaluate_run(run: Path, words: Iterable[str] = ()) -> tuple[Evaluation, Path]:
    """Tests the last checkpoint of a run, and writes what was measured into `evaluations/` of its directory.

    On the run's own data, and the same device and threads, the numbers are those of its result.json, which stays.

    Args:
        run: the run directory, which may be somebody else's.
        words: overrides. `dataset.KEY=VALUE` changes the data of the run; `experiment=NAME` and `dataset=NAME` choose
            others as `train.py` does; the keys `HOW` say how to measure.

    Returns:
        The measurement, and the file.

    Raises:
        UserError: an override says something else, the data do not fit the network, or as `load_network`.
    """
    given = _checked(Overrides.parse(words))
    around = configuration(given.only(lambda key: key in HOW).words)
    where = {"data_dir": around.data_dir, "cache_dir": f"{around.output_dir}/cache"}
    compute = choose(around.device, "fp32", around.threads)
    trained = load_network(run, where, compute.device)
    config, differs = _on_other_data(trained.config, given)
    cfg = _complete(config, where, around, given.value("trainer.eval_batch_size"))
    check(cfg)
    data: Data = build(cfg.dataset, seed=cfg.seed, device=compute.device)
    _check_fits(data, trained)
    task: Task = build(with_run_dirs(cfg).task)
    task.to(compute.device)
    measured, _ = task.evaluate(trained.network, data.test.batches(cfg.trainer.eval_batch_size))
    metrics = {f"test_{key}": value for key, value in measured.items()}
    own = run / "result.json"
    result = Result.read(own) if own.exists() else None
    evaluation = Evaluation(trained, metrics, differs, data.test.fingerprint, compute.name, result)
    content = {
        "metrics": metrics,
        "step": trained.step,
        "iterations": config["trainer"]["iterations"],
        "overrides": given.without("data_dir", "output_dir").words,
        "differs": differs,
        "test_fingerprint": data.test.fingerprint,
        "weights": sha256_of(trained.network.state_dict()),  # not of the file, which may be another by now
        **git_revision(),
        "versions": versions(),
        "device": compute.name,
        "dataset": stored(config)["dataset"],
    }
    path = run / FOLDER / f"{_name(trained.step, given)}.json"
    write_json(path, content)
    return evaluation, path


def _name(step: int, given: Overrides) -> str:
    """Of the file: the step and the data, so that each question has one."""
    data = given.only(lambda key: key not in HOW)
    spelt = sorted(f"{one.key_or_group}={one.get_value_element_as_str()}" for one in data)
    return shortened(",".join([f"step_{step}", *spelt]).replace("/", "_"), LONGEST)


def _checked(given: Overrides) -> Overrides:
    """The overrides, if each is one value of a key that a test depends on and a trained network does not."""
    for one in given:
        key = one.key_or_group
        if one.is_delete() or one.is_sweep_override():
            raise UserError(f"{one.input_line} is not valid: a test takes KEY=VALUE, one value of each.")
        if key == "dataset.val_size":
            raise UserError(
                "dataset.val_size is not valid: which images were held out, the training has decided."
            )
        if key not in (*WHICH, *HOW) and not key.startswith("dataset."):
            raise UserError(
                f"{one.input_line} is not valid: a test changes the data (dataset.KEY=VALUE, dataset=NAME, "
                f"experiment=NAME) and how they are measured ({', '.join(HOW)}); anything else is another run, which "
                "python train.py trains."
            )
    return given


def _on_other_data(config: dict[str, Any], given: Overrides) -> tuple[dict[str, Any], list[str]]:
    """The configuration of a run with the data that the overrides say, and in what these differ from the run's."""
    before = stored(config)["dataset"]
    words = given.only(lambda key: key.startswith("dataset."))
    chosen = given.only(lambda key: key in WHICH)
    dataset = _chosen(config, chosen, words) if len(chosen) else _changed(before, words)
    kinds = [current_name(str(one.get("_target_"))).rpartition(".")[2] for one in (before, dataset)]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"The run was trained on {kinds[0]}, and these data are {kinds[1]}: a test needs data of the same kind."
        )
    if "dataset.root" in words:
        dataset.pop("content", None)  # what the folder of the run held
    old, new = (identity({"dataset": one}) for one in (before, dataset))
    return {**config, "dataset": dataset}, differences(old, new)


def _chosen(config: dict[str, Any], chosen: Overrides, words: Overrides) -> dict[str, Any]:
    """The data that train.py would have, of the run's experiment or data set where only the other is chosen."""
    run = {"experiment": config["experiment"], "dataset": config["dataset"]["name"]}
    first = [word(key, value) for key, value in run.items() if key not in chosen]
    try:
        node = configuration([*first, *chosen.words, *words.words]).dataset
        if missing := sorted(OmegaConf.missing_keys(node)):
            raise UserError(f"These data need {missing[0]}=VALUE.")
        dataset: Any = OmegaConf.to_container(node, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{' '.join(chosen.words)}: {str(error).splitlines()[0]}.") from error
    return dict(dataset)


def _changed(dataset: dict[str, Any], words: Overrides) -> dict[str, Any]:
    """The run's data with other values."""
    node = OmegaConf.create({"dataset": deepcopy(dataset)})
    known = [key for key, _ in leaves({"dataset": dataset}) if not key.rpartition(".")[2].startswith("_")]
    for one in words:
        key = one.key_or_group
        there = OmegaConf.select(node, key, default=words) is not words
        if not (there or one.is_add() or one.is_force_add()):
            raise UserError(f"{key}: the data of this run have no such key. Valid: {', '.join(known)}.")
        OmegaConf.update(node, key, one.value(), force_add=True)
    changed: Any = OmegaConf.to_container(node.dataset)
    return dict(changed)


def _complete(
    config: dict[str, Any], where: dict[str, Any], around: DictConfig, batch_size: int | None
) -> DictConfig:
    """The stored configuration with what it leaves out: where and how a run is computed."""
    usual: Any = OmegaConf.to_container(around, resolve=True)
    past = ("init_weights", "init_without")  # of the training
    theirs = with_arguments({key: value for key, value in config.items() if key not in past}, where)
    trainer = {
        **usual["trainer"],
        **theirs["trainer"],
        "log_every": 1,
    }  # of which all other intervals are multiples
    trainer["eval_batch_size"] = batch_size or trainer["eval_batch_size"]
    return OmegaConf.create({**usual, **theirs, "trainer": trainer})


def _check_fits(data: Data, trained: Trained) -> None:
    """Refuses data of which the network cannot tell the classes."""
    for what, theirs, ours in (
        ("images", tuple(data.in_shape), trained.in_shape),
        ("classes", data.num_classes, trained.num_classes),
        ("classes", ", ".join(class_names(data)), ", ".join(trained.classes)),
    ):
        if theirs != ours:
            raise UserError(f"The network was trained on {what} {ours}, and these data have {what} {theirs}.")


def _told(metrics: dict[str, float]) -> str:
    shown = {key: value for key, value in metrics.items() if key.startswith("test_")}
    return ", ".join(
        f"{key} {value:.2f}{'%' if key.endswith('error') else ''}" for key, value in shown.items()
    )
