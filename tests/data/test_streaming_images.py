"""Streams of images: equal pixels from every kind of corpus, exact resumption, broken files."""

import io
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, IterableDataset, Value, load_dataset, load_dataset_builder
from datasets import Image as ImageColumn
from PIL import Image
from torch.utils.data import DataLoader
from videos import write_tar

from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.lanes import record_cursors
from transformers_vjepa.data.streaming import Augmentation, StreamPosition, StreamShare, clip_stream
from transformers_vjepa.models.vjepa.clip_sampling import ClipSampling
from transformers_vjepa.models.vjepa.configuration_vjepa import VJEPAConfig

CONFIG = VJEPAConfig(crop_size=16, patch_size=8, frames_per_clip=1, tubelet_size=1)
WHOLE = Augmentation(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_probability=0.0)
# Each image is of one colour: name, what Pillow writes, and the grey level that a reader must see.
IMAGES = [
    ("a/0.png", Image.new("RGB", (20, 20), (50, 50, 50)), 50),
    ("a/1.jpg", Image.new("RGB", (24, 20), (80, 80, 80)), 80),
    ("a/2.webp", Image.new("RGB", (20, 24), (110, 110, 110)), 110),
    ("a/3.png", Image.new("L", (20, 20), 140), 140),
    ("b/4.jpg", Image.new("CMYK", (20, 20), (0, 0, 0, 85)), 170),  # 255 - 85
    ("b/5.png", Image.fromarray(np.full((20, 20), 200 * 256 + 9, dtype=np.uint16)), 200),  # the upper 8 of 16 bits
    ("b/6.png", Image.new("RGBA", (20, 20), (0, 0, 0, 0)), 255),  # transparent: white
]
LEVELS = [level for *_, level in IMAGES]
LABELS = [0, 0, 0, 0, 1, 1, 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for name, image, _ in IMAGES:
        (root / name).parent.mkdir(exist_ok=True)
        image.save(root / name, lossless=True)  # as WebP; the other formats do not look at this
    return root


def in_memory(folder: Path, column: str = "image") -> Dataset:
    """A data set with the bytes of the files, as `push_to_hub` stores them."""
    features = Features({column: ImageColumn(), "label": Value("string")})
    cells = [{"bytes": (folder / name).read_bytes(), "path": Path(name).name} for name, *_ in IMAGES]
    return Dataset.from_dict({column: cells, "label": ["ab"[label] for label in LABELS]}, features=features)


def an_index(folder: Path, place: Path) -> str:
    lines = (f"{folder / name},{'ab'[label]}\n" for (name, *_), label in zip(IMAGES, LABELS, strict=True))
    (place / "index.csv").write_text("".join(lines))
    return str(place / "index.csv")


def a_tar(folder: Path, place: Path) -> str:
    members = {}
    for (name, *_), label in zip(IMAGES, LABELS, strict=True):
        path = Path(name)
        members |= {path.name: (folder / name).read_bytes(), f"{path.stem}.cls": b"ab"[label : label + 1]}
    return str(write_tar(place / "images.tar", members))


def raw_parquet(folder: Path, place: Path) -> str:
    """A column of bytes, and no description by `datasets`."""
    data = [(folder / name).read_bytes() for name, *_ in IMAGES]
    table = pa.table({"jpg": data, "label": ["ab"[label] for label in LABELS]})
    pq.write_table(table, place / "raw.parquet", row_group_size=3)
    return str(place / "raw.parquet")


def hub_parquet(folder: Path, place: Path) -> str:
    in_memory(folder, "img").to_parquet(place / "hub.parquet", batch_size=3)
    return str(place / "hub.parquet")


def a_dataset(folder: Path, place: Path) -> Dataset:
    return in_memory(folder).with_format("torch")  # of a format nothing is seen


def an_image_folder(folder: Path, place: Path) -> Dataset:
    """Rows that hold paths of files."""
    files = {"image": [str(folder / name) for name, *_ in IMAGES], "label": ["ab"[label] for label in LABELS]}
    return Dataset.from_dict(files).cast_column("image", ImageColumn())


def a_saved_dataset(folder: Path, place: Path) -> str:
    DatasetDict({"train": in_memory(folder)}).save_to_disk(place / "saved")
    return str(place / "saved")


def streamed_parquet(folder: Path, place: Path) -> IterableDataset:
    file = hub_parquet(folder, place)
    return load_dataset("parquet", data_files={"train": file}, split="train", streaming=True)


IN_ANY_ORDER = [
    an_index,
    a_tar,
    raw_parquet,
    hub_parquet,
    a_dataset,
    an_image_folder,
    a_saved_dataset,
]


def stream(source, **settings) -> IterableDataset:
    return clip_stream(source, config=CONFIG, sampling=ClipSampling(num_frames=1), **settings)


def batches(number: int, source, *, start=0, cursors=None, **settings) -> list[dict]:
    position = StreamPosition()
    position.seek(start, cursors=cursors)
    share = StreamShare(batch_size=2)
    loader = DataLoader(stream(source, position=position, share=share, **settings), batch_size=2)
    return list(islice(loader, number))


@pytest.mark.parametrize("kind", [*IN_ANY_ORDER, streamed_parquet], ids=lambda kind: kind.__name__)
def test_every_kind_of_corpus_gives_the_same_pixels(folder, tmp_path, kind):
    source = kind(folder, tmp_path)
    whole = list(islice(stream(source, shuffle=False, augmentation=WHOLE), len(IMAGES)))
    assert [int(clip["pixel_values_videos"].float().mean().round()) for clip in whole] == LEVELS
    if kind is not streamed_parquet:  # the names of a stream are known at its end only
        assert [clip["label"] for clip in whole] == LABELS
        assert open_corpus(source).class_names == ("a", "b")
        for batch, other in zip(batches(5, source), batches(5, str(folder)), strict=True):  # shuffled and cropped
            assert torch.equal(batch["pixel_values_videos"], other["pixel_values_videos"])
            assert torch.equal(batch["label"], other["label"])


@pytest.mark.parametrize("kind", [a_tar, hub_parquet, a_dataset, streamed_parquet], ids=lambda kind: kind.__name__)
def test_a_run_resumes_in_the_middle(folder, tmp_path, kind):
    source, settings = kind(folder, tmp_path), {"shuffle_buffer": 3}
    whole = batches(9, source, **settings)
    cursors = {}
    for batch in whole[:5]:  # in the second pass over the images
        record_cursors(cursors, batch.get("cursor", []))
    rest = batches(4, source, start=5, cursors=json.loads(json.dumps(cursors)), **settings)
    for batch, expected in zip(rest, whole[5:], strict=True):
        assert batch["path"] == expected["path"]
        assert torch.equal(batch["pixel_values_videos"], expected["pixel_values_videos"])


def test_a_hub_data_set_of_images_is_streamed(folder, tmp_path, monkeypatch):
    builder = load_dataset_builder("parquet", data_files={"train": hub_parquet(folder, tmp_path)})
    monkeypatch.setattr("transformers_vjepa.data.corpora.load_dataset_builder", lambda name, config: builder)
    clips = list(islice(stream("user/images", shuffle=False, augmentation=WHOLE), len(IMAGES)))
    assert [int(clip["pixel_values_videos"].float().mean().round()) for clip in clips] == LEVELS
    assert clips[0]["path"] == "user/images::0.png"


def test_broken_images_are_counted_and_named(folder, tmp_path, caplog):
    cells = [(folder / "a/0.png").read_bytes(), b"\x89PNG\r\n\x1a\n", (folder / "a/1.jpg").read_bytes()[:300]]
    pq.write_table(pa.table({"image": cells}), tmp_path / "images.parquet")
    clips = list(islice(stream(str(tmp_path / "images.parquet"), shuffle=False), 3))
    assert [clip["num_skipped"] > 0 for clip in clips] == [False, True, True]
    for row in (1, 2):
        assert f"skipped a broken image: {tmp_path}/images.parquet::row group 0, row {row} (Corrupt" in caplog.text


def test_rows_of_a_saved_data_set_name_no_files(folder, tmp_path):
    files = Dataset.from_dict({"image": ["/etc/passwd", str(folder / "a/0.png")]})  # of texts, so nothing is embedded
    files.save_to_disk(tmp_path / "saved")
    corpus = open_corpus(tmp_path / "saved", video_column="image")
    for index in range(2):
        assert "rows may only name addresses (http, https, hf)" in corpus.read(index).refused
    assert corpus.origin(1) == ("row 1", str(tmp_path / "saved"))


def test_what_cannot_be_read_is_refused_with_its_remedy(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    an_image_folder(folder, tmp_path).to_parquet(elsewhere / "paths.parquet")
    with pytest.raises(ValueError, match="holds paths of files outside of its folder, such as .*0.png.*push_to_hub"):
        open_corpus(elsewhere / "paths.parquet")
    an_image_folder(folder, tmp_path).to_parquet(folder.parent / "paths.parquet")  # beside the files: they may be read
    assert len(open_corpus(folder.parent / "paths.parquet")) == len(IMAGES)
    pq.write_table(pa.table({"image": ["a/0.png"]}), folder.parent / "texts.parquet")
    with pytest.raises(ValueError, match="among image: name a column of paths with --video_column"):
        open_corpus(folder.parent / "texts.parquet")
    with pytest.raises(ValueError, match="saved has no split 'test': choose one of train"):
        open_corpus(a_saved_dataset(folder, tmp_path), split="test")


def test_rotation_of_the_file_is_applied_in_every_kind(tmp_path):
    """Orientation 6: the left half of the stored picture is the top of the picture that people see."""
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:, :8] = 255
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "0.png").write_bytes(file.getvalue())
    tar = write_tar(tmp_path / "0.tar", {"0.png": file.getvalue()})
    rows = Dataset.from_dict(
        {"image": [{"bytes": file.getvalue(), "path": None}]}, features=Features(image=ImageColumn())
    )
    for source in (str(tmp_path / "folder"), str(tar), rows):
        frame = next(iter(stream(source, augmentation=WHOLE)))["pixel_values_videos"][0]
        assert (frame[:, :8] == 255).all() and (frame[:, 8:] == 0).all()
