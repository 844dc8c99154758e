import pickle
import tracemalloc

import pytest

from transformers_vjepa.data.corpus import PackedStrings

NAMES = [f"{number}.mp4" for number in range(6)]


def test_packed_strings_keep_text_and_are_compact():
    strings = ["a.mp4", "", "ü/ö.mp4", "bad\udcff.mp4"]
    packed = PackedStrings(strings)
    assert list(packed) == strings and len(packed) == 4
    with pytest.raises(IndexError):
        packed[4]
    assert list(PackedStrings([])) == []
    tracemalloc.start()
    many = PackedStrings(f"folder/clip_{number:06d}.mp4" for number in range(100_000))
    size, (held, peak) = 100_000 * (22 + 8) + 8, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < size + 10_000 and peak < 2.5 * size
    assert len(pickle.dumps(many)) < size + 1000
    assert (len(many), many[12_345]) == (100_000, "folder/clip_012345.mp4")
