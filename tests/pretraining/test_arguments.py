from dataclasses import fields

import pytest

from transformers_vjepa import ClipSampling
from transformers_vjepa.pretraining.arguments import DataArguments, parse_arguments

OPTIONS = """
    dataset split video_column frame_step target_fps clip_duration short_videos crop_scale crop_ratio flip_probability
    decoder max_broken_share decode_timeout cache_videos shuffle_buffer
""".split()


def test_help_lists_the_options_of_the_data_in_this_order(capsys):
    assert [item.name for item in fields(DataArguments)] == OPTIONS
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    printed = capsys.readouterr().out
    section = printed[printed.index("\ndata:\n") : printed.index("\ntraining:\n")]
    assert [line.split()[0] for line in section.splitlines() if line.startswith("  --")] == [f"--{o}" for o in OPTIONS]


def test_the_sampling_of_the_arguments():
    data = DataArguments(target_fps=5.0, short_videos="refuse")
    expected = ClipSampling(num_frames=8, target_fps=5.0, short_video="refuse")
    assert data.clip_sampling(8) == expected
    assert DataArguments(clip_duration=2.0).clip_sampling(8) == ClipSampling(num_frames=8, duration=2.0)
