"""How far many runs are: what is read of run directories, the numbers, plain lines, and a block in a terminal."""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import struct
import termios
from types import SimpleNamespace

import pytest

from experiments.sweeps import progress as module
from experiments.sweeps.job import Outcome, summary
from experiments.sweeps.progress import Progress, short_names


class Clock:
    def __init__(self):
        self.now = 1e6

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(autouse=True)
def estimates(monkeypatch):
    """Seconds by label, in place of finished runs."""
    known: dict[str, float] = {}

    def estimator(jobs, at_once):
        return lambda job: SimpleNamespace(seconds=known[job.label]) if job.label in known else None

    monkeypatch.setattr(module, "estimator_for", estimator)
    return known


@pytest.fixture
def run(tmp_path):
    """run("st_cnn-affine-fast", seed=1): stands in for a job of 100 steps whose directory is a test's own."""

    def make(name="cnn-fast", *, seed=0, experiment="mnist_r", started=False):
        trainer = SimpleNamespace(iterations=100)
        folder = tmp_path / experiment / name / f"seed_{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(
            cfg=SimpleNamespace(experiment=experiment, trainer=trainer), name=name, seed=seed, folder=folder,
            label=f"{experiment}/{name}-seed_{seed}", started=started,
        )  # fmt: skip

    return make


@pytest.fixture
def log(clock):
    """log(job, 20, error=1.5): what the training logs at a step, now; anew=True: into a new file, as at its start."""

    def write(job, step=None, anew=False, **numbers):
        path = job.folder / "metrics.jsonl"
        text = path.read_text() if path.exists() and not anew else ""
        if step is not None:
            text += json.dumps({"step": step, **{k.replace("_", "/"): v for k, v in numbers.items()}}) + "\n"
        if anew or not path.exists():
            new = path.with_name("new")
            new.write_text(text)
            new.rename(path)
        else:
            path.write_text(text)
        os.utime(path, (clock.now, clock.now))

    return write


@pytest.fixture
def progress(clock):
    """A display that is not a terminal's; progress.said are its lines."""

    def make(jobs, **options):
        said = []
        made = Progress(
            jobs, **{"at_once": 2, "output": io.StringIO(), "report": said.append, "clock": clock} | options
        )
        made.said = said
        return made

    return make


def state(shown, job):
    return shown._running[job.folder]


def test_the_rate_is_of_the_steps_since_the_run_began(progress, run, log, clock):
    fresh, resumed = run(seed=0), run(seed=1, started=True)
    log(resumed, 60, train_error=9.0)
    shown = progress([fresh, resumed])
    shown.begin(fresh)
    shown.begin(resumed)
    assert state(shown, resumed).step == 60 and state(shown, resumed).rate is None
    clock.now += 500  # from the start of the process to its first step
    log(resumed, 40, anew=True, train_error=11.0)  # the checkpoint is older than the last log line
    log(fresh, anew=True)
    shown.tick()
    assert state(shown, resumed).step == 40 and shown._left() is None
    clock.now += 10
    log(resumed, 50, train_error=10.0)
    log(fresh, 20, train_error=80.0)
    shown.tick()
    assert state(shown, resumed).rate == 1.0 and state(shown, fresh).rate == 2.0
    assert state(shown, resumed).seconds_left(clock.now) == 50 and shown._left() == 50
    clock.now += 5
    assert state(shown, resumed).seconds_left(clock.now) == 45
    clock.now += 1000  # it counts down to the next log line, not beyond
    assert state(shown, resumed).seconds_left(clock.now) == 40


def test_of_an_attempt_without_a_checkpoint_nothing_counts(progress, run, log):
    job = run()
    log(job, 60, train_error=9.0)
    shown = progress([job])
    shown.begin(job)
    assert state(shown, job).step == 0 and state(shown, job).error == ""


def test_held_out_images_before_training_ones_before_the_loss(progress, run, log):
    job = run()
    shown = progress([job])
    shown.begin(job)
    for numbers, expected in (
        ({"train_loss": 0.25}, "loss 0.250"),
        ({"train_error": 12.345}, "train 12.35%"),
        ({"val_error": 3.0}, "val 3.00%"),
        ({"train_error": 10.0}, "val 3.00%"),
    ):
        log(job, state(shown, job).step + 10, **numbers)
        shown.tick()
        assert state(shown, job).error == expected


def test_lines_that_are_half_written_or_no_numbers_or_gone_are_passed_over(progress, run, log):
    job = run()
    shown = progress([job])
    shown.begin(job)
    path = job.folder / "metrics.jsonl"
    path.write_text('{"step": 10}\n\xff\n[1]\n{"step": "x"}\n{"a": 1}\n{"step": 20, "train/error"')
    shown.tick()
    assert state(shown, job).step == 10
    with open(path, "a") as file:
        file.write(': 5}\n{"st')
    shown.tick()
    assert state(shown, job).step == 20 and state(shown, job).error == "train 5.00%"
    path.unlink()
    shown.tick()
    path.mkdir()
    shown.tick()
    assert not shown._broken


def test_a_long_file_is_read_from_its_end_and_then_only_what_is_new(progress, run, log, monkeypatch):
    job = run(started=True)
    text = "".join(json.dumps({"step": i, "train/error": 1.0}) + "\n" for i in range(1, 90))
    (job.folder / "metrics.jsonl").write_text(text)
    monkeypatch.setattr(module, "TAIL", 200)
    lines = []
    enter = module._Watched._enter
    monkeypatch.setattr(module._Watched, "_enter", lambda self, line: lines.append(line) or enter(self, line))
    shown = progress([job])
    shown.begin(job)
    assert state(shown, job).step == 89 and 0 < len(lines) < 10
    lines.clear()
    log(job, 90)
    shown.tick()
    shown.tick()
    assert len(lines) == 1


def test_the_time_for_all_is_of_measured_rates_and_estimates(progress, run, log, clock, estimates):
    jobs = [run(seed=seed) for seed in range(4)]
    estimates.update({jobs[1].label: 30.0, jobs[2].label: 100.0})
    shown = progress(jobs)
    assert shown._all() == "0 done, 0 failed, 4 open; time left unknown"
    shown.begin(jobs[0])
    shown.begin(jobs[1])
    log(jobs[0], anew=True)
    for _ in jobs:  # an estimate a look
        shown.tick()
    clock.now += 10
    log(jobs[0], 50)
    shown.tick()
    # 0: 10 s left by its rate, 20 s in all; 1: 30 s. Then 2: 100 s behind 0, and 3, as long as 0 in all, behind 1.
    assert shown._left() == pytest.approx(110)
    shown.end(jobs[0], "done")
    shown.end(jobs[1], "failed")
    assert shown._left() == pytest.approx(100)
    assert shown._all() == "1 done, 1 failed, 2 open; ~2 min left"
    shown.end(jobs[2], "stopped")
    shown.end(jobs[3], "open")
    assert shown._all() == "1 done, 1 failed, 1 stopped, 1 open; ~0 s left"


def test_runs_that_are_not_known_yet_count_as_those_that_were_seen(progress, run, log, clock):
    job = run()
    shown = progress((), total=5, budget=60.0, at_once=1)
    shown.begin(job)
    log(job, anew=True)
    shown.tick()
    clock.now += 10
    log(job, 50)
    shown.tick()
    assert shown._left() == pytest.approx(10 + 4 * 20)
    assert shown._all() == "0 done, 0 failed, 5 open; ~2 min left, budget 50 s"


def test_plain_lines_tell_each_tenth_but_not_more_than_one_in_five_minutes(progress, run, log, clock):
    job = run("st_cnn-affine-fast")
    shown = progress([job])
    shown.begin(job)
    log(job, anew=True)
    shown.tick()
    for step in range(1, 101):
        clock.now += 60
        log(job, step, train_error=1.25)
        shown.tick()
    assert len(shown.said) == 9  # a tenth takes ten minutes
    assert shown.said[0] == (
        "running mnist_r/st_cnn-affine-fast-seed_0  step 10 of 100, train 1.25%, 1.5 h left; "
        "all: 0 done, 0 failed, 1 open; ~1.5 h left"
    )
    again = run(seed=1)
    shown.begin(again)
    for step in range(1, 101):
        clock.now += 6
        log(again, step)
        shown.tick()
    assert len(shown.said) == 10  # of ten minutes
    shown.close()
    assert "\x1b" not in "".join(shown.said) and shown._output.getvalue() == ""


def test_what_fails_in_the_display_is_logged_once_and_stops_nothing(progress, run, monkeypatch, caplog):
    shown = progress([run()])
    monkeypatch.setattr(module, "estimator_for", lambda *_: 1 / 0)
    shown.tick()
    shown.tick()
    shown.report("still said")
    assert len(caplog.records) == 1 and "the runs go on" in caplog.text and shown.said == ["still said"]


def test_names_are_without_what_all_share(run):
    jobs = [run("st_cnn-affine-fast,optimizer.lr=0.1"), run("cnn-fast,optimizer.lr=0.1", seed=1)]
    assert [short_names(jobs)(job) for job in jobs] == ["st_cnn affine seed_0", "cnn seed_1"]
    assert short_names(jobs[:1])(jobs[0]) == "mnist_r st_cnn affine fast optimizer.lr=0.1 seed_0"


class Terminal:
    """A pseudo-terminal, and what its screen shows of the few codes that a block needs."""

    def __init__(self, columns=80, rows=24):
        self.master, slave = pty.openpty()
        self.file = os.fdopen(slave, "w")
        self.raw, self.lines, self.row, self.column = "", [""], 0, 0
        self.resize(columns, rows)
        os.set_blocking(self.master, False)

    def resize(self, columns, rows=24):
        self.columns = columns
        fcntl.ioctl(self.file, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def print(self, text):
        print(text, file=self.file, flush=True)

    @property
    def screen(self):
        self.file.flush()
        while True:
            try:
                new = os.read(self.master, 100_000).decode()
            except BlockingIOError:
                break
            self.raw += new
            for code in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|.|\n", new):
                self.put(code)
        return [line.rstrip() for line in self.lines]

    def put(self, code):
        if code == "\r":
            self.column = 0
        elif code == "\n":
            self.row += 1
        elif code.endswith("A"):
            self.row = max(self.row - int(code[2:-1]), 0)
        elif code == "\x1b[J":
            self.lines[self.row] = self.lines[self.row][: self.column]
            del self.lines[self.row + 1 :]
        else:
            assert len(code) == 1, code
            if self.column == self.columns:
                self.row, self.column = self.row + 1, 0
            self.lines += [""] * (self.row + 1 - len(self.lines))
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + code + line[self.column + 1 :]
            self.column += 1
        self.lines += [""] * (self.row + 1 - len(self.lines))


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    made = Terminal()
    yield made
    made.file.close()
    os.close(made.master)


def in_terminal(terminal, jobs, clock, **options):
    return Progress(jobs, at_once=2, output=terminal.file, report=terminal.print, clock=clock, **options)


def test_a_block_in_a_terminal_and_below_the_end_nothing_of_it(terminal, run, log, clock):
    jobs = [run("st_cnn-affine-fast"), run("cnn-fast"), run("cnn-fast", seed=1)]
    terminal.print("3 runs")
    with in_terminal(terminal, jobs, clock) as shown:
        shown.begin(jobs[0])
        shown.begin(jobs[1])
        log(jobs[0], anew=True)
        shown.tick()
        clock.now += 10
        log(jobs[0], 45, train_error=1.25)
        shown.tick()
        head, first, second, below, *rest = terminal.screen
        assert head == "3 runs" and rest == []
        assert re.fullmatch(r"st_cnn affine seed_0  45%\|[^|]+\|  45/100  train 1.25%   12 s", first)
        assert (
            re.fullmatch(r"cnn seed_0 +0%\| +\|   0/100 +~22 s", second) and len(first) == len(second) == 79
        )
        assert below == "0 done, 0 failed, 3 open; ~34 s left"
        for job, kind in ((jobs[0], "done"), (jobs[1], "failed")):
            shown.end(job, kind)
            shown.report(str(Outcome(job.label, kind, "why")))
        shown.begin(jobs[2])
        failed = "failed  mnist_r/cnn-fast-seed_0  why"
        assert terminal.screen[1:3] == ["done    mnist_r/st_cnn-affine-fast-seed_0  why", failed]
        assert (
            terminal.screen[3].startswith("cnn seed_1") and "1 done, 1 failed, 1 open" in terminal.screen[4]
        )
    terminal.print(summary([Outcome("a", "done"), Outcome("b", "failed", "why")]))
    ended = ["", "  done    a", "  failed  b  why", "1 done, 1 failed."]
    assert terminal.screen[3:7] == ended and not any("%|" in line for line in terminal.screen)


@pytest.mark.parametrize("columns", [60, 30])
def test_a_narrow_terminal_and_one_that_becomes_narrow(terminal, run, log, clock, columns):
    terminal.resize(columns)
    jobs = [run("st_cnn-affine-fast,optimizer.localisation_lr=0.1"), run("cnn-fast", experiment="mnist_rts")]
    with in_terminal(terminal, jobs, clock) as shown:
        for job in jobs:
            shown.begin(job)
            log(job, 45, anew=True, train_error=1.25)
        shown.tick()
        assert len(terminal.screen) == 3 and max(map(len, terminal.screen)) < columns
        assert "45%|" in terminal.screen[0] and (columns == 30 or "train 1.25%" in terminal.screen[0])
        terminal.resize(columns - 10)
        shown.tick()
        assert len(terminal.screen) == 3 and max(map(len, terminal.screen)) < columns - 10
    assert not any(terminal.screen)


def test_more_runs_than_rows_and_the_line_for_all_stays(terminal, run, clock):
    terminal.resize(80, 6)
    jobs = [run(seed=seed) for seed in range(20)]
    with in_terminal(terminal, jobs, clock) as shown:
        for job in jobs:
            shown.begin(job)
        assert len(terminal.screen) == 5 and terminal.screen[4].startswith("0 done, 0 failed, 20 open")


def test_ctrl_c_leaves_a_whole_summary(terminal, run, clock):
    job = run()
    with contextlib.suppress(KeyboardInterrupt), in_terminal(terminal, [job], clock) as shown:
        shown.begin(job)
        terminal.file.write("^C")
        raise KeyboardInterrupt
    terminal.print(summary([Outcome("a", "open", "interrupted")]))
    assert [line for line in terminal.screen if line][:2] == ["  open    a  interrupted", "1 open."]


def test_a_dumb_terminal_gets_plain_lines(terminal, run, clock, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    job = run()
    with in_terminal(terminal, [job], clock) as shown:
        shown.begin(job)
        shown.tick()
        shown.report("plain")
    assert terminal.screen == ["plain", ""] and "\x1b" not in terminal.raw
