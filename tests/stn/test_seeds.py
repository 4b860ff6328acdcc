"""Seeds: one for each purpose, the same on every machine."""

from stn.seeds import stream_seed


def test_no_two_streams_share_their_seed():
    seeds = [stream_seed(seed, stream) for seed in range(50) for stream in ("train", "val", "test", "split")]
    assert len(set(seeds)) == len(seeds)


def test_a_seed_is_the_beginning_of_a_hash():
    # printf 'train 3' | sha256sum
    assert stream_seed(3, "train") == 0xF8C8929D48BA2A
