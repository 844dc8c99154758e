import io
import json
import pickle
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value, Video, load_dataset
from videos import write_tar

from transformers_vjepa.data.corpora import (
    FileCorpus,
    PackedStrings,
    ParquetCorpus,
    SequentialCorpus,
    SubsetCorpus,
    TarCorpus,
    is_corpus,
    open_corpus,
)

NAMES = [f"{number}.mp4" for number in range(6)]


def contents(corpus):
    return [corpus.read(index) for index in range(len(corpus))]


def write_parquet(path, rows, *, row_group_size=2):
    """Rows of (bytes, label) as `datasets` writes them."""
    features = Features({"video": Video(), "label": ClassLabel(names=["a", "b", "c"])})
    cells = [{"bytes": data, "path": f"{data.decode()}.mp4"} for data, _ in rows]
    dataset = Dataset.from_dict({"video": cells, "label": [label for _, label in rows]}, features=features)
    dataset.to_parquet(path, batch_size=row_group_size)
    return path


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


def test_folder_is_searched_at_any_depth_and_first_level_is_the_label(tmp_path):
    for name in ["b/x/2.mp4", "a/1.AVI", "0.mkv", "b/.hidden.mp4", "b/notes.md", "b/thumb.jpg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    corpus = open_corpus(str(tmp_path))
    assert [(c.path, c.label) for c in contents(corpus)] == [
        (str(tmp_path / "0.mkv"), -1),
        (str(tmp_path / "a/1.AVI"), 0),
        (str(tmp_path / "b/x/2.mp4"), 1),
    ]
    assert corpus.class_names == ("a", "b")
    assert not any(clip.is_image for clip in contents(corpus))


def test_images_beside_videos_are_skipped_with_a_warning_and_no_class_with_them(tmp_path, caplog):
    for name in ["x/1.jpg", "x/2.gif", "y/3.mp4", "4.png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for _ in range(2):
        assert len(open_corpus(tmp_path)) == 2
    (record,) = caplog.records
    assert "2 videos, such as x/2.gif (.gif counts as a video): its 2 images are taken for thumb" in record.message
    (tmp_path / "y/3.mp4").rename(tmp_path / "y/3.webp")
    with pytest.raises(
        ValueError, match=r"1 videos, such as x/2.gif .*, and images only in y: .*move the images or the videos"
    ):
        open_corpus(tmp_path)
    (tmp_path / "x/2.gif").rename(tmp_path / "2.gif")  # no class is lost where videos have none
    assert open_corpus(tmp_path).class_names == ()


def test_folder_of_images(tmp_path):
    for name in ["x/1.jpg", "y/2.PNG"]:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert [(clip.label, clip.is_image) for clip in contents(open_corpus(tmp_path))] == [(0, True), (1, True)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("k400.csv", 'sub/a b.mp4 3\n/data/c.mp4 0\n\n"d.mp4" -1\nhttps://host/e.mp4 7\n'),
        ("index.txt", "sub/a b.mp4,3\n/data/c.mp4,0\nd.mp4\nhttps://host/e.mp4, 7"),
        ("header.csv", "path,label\nsub/a b.mp4, 3\n/data/c.mp4, 0\nd.mp4,-1\nhttps://host/e.mp4,7\n"),
    ],
)
def test_index_in_the_published_format(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    corpus = open_corpus(str(tmp_path / name))
    assert [(clip.data, clip.label) for clip in contents(corpus)] == [
        (str(tmp_path / "sub/a b.mp4"), 3),
        ("/data/c.mp4", 0),
        (str(tmp_path / "d.mp4"), -1),
        ("https://host/e.mp4", 7),
    ]


def test_index_errors(tmp_path):
    (tmp_path / "bad.csv").write_text("a.mp4 1\nb.mp4 walking\n")
    with pytest.raises(
        ValueError, match=r"bad.csv, line 2: 'b.mp4 walking' has none of the formats .*'path,class name'"
    ):
        open_corpus(str(tmp_path / "bad.csv"))
    (tmp_path / "columns.csv").write_text("file,label,comment\na.mp4,1,good\n")
    with pytest.raises(ValueError, match=r"columns.csv, line 2: 'a.mp4,1,good' has none of .* \(two columns"):
        open_corpus(str(tmp_path / "columns.csv"))
    (tmp_path / "mixed.csv").write_text("a.mp4,walking\nb.mp4,1\n")
    with pytest.raises(ValueError, match="mixed.csv gives no class name for b.mp4, but for other videos"):
        open_corpus(str(tmp_path / "mixed.csv"))
    (tmp_path / "empty.csv").write_text("path,label\n")
    with pytest.raises(ValueError, match="empty.csv lists no videos"):
        open_corpus(str(tmp_path / "empty.csv"))


def test_tars_are_read_by_offset_with_their_labels(tmp_path):
    write_tar(
        tmp_path / "part-00.tar",
        {
            "k/1.mp4": b"one",
            "k/1.cls": b"4",
            "k/2.json": json.dumps({"label": 5, "title": "x"}).encode(),
            "k/2.mp4": b"two!",
        },
    )
    write_tar(tmp_path / "part-01.tar", {"3.left.mp4": b"3", "3.right.mp4": b"33", "4.jpg": b"jpg", "4.txt": b""})
    expected = [
        ("part-00.tar::k/1.mp4", 4, b"one", False, ""),
        ("part-00.tar::k/2.mp4", 5, b"two!", False, ""),
        ("part-01.tar::3.left.mp4", -1, b"3", False, ""),
        ("part-01.tar::3.right.mp4", -1, b"33", False, ""),
        ("part-01.tar::4.jpg", -1, b"jpg", True, ""),
    ]
    for source in (tmp_path, tmp_path / "part-*.tar", tmp_path / "part-{00..01}.tar"):
        corpus = open_corpus(source)
        assert isinstance(corpus, TarCorpus)
        assert [(c.path.removeprefix(f"{tmp_path}/"), *c[1:]) for c in contents(corpus)] == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part-00.tar", "part-01.tar"]


def test_tar_that_is_compressed_cut_short_or_changed(tmp_path):
    with tarfile.open(tmp_path / "gz.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.mp4"), io.BytesIO())
    with pytest.raises(ValueError, match="gz.tar cannot be read as an uncompressed tar"):
        open_corpus(tmp_path / "gz.tar")
    whole = write_tar(tmp_path / "whole.tar", {"a.mp4": b"x" * 5000, "b.mp4": b"y"})
    corpus = open_corpus(whole)
    whole.write_bytes(whole.read_bytes()[:4000])
    with pytest.raises(ValueError, match="whole.tar is truncated inside 'a.mp4'"):
        open_corpus(whole)
    with pytest.raises(OSError, match="a.mp4 has 3488 of 5000 bytes"):
        corpus.read(0)
    write_tar(tmp_path / "label.tar", {"a.mp4": b"x", "a.cls": b"cat"})
    with pytest.raises(ValueError, match="a.cls holds neither an integer nor JSON: b'cat'"):
        open_corpus(tmp_path / "label.tar")


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
    monkeypatch.setattr("transformers_vjepa.data.corpora._LARGE_ROW_GROUP", 10)
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


def test_nothing_found(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"holds no videos \(\.3gp \.avi .*\), images .*, \.tar or \.parquet"):
        open_corpus(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file matches .*nope-\*\.tar"):
        open_corpus(tmp_path / "nope-*.tar")
    with pytest.raises(FileNotFoundError, match=r"no file matches .*s-1\.tar"):
        open_corpus(tmp_path / "s-{1..2}.tar")
    for missing in (tmp_path / "gone", "gone.csv", "gone/gone.mp4"):
        with pytest.raises(FileNotFoundError, match="gone.* is neither a file, a folder nor a Hub data set id"):
            open_corpus(missing)

    def unreachable(*args, **kwargs):
        raise ConnectionError("offline")

    monkeypatch.setattr("transformers_vjepa.data.corpora.load_dataset", unreachable)
    with pytest.raises(
        FileNotFoundError, match="'user/name:config' is not a file .* cannot be reached as a Hub data set: offline"
    ):
        open_corpus("user/name:config")


def test_refuses_several_kinds_and_unknown_files(tmp_path):
    for name in ("a.mp4", "b.tar"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"files of several kinds \(\.tar, video\): select one kind by a pattern"):
        open_corpus(tmp_path)
    assert isinstance(open_corpus(tmp_path / "*.mp4"), FileCorpus)
    (tmp_path / "c.pkl").touch()
    with pytest.raises(ValueError, match=r"c\.pkl: cannot read \.pkl as one data set"):
        open_corpus(tmp_path / "c.pkl")
    with pytest.raises(ValueError, match="only .tar and .parquet URLs can be streamed"):
        open_corpus("https://host/x.zip")


def test_damaged_tars_are_refused(tmp_path):
    whole = write_tar(tmp_path / "whole.tar", {f"{n}.mp4": bytes(600) for n in range(4)})
    assert len(open_corpus(str(whole))) == 4
    data = whole.read_bytes()
    second = data.index(b"1.mp4")
    for name, damaged in (
        ("header", data[:second] + b"x" * 30 + data[second + 30 :]),
        ("cut", data[: second + 100]),
    ):
        (tmp_path / f"{name}.tar").write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{name}.tar is damaged or truncated at byte {second}"):
            open_corpus(str(tmp_path / f"{name}.tar"))


def test_tar_without_an_end_mark_is_read_with_a_warning(tmp_path, caplog):
    whole = write_tar(tmp_path / "whole.tar", {f"{n}.mp4": bytes(600) for n in range(4)}).read_bytes()
    (tmp_path / "open.tar").write_bytes(whole[: whole.index(b"2.mp4")])
    assert len(open_corpus(str(tmp_path / "open.tar"))) == 2
    assert "open.tar has no end mark" in caplog.text


def test_parquet_files_that_do_not_belong_together_are_refused(tmp_path):
    for name, column in (("a", "video"), ("b", "sound")):
        table = pa.table({column: pa.array([b"x"], pa.binary())})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match="b.parquet has no column 'video', which .*a.parquet has"):
        open_corpus(str(tmp_path / "*.parquet"))


def test_linked_folders_are_followed_once(tmp_path):
    (tmp_path / "videos" / "a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for file in (tmp_path / "videos" / "a" / "1.mp4", tmp_path / "elsewhere" / "2.mp4"):
        file.write_bytes(b"")
    (tmp_path / "videos" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "videos" / "a" / "loop").symlink_to(tmp_path / "videos")
    corpus = open_corpus(str(tmp_path / "videos"))
    assert [Path(corpus.describe(n)).name for n in range(len(corpus))] == ["1.mp4", "2.mp4"]


def test_index_with_a_byte_order_mark(tmp_path):
    (tmp_path / "index.csv").write_text("a.mp4 1\nb.mp4 2\n", encoding="utf-8-sig")
    corpus = open_corpus(str(tmp_path / "index.csv"))
    assert [Path(corpus.describe(n)).name for n in range(2)] == ["a.mp4", "b.mp4"]


def test_label_that_does_not_fit_is_refused(tmp_path):
    (tmp_path / "index.csv").write_text("a.mp4 4294967296\n")
    with pytest.raises(ValueError, match="index.csv, line 1: label 4294967296 does not fit 32 bits"):
        open_corpus(str(tmp_path / "index.csv"))


def labelled_corpora(tmp_path):
    """The same labels in every kind of corpus that can be read at random."""
    for name in ("c/1.mp4", "a/2.mp4", "0.mp4", "b/3.mp4"):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).touch()
    (tmp_path / "list.csv").write_text("0.mp4 -1\na.mp4 0\nb.mp4 1\nc.mp4 2\n")
    members = {f"{n}.mp4": b"x" for n in range(4)} | {f"{n}.cls": str(n - 1).encode() for n in range(1, 4)}
    write_tar(tmp_path / "x.tar", dict(sorted(members.items())))
    write_parquet(tmp_path / "x.parquet", [(b"0", None), (b"a", 0), (b"b", 1), (b"c", 2)])
    return {name: open_corpus(tmp_path / name) for name in ("folder", "list.csv", "x.tar", "x.parquet")}


def test_labels_and_class_names(tmp_path):
    corpora = labelled_corpora(tmp_path)
    for corpus in corpora.values():
        assert corpus.labels.tolist() == [-1, 0, 1, 2]
        assert corpus.labels.dtype == np.int64
        assert corpus.labels.tolist() == [clip.label for clip in contents(corpus)]
    names = {name: corpus.class_names for name, corpus in corpora.items()}
    assert names == {"folder": ("a", "b", "c"), "list.csv": (), "x.tar": (), "x.parquet": ("a", "b", "c")}


def test_labels_of_parquet_read_no_video(tmp_path, monkeypatch):
    corpus = open_corpus(write_parquet(tmp_path / "x.parquet", [(b"a", 2), (b"b", 0), (b"c", 1)]))
    columns = []
    read_table = pq.read_table
    monkeypatch.setattr(
        pq, "read_table", lambda file, **kwargs: (columns.append(kwargs["columns"]), read_table(file, **kwargs))[1]
    )
    assert corpus.labels.tolist() == [2, 0, 1]
    assert columns == [["label"]]


def test_parquet_without_a_label_column(tmp_path):
    pq.write_table(pa.table({"video": pa.array([b"x", b"y"], pa.binary())}), tmp_path / "x.parquet")
    corpus = open_corpus(tmp_path / "x.parquet")
    assert corpus.labels.tolist() == [-1, -1] and corpus.class_names == ()


def test_subset_has_its_videos_in_order(tmp_path):
    for corpus in labelled_corpora(tmp_path).values():
        subset = pickle.loads(pickle.dumps(SubsetCorpus(corpus, [3, 0])))
        assert len(subset) == 2 and subset.labels.tolist() == [2, -1]
        assert subset.class_names == corpus.class_names
        assert [subset.describe(n) for n in range(2)] == [corpus.describe(3), corpus.describe(0)]
        assert [subset.read(n) for n in range(2)] == [corpus.read(3), corpus.read(0)]
        assert SubsetCorpus(subset, [1]).describe(0) == corpus.describe(0)
        with pytest.raises(ValueError, match="index 4 is outside of a corpus of 4 videos"):
            SubsetCorpus(corpus, [0, 4])
        with pytest.raises(ValueError, match="index -1 is outside"):
            SubsetCorpus(corpus, np.array([-1]))


def test_opened_corpora_are_opened_as_they_are(tmp_path):
    for corpus in labelled_corpora(tmp_path).values():
        assert is_corpus(corpus) and open_corpus(corpus) is corpus
    dataset = load_dataset("parquet", data_files={"train": str(tmp_path / "x.parquet")}, split="train", streaming=True)
    sequential = open_corpus(dataset)
    assert is_corpus(sequential) and open_corpus(sequential) is sequential
    assert sequential.class_names == ("a", "b", "c")
    assert not is_corpus(dataset) and not is_corpus(str(tmp_path))


def test_a_slip_in_a_local_path_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "videos").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers_vjepa.data.corpora.load_dataset", None)
    for source in ("videos/nothing", "nothing/"):
        with pytest.raises(FileNotFoundError, match=f"^'{source}' is n.* \\(looked in "):
            open_corpus(source)


def test_index_with_names_of_classes(tmp_path):
    (tmp_path / "named.csv").write_text('file,label\nsub/a b.mp4,walking fast\n"c.mp4", running\nd.avi,walking fast\n')
    corpus = open_corpus(str(tmp_path / "named.csv"))
    assert corpus.class_names == ("running", "walking fast")
    assert corpus.labels.tolist() == [1, 0, 1]
    assert [corpus.describe(index) for index in range(3)] == [
        str(tmp_path / name) for name in ("sub/a b.mp4", "c.mp4", "d.avi")
    ]
