import io
import json
import logging
import pickle
import tarfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset, load_dataset_builder
from faulty_server import serving
from small_corpora import contents, write_parquet
from videos import write_tar

from transformers_vjepa.data.corpora import is_corpus, open_corpus
from transformers_vjepa.data.corpus import SubsetCorpus
from transformers_vjepa.data.file_corpus import FileCorpus
from transformers_vjepa.safety.sanitizing import log_line

NAMES = [f"{number}.mp4" for number in range(6)]


def test_nothing_found(tmp_path, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"holds no videos \(\.mp4 .*\), images .*, \.tar or \.parquet .* depth$"
    ):
        open_corpus(tmp_path)
    (tmp_path / "a.heic").touch()
    with pytest.raises(FileNotFoundError, match=r"at any depth; it holds 1 \.heic$"):
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

    monkeypatch.setattr("transformers_vjepa.data.corpora.load_dataset_builder", unreachable)
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
    monkeypatch.setattr("transformers_vjepa.data.corpora.load_dataset_builder", None)
    for source in ("videos/nothing", "nothing/"):
        with pytest.raises(FileNotFoundError, match=f"^'{source}' is n.* \\(looked in "):
            open_corpus(source)


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


# Addresses


LABELLED = {"0.mp4": b"video", "0.json": b'{"label": 4}', "1.jpg": b"image", "1.cls": b"5"}


def streamed_clips(corpus, **kwargs):
    return [corpus.encoded(row, where="row", **kwargs) for row in corpus.lane(0, lanes=1)[0]]


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_signed_addresses_are_streamed_and_their_secrets_kept(tmp_path, caplog, kind):
    caplog.set_level(logging.DEBUG, "transformers_vjepa")
    query = "X-Amz-Expires=3600&X-Amz-Signature=0123abcd"
    write_tar(tmp_path / "x.tar", LABELLED | {"1.txt": b""})
    pq.write_table(pa.table({"video": pa.array([b"x"]), "target": [3]}), tmp_path / "x.parquet")
    with serving() as server:
        server.files[f"/x.{kind}?{query}"] = (tmp_path / f"x.{kind}").read_bytes()
        corpus = open_corpus(server.url(f"/x.{kind}?{query}"))
        clips = streamed_clips(corpus)
        state = corpus.lane(0, lanes=1)[0].state_dict()
        with pytest.raises(FileNotFoundError, match=rf"Unable to find \S+x\.{kind}\?\*\*\*: ") as refused:
            open_corpus(server.url(f"/x.{kind}?{query}1"))
    assert [clip.label for clip in clips] == ([4, 5] if kind == "tar" else [-1])
    assert clips[0].path.endswith("/x.tar::0.mp4" if kind == "tar" else "/x.parquet::row")
    assert log_line(clips[0].path) == clips[0].path
    assert f"x.{kind}" in caplog.text  # what is left out
    for text in (corpus.name, *(clip.path for clip in clips), json.dumps(state), caplog.text, str(refused.value)):
        assert "0123abcd" not in text


def test_addresses_with_patterns():
    memory = fsspec.filesystem("memory")
    for number in range(3):
        memory.pipe(f"memory://shards/x-{number}.tar", write_bytes_tar(number))
    for pattern in ("memory://shards/x-{0..2}.tar", "memory://shards/x-*.tar", "memory://shards/x-[0-2].tar"):
        clips = streamed_clips(open_corpus(pattern))
        assert [(clip.path.rpartition("/")[2], clip.label) for clip in clips] == [
            (f"x-{number}.tar::{number}.mp4", number) for number in range(3)
        ]
    for missing in ("memory://shards/x-{1..3}.tar", "memory://shards/y-*.tar"):
        with pytest.raises(FileNotFoundError, match=r"Unable to find memory://shards/(x-3|y-\*).tar"):
            open_corpus(missing)


def write_bytes_tar(number):
    file = fsspec.filesystem("memory").open("memory://new.tar", "wb")
    with file, tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in ((f"{number}.mp4", b"video"), (f"{number}.cls", b"%d" % number)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return fsspec.filesystem("memory").cat_file("memory://new.tar")


def test_addresses_of_unknown_kinds_are_refused_in_one_line(tmp_path, monkeypatch):
    def without_package(scheme):
        if scheme == "s3":
            raise ImportError("Install s3fs to access S3")
        raise ValueError(f"Protocol not known: {scheme}")

    monkeypatch.setattr("transformers_vjepa.data.remote_reading.get_filesystem_class", without_package)
    (tmp_path / "list.csv").write_text("a.mp4 0\ns3://user:secret@bucket/b.mp4?sig=secret 1\n")
    for source in (tmp_path / "list.csv", "s3://user:secret@bucket/x.tar"):
        with pytest.raises(ValueError, match=r"^s3://\*\*\*@bucket/\S+: Install s3fs to access S3 \(s3:// addr"):
            open_corpus(source)
    with pytest.raises(ValueError, match="^foo://bucket/x.tar: foo:// is not a known kind of address: use http, http"):
        open_corpus("foo://bucket/x.tar")


def test_files_at_signed_addresses_are_images_or_videos_by_their_path(tmp_path):
    lines = ["https://host/a.jpg?sig=a.mp4 3", "https://host/b.mp4?sig=c#d.jpg 4", "https://host/c.png?sig=ab"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    clips = contents(open_corpus(tmp_path / "list.csv"))
    assert [(clip.is_image, clip.label, clip.path) for clip in clips] == [
        (True, 3, "https://host/a.jpg?***"),
        (False, 4, "https://host/b.mp4?***"),
        (True, -1, "https://host/c.png?***"),
    ]


def test_tars_of_a_hub_data_set_are_read_as_all_tars(tmp_path, monkeypatch):
    write_tar(tmp_path / "0.tar", LABELLED)
    write_tar(tmp_path / "1.tar", {"2.MP4": b"video", "._2.cls": b"", "2.cls": b"walk"})
    builder = load_dataset_builder("webdataset", data_files={"test": sorted(map(str, tmp_path.glob("*.tar")))})
    monkeypatch.setattr("transformers_vjepa.data.corpora.load_dataset_builder", lambda name, config: builder)
    corpus = open_corpus("user/name", split="test")
    assert corpus.name == "user/name"
    clips = streamed_clips(corpus.with_classes(["run", "walk", 2, 3, 4, 5].index), needs_label=True)
    assert [clip[1:] for clip in clips] == [
        (4, b"video", False, ""),
        (5, b"image", True, ""),
        (1, b"video", False, ""),
    ]
    with pytest.raises(ValueError, match="user/name has no split 'train': choose one of test"):
        open_corpus("user/name")
