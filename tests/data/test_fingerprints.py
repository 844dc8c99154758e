"""What identifies the data of a run: names, sizes and times; the record of a run."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from videos import write_tar

from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.corpus import RelabelledCorpus, SubsetCorpus
from transformers_vjepa.data.file_corpus import FileCorpus
from transformers_vjepa.data.fingerprints import (
    UNKNOWN,
    ChangedDataError,
    changed_stamps,
    check_same_data,
    clips_digest,
    content_digest,
    file_stamp,
    file_stamps,
)

SECOND = 10**6


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four files of two classes, of 1, 2, 3 and 4 bytes, all of the same time."""
    for number, name in enumerate(("a/0.mp4", "a/1.mp4", "b/2.mp4", "b/3.mp4")):
        file = tmp_path / "videos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * (number + 1))
        os.utime(file, ns=(0, 5_000_001_000))
    return tmp_path / "videos"


@pytest.fixture
def warnings(caplog):
    """The warnings of the package, as one text."""
    with caplog.at_level(logging.WARNING, logger="transformers_vjepa.data.fingerprints"):
        yield lambda: caplog.text


# Size and time


def test_stamps_of_files(folder):
    corpus = open_corpus(folder)
    assert file_stamps(corpus, range(4)).tolist() == [[size, 5 * SECOND + 1] for size in (1, 2, 3, 4)]
    assert file_stamps(SubsetCorpus(corpus, [3, 0]), range(2))[:, 0].tolist() == [4, 1]
    assert file_stamps(RelabelledCorpus(corpus, [1, 0], class_names=["b", "a"]), [2])[:, 0].tolist() == [3]


def test_stamps_of_what_cannot_be_reached(tmp_path):
    corpus = FileCorpus(["gone.mp4", "https://host/a.mp4?sig=1", "nul\0.mp4"], labels=[0] * 3, root=str(tmp_path))
    assert file_stamps(corpus, range(3)).tolist() == [[-1, -1]] * 3
    assert UNKNOWN == (-1, -1) == file_stamp(None)


def test_the_stamp_of_a_folder_of_frames_follows_each_frame(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"xy")
        os.utime(tmp_path / f"{number}.jpg", (number, number))
    os.utime(tmp_path, (1, 1))
    assert file_stamp(str(tmp_path)) == (6, 2 * SECOND)
    (tmp_path / "0.jpg").write_bytes(b"xyz")  # in place: the time of the folder stays
    os.utime(tmp_path / "0.jpg", (9, 9))
    assert file_stamp(str(tmp_path)) == (7, 9 * SECOND)


def test_clips_of_a_container_have_its_stamp(tmp_path):
    tar = write_tar(tmp_path / "0.tar", {"x.mp4": b"1", "y.mp4": b"2"})
    table = tmp_path / "0.parquet"
    pq.write_table(pa.table({"video": [b"1", b"2"], "label": [0, 1]}), table)
    for file, names in (
        (tar, ["0.tar::x.mp4", "0.tar::y.mp4"]),
        (table, ["0.parquet::row group 0, row 0", "0.parquet::row group 0, row 1"]),
    ):
        corpus = open_corpus(file)
        assert [corpus.origin(index)[0] for index in range(2)] == names
        assert file_stamps(corpus, range(2)).tolist() == [list(file_stamp(str(file)))] * 2


@pytest.mark.parametrize(
    ("before", "now", "is_changed"),
    [
        ((1, 5 * SECOND + 3), (1, 5 * SECOND + 3), False),
        ((1, 5 * SECOND + 3), (2, 5 * SECOND + 3), True),
        ((1, 5 * SECOND + 3), (1, 5 * SECOND + 4), True),
        ((1, 5 * SECOND + 3), (1, 5 * SECOND), False),  # a copy that kept seconds only
        ((1, 5 * SECOND), (1, 5 * SECOND + 3), False),
        ((1, 5 * SECOND), (1, 6 * SECOND), True),
        (UNKNOWN, (1, 5 * SECOND), True),
        (UNKNOWN, UNKNOWN, False),
    ],
)
def test_when_a_file_counts_as_another_one(before, now, is_changed):
    assert changed_stamps(np.array([before]), np.array([now])).tolist() == [is_changed]


def test_the_digest_of_a_clip_is_that_of_its_size_and_edges(tmp_path):
    whole = bytes(range(256)) * 1024  # 256 KiB
    contents = {
        "whole": whole,
        "first": b"x" + whole[1:],
        "last": whole[:-1] + b"x",
        "longer": whole + b"x",
        "short": b"x",
        "middle": whole[: 2**17] + b"x" + whole[2**17 + 1 :],
    }
    for name, data in contents.items():
        (tmp_path / f"{name}.mp4").write_bytes(data)
    corpus = FileCorpus([f"{name}.mp4" for name in contents], labels=[0] * 6, root=str(tmp_path))
    digests = dict(zip(contents, (content_digest(corpus, index) for index in range(6)), strict=True))
    assert digests.pop("middle") == digests["whole"]  # stated: only the edges are read
    assert len({*digests.values()}) == 5
    tar = open_corpus(write_tar(tmp_path / "0.tar", {f"{name}.mp4": data for name, data in contents.items()}))
    assert [content_digest(tar, index) for index in range(5)] == list(digests.values())


def test_what_has_no_digest(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "frames").mkdir()
    names = ["pipe.mp4", "frames", "gone.mp4", "https://host/a.mp4"]
    corpus = FileCorpus(names, labels=[0] * 4, root=str(tmp_path))
    assert [content_digest(corpus, index) for index in range(4)] == [""] * 4


# Names and labels


def test_names_do_not_depend_on_the_place_of_the_data(folder, tmp_path):
    digest = clips_digest(open_corpus(folder))
    folder.rename(tmp_path / "moved")
    assert clips_digest(open_corpus(tmp_path / "moved")) == digest
    index = tmp_path / "moved" / "index.csv"
    index.write_text("a/0.mp4 0\na/1.mp4 0\nb/2.mp4 1\nb/3.mp4 1\n")
    assert clips_digest(open_corpus(index)) == digest
    for lines in ("a/1.mp4 0\na/0.mp4 0\nb/2.mp4 1\nb/3.mp4 1\n", "a/0.mp4 1\na/1.mp4 0\nb/2.mp4 1\nb/3.mp4 1\n"):
        index.write_text(lines)  # another order, another label
        assert clips_digest(open_corpus(index)) != digest


def test_tars_are_named_below_the_folder_that_they_share(tmp_path):
    for part in ("one", "two"):
        (tmp_path / part).mkdir()
        write_tar(tmp_path / part / "0.tar", {"x.mp4": b"1"})
    corpus = open_corpus(tmp_path)
    assert [corpus.origin(index)[0] for index in range(2)] == ["one/0.tar::x.mp4", "two/0.tar::x.mp4"]


def test_odd_names_have_a_digest(tmp_path):
    names = ["a\nb.mp4", "a", "\x1b[31m.mp4", "caf\udce9.mp4"]
    corpora = [FileCorpus(names, labels=labels, root=str(tmp_path)) for labels in ([0, 1, 1, 1], [1, 0, 1, 1])]
    assert len({*map(clips_digest, corpora)}) == 2


def test_clips_that_occur_twice_are_named(tmp_path, warnings):
    names = ["a.mp4", "b.mp4", "./a.mp4", "c.mp4", "b.mp4", "x/../b.mp4"]
    clips_digest(FileCorpus(names, labels=[0, 1, 0, 1, 0, 1], root=str(tmp_path)))
    assert (
        "clips that occur more than once in the data: 2, such as a.mp4; with several labels: 1, such as b.mp4"
        in warnings()
    )


# The record of a run


def resume(folder, file):
    check_same_data(file, {"0": open_corpus(folder)}, began=file)


@pytest.fixture
def record(folder, tmp_path) -> Path:
    file = tmp_path / "run" / "data.parquet"
    check_same_data(file, {"0": open_corpus(folder)}, began=None)
    return file


def test_equal_data_resume_without_a_word(folder, record, tmp_path, warnings):
    resume(folder, record)
    shutil.copytree(folder, tmp_path / "copy")  # copies the times too
    resume(tmp_path / "copy", record)
    assert warnings() == ""


def change_added(folder):
    (folder / "b" / "4.mp4").write_bytes(b"new")


def change_removed(folder):
    (folder / "a" / "1.mp4").unlink()
    (folder / "b" / "3.mp4").unlink()


def change_renamed(folder):
    (folder / "a" / "1.mp4").rename(folder / "a" / "9.mp4")


def change_replaced(folder):
    (folder / "b" / "2.mp4").write_bytes(b"other bytes")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_added, r"clips added: 1, such as b/4\.mp4\. Restore"),
        (change_removed, r"clips removed: 2, such as a/1\.mp4\. Restore"),
        (change_renamed, r"clips added: 1, such as a/9\.mp4; clips removed: 1, such as a/1\.mp4\. Restore"),
        (change_replaced, r"files with another size, or that could not be reached: 1, such as b/2\.mp4\. Restore"),
    ],
)
def test_changed_data_are_refused(folder, record, change, message):
    change(folder)
    with pytest.raises(ChangedDataError, match=f"not those with which .*run was begun: {message}.*delete {record} to"):
        resume(folder, record)
    record.unlink()  # the remedy
    resume(folder, record)
    resume(folder, record)


def test_an_index_in_another_order_is_refused(folder, tmp_path):
    index, file = folder / "index.csv", tmp_path / "data.parquet"
    index.write_text("a/0.mp4\nb/2.mp4\n")
    check_same_data(file, {"0": open_corpus(index)}, began=None)
    index.write_text("b/2.mp4\na/0.mp4\n")
    with pytest.raises(ChangedDataError, match="the 2 clips stand in another order"):
        resume(index, file)


def test_a_disk_that_is_not_mounted_is_noticed(folder, tmp_path):
    index, file = tmp_path / "index.csv", tmp_path / "data.parquet"
    index.write_text("videos/a/0.mp4\nvideos/b/2.mp4\n")
    check_same_data(file, {"0": open_corpus(index)}, began=None)
    folder.rename(tmp_path / "away")
    with pytest.raises(ChangedDataError, match="could not be reached: 2, such as videos/a/0.mp4"):
        resume(index, file)


def test_other_times_are_a_warning(folder, record, warnings):
    os.utime(folder / "a" / "1.mp4", (9, 9))
    resume(folder, record)
    assert "another modification time than at the beginning: 1, such as a/1.mp4; the run continues" in warnings()


def test_a_run_without_a_record_gets_one(folder, tmp_path, warnings):
    file = tmp_path / "data.parquet"
    resume(folder, file)
    assert "has no data.parquet" in warnings()
    change_added(folder)
    with pytest.raises(ChangedDataError, match="clips added: 1"):
        resume(folder, file)


def test_a_checkpoint_of_another_folder_brings_its_record(folder, record, tmp_path):
    new = tmp_path / "new" / "data.parquet"
    check_same_data(new, {"0": open_corpus(folder)}, began=record)
    assert pq.read_table(new).equals(pq.read_table(record))
    change_added(folder)
    with pytest.raises(ChangedDataError, match="clips added: 1"):
        check_same_data(new, {"0": open_corpus(folder)}, began=record)


def test_parts_of_a_mix_are_kept_apart(folder, tmp_path):
    file, corpora = tmp_path / "data.parquet", {"0": open_corpus(folder / "a"), "1": open_corpus(folder / "b")}
    check_same_data(file, corpora, began=None)
    check_same_data(file, corpora, began=file)
    with pytest.raises(ChangedDataError, match=r"clips added: 4, such as 2\.mp4; clips removed: 4"):
        check_same_data(file, {"0": corpora["1"], "1": corpora["0"]}, began=file)


def test_streamed_data_are_left_out(tmp_path):
    tar = write_tar(tmp_path / "0.tar", {"x.mp4": b"1"})
    streamed = load_dataset("webdataset", data_files={"train": str(tar)}, split="train", streaming=True)
    check_same_data(tmp_path / "data.parquet", {"0": open_corpus(streamed)}, began=None)
    assert pq.read_table(tmp_path / "data.parquet").num_rows == 0


def test_a_damaged_record_is_named(folder, record):
    record.write_bytes(b"PAR1")
    with pytest.raises(ChangedDataError, match=r"data.parquet is damaged \(.*\): delete it to continue"):
        resume(folder, record)
