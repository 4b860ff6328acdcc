"""How many runs this machine carries at a time. Imports no torch at the start: the command line needs it early."""

import os


def usual_jobs(device: str = "auto") -> int:
    """How many runs at a time finish most an hour: one a core, of one thread each, on a CPU (the benchmark's suite
    seeds measures it); one after the other on a GPU.   device: as of the configuration.
    """
    if device != "cpu":
        import torch  # slow

        if torch.cuda.is_available():
            return 1
    return os.cpu_count() or 1


def threads_of(share: int) -> int:
    """The threads of each of so many runs at a time."""
    return max((os.cpu_count() or 1) // share, 1)
