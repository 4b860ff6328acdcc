"""Train one experiment: `python train.py experiment=mnist_rts`. Every option: `python train.py --help`."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.engine.cli import explain_bad_overrides, one_sentence_errors


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> None:
    from experiments.engine.run import run  # torch takes seconds to import, and --help does not need it

    with one_sentence_errors():
        run(cfg, HydraConfig.get().overrides.task)


if __name__ == "__main__":
    explain_bad_overrides(sys.argv[1:])
    main()
