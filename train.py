"""Train one experiment: `python train.py experiment=mnist_rts`. Every option: `python train.py --help`."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.engine.cli import explain_bad_overrides, one_sentence_errors
from experiments.sweeps.job import Outcome


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> Outcome | None:
    # Imported here, since torch takes seconds to import and --help does not need it.
    overrides = HydraConfig.get().overrides.task
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from experiments.sweeps.sweep import work

        return work(cfg, overrides)
    with one_sentence_errors(training=True):
        from experiments.engine.required import run_required
        from experiments.engine.run import run
        from experiments.sections import SECTIONS

        run_required(cfg, SECTIONS)
        run(cfg, overrides, SECTIONS)
    return None


if __name__ == "__main__":
    with one_sentence_errors(training=True):  # Ctrl-C also while Hydra reads the configuration
        explain_bad_overrides(sys.argv[1:])
        main()
