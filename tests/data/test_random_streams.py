import numpy as np
import torch

from transformers_vjepa.data.clip_order import Draw
from transformers_vjepa.data.random_streams import clip_streams, hash_counters, permutation, stream_uniforms


def test_hash_is_splitmix64():
    # First output of the reference generator seeded with 0 is 0xE220A8397B1DCDAF; ours drops the lowest bit.
    assert hash_counters(0) == 0xE220A8397B1DCDAF >> 1


def test_hash_depends_on_every_counter_and_fits_int64():
    values = [hash_counters(seed, use, n) for seed in range(4) for use in Draw for n in range(100)]
    assert len(set(values)) == len(values)
    assert all(0 <= value < 2**63 for value in values)


def test_permutation_is_a_function_of_its_counters():
    first = permutation(50, 1, 2).tolist()
    assert sorted(first) == list(range(50)) and first != list(range(50))
    assert permutation(50, 1, 2).tolist() == first
    assert permutation(50, 1, 3).tolist() != first


def test_numbers_of_saved_runs_do_not_change():
    # A checkpoint resumes exactly only if these values stay as they were when it was saved.
    assert [hash_counters(*values) for values in [(-1,), (1, 2, 3), (2**64 - 1, -7, 0)]] == [
        8245168133484221968,
        7510213797696614745,
        6695630147188787055,
    ]
    assert permutation(6, 3, 4).tolist() == [4, 5, 1, 3, 2, 0]
    streams = clip_streams(-5, np.array([0, -1, 2**62], dtype=np.int64))
    assert streams.tolist() == [8236750168650165082, 8221962494893275382, 15397336761421120888]
    uniforms = [[13719689, 12579188], [9954878, 5897867], [10186334, 8222108]]
    assert (stream_uniforms(streams, stream=1, count=2) * 2**24).tolist() == uniforms


def test_streams_do_not_depend_on_the_batch():
    seeds = [0, 5, 2**63 - 1]
    uniforms = stream_uniforms(clip_streams(7, np.array(seeds, dtype=np.int64)), stream=0, count=5)
    assert uniforms.shape == (3, 5) and uniforms.dtype == torch.float32
    for row, seed in enumerate(seeds):
        alone = stream_uniforms(clip_streams(7, np.array([seed], dtype=np.int64)), stream=0, count=5)
        assert torch.equal(alone[0], uniforms[row])


def test_clip_streams_are_uniform_and_independent():
    streams = clip_streams(0, torch.arange(2000).numpy())
    uniforms = torch.cat([stream_uniforms(streams, stream=i, count=16) for i in (1, 2)], dim=1)
    assert uniforms.min() >= 0 and uniforms.max() < 1
    torch.testing.assert_close(uniforms.mean(0), torch.full((32,), 0.5), atol=0.03, rtol=0)
    torch.testing.assert_close(uniforms.std(0), torch.full((32,), 12**-0.5), atol=0.02, rtol=0)
    correlation = torch.corrcoef(uniforms.T) - torch.eye(32)
    assert correlation.abs().max() < 0.1
