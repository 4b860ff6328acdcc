"""train.py's own options, in processes of their own: help, tab completion, other config files."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.engine.cli import one_sentence_errors

ROOT = Path(__file__).resolve().parents[3]
MINE = """# @package _global_
defaults:
  - mnist_r
  - _self_
experiment: mine
dataset:
  distort:
    max_angle: 30.0
"""
QUICK = """defaults:
  - train
  - override experiment: mine
  - override dataset: digits
  - override trainer: smoke
  - override model: fcn
  - _self_
trainer: {iterations: 2, batch_size: 8, log_every: 2, checkpoint_every: 2, val_every: 2}
model: {width: 4}
wandb: {mode: disabled}
figures: false
threads: 1
"""


@pytest.fixture
def call(tmp_path):
    """call("--help"): the finished process of train.py in tmp_path, where files/ holds a config and an experiment."""
    (tmp_path / "files" / "experiment").mkdir(parents=True)
    (tmp_path / "files" / "experiment" / "mine.yaml").write_text(MINE)
    (tmp_path / "files" / "quick.yaml").write_text(QUICK)

    def made(*arguments, **environment):
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **environment}
        )

    return made


def test_help_lists_what_can_be_chosen_and_imports_no_torch(call):
    code = (
        "import atexit, runpy, sys; atexit.register(lambda: print('torch' in sys.modules)); "
        f"sys.argv = ['train.py', '--help']; runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.endswith("False\n"), done.stderr
    assert (
        "experiment: colocalisation, cub_2fixed_448, cub_2st_224" in done.stdout
        and " _birds" not in done.stdout
    )
    assert "\nbackbone: googlenet, mobilenet_v2, resnet18, resnet50\n" in done.stdout
    root = done.stdout.split("== Configuration")[1].split("\n")
    assert not {"pool:", "fast:", "smoke:", "images:", "root:"} & {line.split(" ")[0] for line in root}


def test_tab_completion(call):
    installed = call("-sc", "install=bash")
    assert installed.returncode == 0 and "hydra_bash_completion" in installed.stdout
    for line, found in (
        ("experiment=mnist_r", "experiment=mnist_r experiment=mnist_rts"),
        ("optimizer.localisation_", "optimizer.localisation_lr="),
        ("trainer=fast optimizer.lr=", "optimizer.lr=0.003"),
    ):
        completed = call("-sc", "query=bash", COMP_LINE=f"python train.py {line}")
        assert (completed.stdout.strip(), completed.stderr) == (found, "")


def test_a_folder_of_ones_own_with_experiments_and_main_files(call, tmp_path):
    mine = ("--config-dir", "files")
    first = call(*mine, "--config-name", "quick", "dataset.distort.max_angle=30")
    assert first.returncode == 0, first.stderr
    (found,) = tmp_path.glob("outputs/*/*/*/result.json")
    assert found.parts[-4:-1] == ("mine", "fcn-smoke", "seed_0")  # 30 is this file's own value
    misspelt = call(*mine, "experiment=mine", "widht=3")
    assert misspelt.returncode == 2 and "Did you mean model.width?" in misspelt.stderr
    unknown = call("experiment=mine")
    assert unknown.returncode == 2 and "there is no such experiment" in unknown.stderr
    nowhere = call("--config-name", "nowhere", "seed=1")
    assert nowhere.returncode != 0 and "nowhere" in nowhere.stderr and "Traceback" not in nowhere.stderr


def test_the_runs_of_a_sweep_use_the_same_files_and_a_second_time_nothing_runs(call, tmp_path):
    command = ("-m", "--config-dir", "files", "--config-name", "quick", "seed=0,1")
    first = call(*command)
    assert first.returncode == 0, first.stdout + first.stderr
    results = sorted(tmp_path.glob("outputs/mine/fcn-smoke/seed_*/result.json"))
    assert len(results) == 2 and first.stdout.count("result: ") == 2
    stamps = [path.stat().st_mtime_ns for path in results]
    second = call(*command)
    assert second.stdout.count("finished before") == 2 and "2 skipped." in second.stdout
    assert [path.stat().st_mtime_ns for path in results] == stamps


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO, errno.ENOTDIR]
)
def test_a_disk_that_takes_nothing_is_one_sentence(capsys, number):
    with pytest.raises(SystemExit) as ended, one_sentence_errors(training=True):
        raise OSError(number, os.strerror(number), "outputs/last.pt")
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip() == (
        f"outputs/last.pt cannot be written: {os.strerror(number)}. "
        "The same command again goes on from the last checkpoint."
    )
