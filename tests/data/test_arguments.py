import pytest
from videos import write_tar

from transformers_vjepa import ClipSampling, VJEPAConfig, VJEPAVideoProcessor
from transformers_vjepa.data.arguments import CorpusArguments, ViewArguments
from transformers_vjepa.data.file_corpus import FileCorpus


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clips_per_batch": 0}, "--clips_per_batch 0 must be at least 1"),
        ({"num_workers": -1}, "--num_workers -1 must be at least 0"),
        ({"max_broken_share": 1.0}, r"max_broken_share=1.0 must lie in \[0, 1\)"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        CorpusArguments(dataset="videos", **values)


def test_a_corpus_is_opened_and_an_empty_one_is_refused(tmp_path):
    (tmp_path / "x.mp4").touch()
    corpus = CorpusArguments(dataset=str(tmp_path / "x.mp4")).open()
    assert isinstance(corpus, FileCorpus) and len(corpus) == 1
    write_tar(tmp_path / "x.tar", {"readme.txt": b"nothing"})
    with pytest.raises(ValueError, match="x.tar holds no videos or images: check the folder, index or split"):
        CorpusArguments(dataset=str(tmp_path / "x.tar")).open()


def test_the_clips_of_a_trained_model():
    config = VJEPAConfig(crop_size=32, frames_per_clip=4)
    processor = VJEPAVideoProcessor.for_config(config)
    asked = ViewArguments(frame_step=5, num_segments=2, num_views=3, spacing="linspace")
    geometry = asked.geometry(config, processor, backend="pyav")
    assert (geometry.crop_size, geometry.num_segments, geometry.num_views, geometry.backend) == (32, 2, 3, "pyav")
    assert geometry.sampling == ClipSampling(num_frames=4, frame_step=5, spacing="linspace")
