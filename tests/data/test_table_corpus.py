import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Value, load_dataset
from PIL import Image
from small_corpora import contents, write_parquet
from videos import write_tar, write_video

from transformers_vjepa.data.clip_reading import read_frames
from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.table_corpus import ParquetCorpus, SequentialCorpus
from transformers_vjepa.models.vjepa.clip_sampling import ClipSampling

NAMES = [f"{number}.mp4" for number in range(6)]


def test_parquet_as_datasets_writes_it(tmp_path):
    write_parquet(tmp_path / "0.parquet", [(b"a", 0), (b"b", 1), (b"c", 2)])
    write_parquet(tmp_path / "1.parquet", [(b"d", 1)])
    corpus = open_corpus(tmp_path)
    assert isinstance(corpus, ParquetCorpus)
    assert [(clip.data, clip.label) for clip in contents(corpus)] == [(b"a", 0), (b"b", 1), (b"c", 2), (b"d", 1)]
    assert corpus.read(2).path == f"{tmp_path}/0.parquet::row group 1, row 0"
    assert corpus.describe(3) == f"{tmp_path}/1.parquet::row group 0, row 0"
    assert corpus.__getstate__()["_cached"] is None


def test_parquet_in_order_reads_each_row_group_once(tmp_path, monkeypatch):
    corpus = open_corpus(write_parquet(tmp_path / "x.parquet", [(bytes([65 + n]), 0) for n in range(6)]))
    reads = []
    read_row_group = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, **kwargs: (reads.append(group), read_row_group(self, group, **kwargs))[1],
    )
    contents(corpus)
    assert reads == [0, 1, 2]


def test_parquet_columns(tmp_path):
    table = pa.table({"clip": [b"x"], "thumb": [b"y"], "name": ["sub/z.mp4"], "label": pa.array([3], pa.int8())})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"several video columns \(clip, thumb\): set video_column"):
        open_corpus(tmp_path)
    with pytest.raises(ValueError, match="no column 'video': choose one of clip, thumb, name, label"):
        open_corpus(tmp_path, video_column="video")
    assert open_corpus(tmp_path, video_column="clip").read(0)[1:] == (3, b"x", False, "")
    assert open_corpus(tmp_path, video_column="name").read(0).data == f"{tmp_path}/sub/z.mp4"
    pq.write_table(table.select(["label"]), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="has no video, image or binary column among label"):
        open_corpus(tmp_path)


def test_parquet_with_large_row_groups_warns(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("transformers_vjepa.data.table_corpus._LARGE_ROW_GROUP", 10)
    open_corpus(write_parquet(tmp_path / "x.parquet", [(b"a", 0)]))
    assert "each random clip reads a whole group" in caplog.text


@pytest.mark.parametrize(("shards", "lanes"), [(4, 2), (3, 3), (5, 3), (2, 5), (1, 4)])
def test_lanes_share_out_all_rows_once(tmp_path, shards, lanes):
    # WebDataset shards cannot be split further, so lanes beyond the shards share them by rows.
    number = 0
    for shard in range(shards):
        members = {f"{number + n:03d}.mp4": b"v%d" % (number + n) for n in range(7)}
        number += 7
        write_tar(tmp_path / f"{shard}.tar", members)
    files = sorted(str(path) for path in tmp_path.iterdir())
    dataset = load_dataset("webdataset", data_files={"train": files}, split="train", streaming=True)
    corpus = open_corpus(dataset)
    assert isinstance(corpus, SequentialCorpus)
    seen = []
    for lane in range(lanes):
        part, stride, offset = corpus.lane(lane, lanes=lanes)
        rows = list(part)[offset::stride]
        assert rows
        seen += [corpus.encoded(row, where="").data for row in rows]
    assert sorted(seen) == sorted(b"v%d" % n for n in range(number))


def test_streamed_parquet_is_split_by_row_group_when_files_are_few(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", [(bytes([65 + n]), n % 3) for n in range(8)])
    dataset = load_dataset("parquet", data_files={"train": str(path)}, split="train", streaming=True)
    corpus = open_corpus(dataset)
    parts = [corpus.lane(lane, lanes=4) for lane in range(4)]
    assert [(stride, offset) for _, stride, offset in parts] == [(1, 0)] * 4
    clips = [[corpus.encoded(row, where="") for row in part] for part, _, _ in parts]
    assert [[clip.data for clip in lane] for lane in clips] == [[b"A", b"B"], [b"C", b"D"], [b"E", b"F"], [b"G", b"H"]]
    assert [clip.label for clip in clips[1]] == [2, 0]


def test_streamed_row_without_video_is_empty(tmp_path):
    features = Features({"video": Value("binary"), "label": Value("int64")})
    dataset = Dataset.from_dict({"video": [None], "label": [None]}, features=features).to_iterable_dataset()
    corpus = open_corpus(dataset)
    assert corpus.encoded(next(iter(dataset)), where="row 3") == ("the data set::row 3", -1, b"", False, "")


def test_streamed_data_set_without_columns_is_refused():
    dataset = Dataset.from_dict({"a": [1]}).to_iterable_dataset().map(lambda row: row)
    with pytest.raises(ValueError, match="the data set does not know its columns"):
        open_corpus(dataset)


def test_parquet_files_that_do_not_belong_together_are_refused(tmp_path):
    for name, column in (("a", "video"), ("b", "sound")):
        table = pa.table({column: pa.array([b"x"], pa.binary())})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match="b.parquet has no column 'video', which .*a.parquet has"):
        open_corpus(str(tmp_path / "*.parquet"))


@pytest.mark.parametrize("first", [{}, {"label": [[1], [2]]}])
def test_labels_only_in_a_later_parquet_file_are_refused(tmp_path, first):
    pq.write_table(pa.table({"video": [b"x", b"y"]} | first), tmp_path / "a.parquet")
    pq.write_table(pa.table({"video": [b"z"], "label": [1]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="b.parquet has labels in the column 'label', and .*a.parquet has none"):
        open_corpus(str(tmp_path / "*.parquet"))


def test_labels_of_parquet_read_no_video(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "x.parquet", [(b"a", 2), (b"b", 0), (b"c", 1)])
    columns = []
    read = pq.ParquetFile.read
    monkeypatch.setattr(
        pq.ParquetFile, "read", lambda self, **kwargs: (columns.append(kwargs["columns"]), read(self, **kwargs))[1]
    )
    assert open_corpus(path).labels.tolist() == [2, 0, 1]
    assert columns == [["label"]]


def test_parquet_without_a_label_column(tmp_path):
    pq.write_table(pa.table({"video": pa.array([b"x", b"y"], pa.binary())}), tmp_path / "x.parquet")
    corpus = open_corpus(tmp_path / "x.parquet")
    assert corpus.labels.tolist() == [-1, -1] and corpus.class_names == ()


def image_bytes(kind):
    file = io.BytesIO()
    Image.fromarray(np.full((20, 30, 3), 90, dtype=np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "JPEG2000", "PPM"])
def test_bytes_are_an_image_by_their_beginning(tmp_path, kind):
    plain = pa.table({"video": pa.array([image_bytes(kind)])})
    named = pa.table({"video": pa.array([{"bytes": image_bytes(kind), "path": "0"}])})
    for number, table in enumerate((plain, named)):
        pq.write_table(table, tmp_path / f"{number}.parquet")
        clips = [open_corpus(tmp_path / f"{number}.parquet").read(0), open_corpus(Dataset(table)).read(0)]
        stream = open_corpus(Dataset(table).to_iterable_dataset())
        clips += [stream.encoded(row, where="") for row in stream.lane(0, lanes=1)[0]]
        for clip in clips:
            assert clip.is_image
            frames = read_frames(clip, sampling=ClipSampling(num_frames=8, frame_step=1))
            assert frames.shape == (1, 1, 3, 20, 30) and abs(frames.float().mean() - 90) < 2


def test_bytes_of_videos_are_not_images(tmp_path):
    video = write_video(tmp_path / "a.mp4", level=90)
    gif = tmp_path / "a.gif"
    Image.new("L", (8, 8)).save(gif, save_all=True, append_images=[Image.new("L", (8, 8), 90)])
    for file in (video, gif):
        pq.write_table(pa.table({"video": pa.array([file.read_bytes()])}), tmp_path / "x.parquet")
        assert not open_corpus(tmp_path / "x.parquet").read(0).is_image
