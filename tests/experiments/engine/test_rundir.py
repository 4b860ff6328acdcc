"""The run directory's name where the command line is long."""

from experiments.engine import rundir


def test_a_name_too_long_for_a_file_system_ends_in_a_hash_of_all_of_it(configure):
    one, two = ([f"dataset.distort.scale=[{'0.123456789,' * 30}{end}]"] for end in (1, 2))
    names = [rundir.run_name(configure(), overrides) for overrides in (one, two)]
    assert names[0] != names[1] and names[0][:100] == names[1][:100]
    assert all(len(name) == rundir.LONGEST for name in names)
