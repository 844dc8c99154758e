"""The samples of tars: each rule holds on the disk and when the tar is streamed."""

import io
import json
import tarfile
from collections import Counter

import fsspec
import pytest
from videos import write_tar

from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.remote_reading import open_address
from transformers_vjepa.data.tar_corpus import StreamedTarCorpus, TarCorpus
from transformers_vjepa.data.tar_samples import DamagedTarError

SORT = r"write the tar in the order of the names \(tar --sort=name\)"
RENAME = r"the name of a sample ends at the first dot, so use other marks in names \(2024-11-01_cam.mp4\)"


def as_json(label):
    return json.dumps({"title": "x", "label": label}).encode()


def put(file):
    """The address of a copy of a file, on a file system in memory that is read as addresses are."""
    address = f"memory://{file.parent.name}/{file.name}"
    fsspec.filesystem("memory").pipe(address, file.read_bytes())
    return address


def streamed_clips(corpus, **kwargs):
    dataset, _, _ = corpus.lane(0, lanes=1)
    rows = ({name: cell[0] for name, cell in row.items()} for row in dataset.iter(batch_size=1))
    return [corpus.encoded(row, where="", **kwargs) for row in rows]


def labels_both_ways(file):
    """Name and label of each clip of a tar, which must be equal on the disk and streamed."""
    disk = open_corpus(file)
    assert isinstance(disk, TarCorpus)
    clips = [disk.read(index) for index in range(len(disk))]
    assert [clip.label for clip in clips] == disk.labels.tolist()
    streamed = open_corpus(put(file))
    assert isinstance(streamed, StreamedTarCorpus)
    others = streamed_clips(streamed)
    assert [clip[1:] for clip in others] == [clip[1:] for clip in clips]
    names = [[clip.path.partition("::")[2] for clip in way] for way in (clips, others)]
    assert names[0] == names[1]
    return {name: clip.label for name, clip in zip(names[0], clips, strict=True)}


VIDEO = b"video"
LABELS = {
    "a number": ({"0.mp4": VIDEO, "0.cls": b"4"}, {"0.mp4": 4}),
    "the label first": ({"0.cls": b"4", "0.mp4": VIDEO}, {"0.mp4": 4}),
    "spaces and a line break": ({"0.mp4": VIDEO, "0.cls": b" 4\r\n"}, {"0.mp4": 4}),
    "a byte order mark": ({"0.mp4": VIDEO, "0.cls": b"\xef\xbb\xbf4"}, {"0.mp4": 4}),
    "quotes": ({"0.mp4": VIDEO, "0.cls": b'"4"'}, {"0.mp4": 4}),
    "a whole float": ({"0.mp4": VIDEO, "0.cls": b"4.0"}, {"0.mp4": 4}),
    "unlabelled": ({"0.mp4": VIDEO, "0.cls": b"-1", "1.mp4": VIDEO}, {"0.mp4": -1, "1.mp4": -1}),
    "JSON in cls": ({"0.mp4": VIDEO, "0.cls": as_json(4)}, {"0.mp4": 4}),
    "JSON numbers": (
        {"0.json": as_json(4), "0.mp4": VIDEO, "1.json": as_json("5"), "1.mp4": VIDEO, "2.json": as_json(6.0)}
        | {"2.mp4": VIDEO, "4.json": b"7", "4.mp4": VIDEO},
        {"0.mp4": 4, "1.mp4": 5, "2.mp4": 6, "4.mp4": 7},
    ),
    "JSON without a label": (
        {"0.mp4": VIDEO, "0.json": as_json(None), "1.mp4": VIDEO, "1.json": b'{"t": 1}', "2.mp4": VIDEO}
        | {"2.json": b"[1, 2]", "3.mp4": VIDEO, "3.json": b'{"label": NaN}'},
        {"0.mp4": -1, "1.mp4": -1, "2.mp4": -1, "3.mp4": -1},
    ),
    "JSON without a label after cls": ({"0.mp4": VIDEO, "0.cls": b"4", "0.json": b'{"t": 1}'}, {"0.mp4": 4}),
    "JSON and cls agree": ({"0.mp4": VIDEO, "0.cls": b"4", "0.json": as_json("4.0")}, {"0.mp4": 4}),
    "capitals": ({"0.MP4": VIDEO, "0.CLS": b"4"}, {"0.MP4": 4}),
    "cls.json": ({"0.mp4": VIDEO, "0.cls.json": as_json(4)}, {"0.mp4": 4}),
    "two videos": ({"0.left.mp4": VIDEO, "0.right.mp4": VIDEO, "0.cls": b"4"}, {"0.left.mp4": 4, "0.right.mp4": 4}),
    "a label for each of two videos": (
        {"0.left.mp4": VIDEO, "0.left.cls": b"4", "0.right.mp4": VIDEO, "0.right.cls": b"4"},
        {"0.left.mp4": 4, "0.right.mp4": 4},
    ),
    "dots without labels": ({"2024.1.mp4": VIDEO, "2024.2.mp4": VIDEO}, {"2024.1.mp4": -1, "2024.2.mp4": -1}),
    "folders": (
        {"a/0.mp4": VIDEO, "a/0.cls": b"4", "b.c/0.mp4": VIDEO, "b.c/0.cls": b"5"},
        {"a/0.mp4": 4, "b.c/0.mp4": 5},
    ),
    "the current folder": ({"./0.mp4": VIDEO, "./0.cls": b"4"}, {"./0.mp4": 4}),
    "members of macOS between": (
        {"0.mp4": VIDEO, "._0.mp4": b"\0\5", "0.cls": b"4", "._0.cls": b"\0\5", "__MACOSX/0.cls": b"\0"}
        | {".hidden/0.mp4": VIDEO},
        {"0.mp4": 4},
    ),
    "other members between": ({"0.mp4": VIDEO, "1.txt": b"", "0.txt": b"a", "0.cls": b"4"}, {"0.mp4": 4}),
    "a thumbnail": ({"0.jpg": b"j", "0.mp4": VIDEO, "0.cls": b"4"}, {"0.mp4": 4}),
    "images": ({"0.jpg": b"j", "0.cls": b"4", "1.png": b"p", "1.cls": b"5"}, {"0.jpg": 4, "1.png": 5}),
    "long names": ({f"{'a' * 150}/{'b' * 120}.mp4": VIDEO}, {f"{'a' * 150}/{'b' * 120}.mp4": -1}),
    "names that are not UTF-8": ({"caf\udce9.mp4": VIDEO, "caf\udce9.cls": b"4"}, {"caf\udce9.mp4": 4}),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_are_the_same_on_the_disk_and_streamed(tmp_path, case):
    members, expected = LABELS[case]
    assert labels_both_ways(write_tar(tmp_path / "x.tar", members)) == expected


DATED = {f"2024.11.0{day}_cam.mp4": VIDEO for day in (1, 2)}
DATED |= {f"2024.11.0{day}_cam.cls": b"%d" % day for day in (1, 2)}
FAULTS = {
    "dots": (
        DATED,
        rf"2024.11.01_cam.cls and 2024.11.02_cam.cls belong to one sample and say '1' and '2': .*{RENAME}",
    ),
    "dots and one label": (
        {"2024.1.mp4": VIDEO, "2024.2.mp4": VIDEO, "2024.2.cls": b"4"},
        rf"2024.1.mp4 and 2024.2.cls belong to one sample, but only their first parts are equal: {RENAME}",
    ),
    "cls and JSON differ": (
        {"0.mp4": VIDEO, "0.cls": b"4", "0.json": as_json(5)},
        "0.cls and 0.json belong to one sample and say .*4.* and 5: leave one label",
    ),
    "two videos in one place": (
        {"0.mp4": VIDEO, "0.MP4": VIDEO},
        "0.mp4 and 0.MP4 have the same place in one sample: leave one of them",
    ),
    "members apart": (
        {"0.mp4": VIDEO, "1.mp4": VIDEO, "0.cls": b"4", "1.cls": b"5"},
        f"0.cls stands apart from the other members of its sample: {SORT}",
    ),
    "labels in another folder": (
        {"labels/0.cls": b"4", "videos/0.mp4": VIDEO},
        r"1 labels without a video or image \(such as labels/0.cls\) beside 1 videos or images without a label "
        r"\(such as videos/0.mp4\): put a label into the folder of its video, under the same name",
    ),
    "an empty label": ({"0.mp4": VIDEO, "0.cls": b" \n"}, r"0.cls holds no label, but b' \\n' \(expected one line"),
    "two lines": ({"0.mp4": VIDEO, "0.cls": b"4\n5"}, r"0.cls holds no label, but b'4\\n5' .*: write one number or"),
    "UTF-16": ({"0.mp4": VIDEO, "0.cls": "4".encode("utf-16")}, "0.cls holds no label, but"),
    "a list": (
        {"0.mp4": VIDEO, "0.json": as_json([4])},
        r"0.json holds no label, .*\(a list is not a number or a name",
    ),
    "a dict": ({"0.mp4": VIDEO, "0.json": as_json({"id": 4})}, r"0.json holds no label, .*\(a dict is not a number"),
    "broken JSON": ({"0.mp4": VIDEO, "0.json": b'{"label": 4'}, "0.json holds no label"),
    "deep JSON": ({"0.mp4": VIDEO, "0.json": b"[" * 100_000}, "0.json holds no label"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_refused_at_the_start_on_the_disk_and_streamed(tmp_path, case):
    members, message = FAULTS[case]
    file = write_tar(tmp_path / "x.tar", members)
    for source in (file, put(file)):
        with pytest.raises(ValueError, match=f"x.tar.*: {message}"):
            open_corpus(source)


def test_a_member_that_was_appended_a_second_time_is_a_fault(tmp_path):
    write_tar(tmp_path / "x.tar", {"0.mp4": VIDEO, "0.cls": b"4", "1.mp4": VIDEO})
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        entry = tarfile.TarInfo("0.cls")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"5"))
    for source in (tmp_path / "x.tar", put(tmp_path / "x.tar")):
        with pytest.raises(ValueError, match=f"0.cls stands apart from the other members of its sample: {SORT}"):
            open_corpus(source)


def test_a_fault_later_in_a_stream_is_a_clip_that_is_refused(tmp_path):
    members = {f"{n}.{kind}": data for n in range(7) for kind, data in (("mp4", VIDEO), ("cls", b"%d" % n))}
    corpus = open_corpus(put(write_tar(tmp_path / "x.tar", members | {"6.json": as_json(5)})))
    *good, bad = streamed_clips(corpus)
    assert [clip.label for clip in good] == list(range(6)) and not any(clip.refused for clip in good)
    assert bad.path.endswith("x.tar::6.cls") and bad.data == b"" and bad.label == -1
    assert bad.refused.startswith("6.cls and 6.json belong to one sample and say '6' and 5: leave one label")


def test_a_sample_of_a_stream_is_bounded_in_memory(tmp_path, monkeypatch):
    file = write_tar(tmp_path / "x.tar", {f"2024.{n}.mp4": bytes(600) for n in range(4)} | {"3.mp4": bytes(5000)})
    monkeypatch.setattr("transformers_vjepa.data.tar_corpus._MAX_SAMPLE_BYTES", 1500)
    with pytest.raises(
        ValueError, match="the sample 2024 has 3 videos or images of 1800 bytes in total, more than 1500"
    ):
        open_corpus(put(file))
    assert len(open_corpus(file)) == 5  # the index of a tar on the disk holds no video
    single = write_tar(tmp_path / "single.tar", {"3.mp4": bytes(5000)})
    assert len(streamed_clips(open_corpus(put(single)))) == 1
    monkeypatch.setattr("transformers_vjepa.data.tar_corpus._MAX_VIDEO_BYTES", 4000)
    with pytest.raises(ValueError, match="3.mp4 has 5000 bytes, more than 4000: download the tar"):
        open_corpus(put(single))


def test_what_is_left_out_is_counted_and_named(tmp_path, caplog):
    members = {"0.mp4": VIDEO, "0.jpg": b"", "0.png": b"", "0.txt": b"", "1.mp4": VIDEO, "1.txt": b"", "2.cls": b"4"}
    members |= {"1.cls": b"1", "0.cls": b"1", "README": b""}
    file = write_tar(tmp_path / "left.tar", dict(sorted(members.items())))
    with tarfile.open(file, "a") as archive:
        link = tarfile.TarInfo("3.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "0.mp4"
        archive.addfile(link)
    assert labels_both_ways(file) == {"0.mp4": 1, "1.mp4": 1}
    said = Counter(record.getMessage().partition("left.tar: ")[2] for record in caplog.records)
    assert said == {
        "left out 2 .txt (such as 0.txt), 1 links, devices or sparse files (such as 3.mp4), "
        "1 without an extension (such as README)": 1,
        "left out 2 images beside a video (such as 0.jpg), 1 labels without a video or image (such as 2.cls)": 1,
        # Once for all tars of a stream.
        "left out .txt, links, devices or sparse files, without an extension": 1,
        "left out images beside a video, labels without a video or image": 1,
    }


def test_labels_that_are_names(tmp_path):
    members = {"0.mp4": VIDEO, "0.cls": b"walk", "1.mp4": VIDEO, "1.json": as_json("run"), "2.mp4": VIDEO}
    file = write_tar(tmp_path / "x.tar", members)
    corpus = open_corpus(file)
    assert corpus.labels.tolist() == [1, 0, -1] and corpus.class_names == ("run", "walk")
    streamed = open_corpus(put(file))
    assert streamed.class_names == ()
    assert [(clip.label, clip.refused) for clip in streamed_clips(streamed)] == [(-1, "")] * 3  # pretraining
    clips = streamed_clips(streamed, needs_label=True)
    assert [bool(clip.refused) for clip in clips] == [True, True, False]
    assert clips[0].refused.startswith(
        "its label 'walk' has no class: the names of a stream are only known at its end"
    )
    clips = streamed_clips(streamed.with_classes(["sit", "walk"].index), needs_label=True)
    assert [(clip.label, bool(clip.refused)) for clip in clips] == [(1, False), (-1, True), (-1, False)]
    write_tar(file, members | {"3.mp4": VIDEO, "3.json": as_json(3)})
    with pytest.raises(ValueError, match=r"x.tar has numbers \(3\) and names \('run'\) as labels"):
        open_corpus(file)
    write_tar(file, {"0.mp4": VIDEO, "0.json": as_json(True), "1.mp4": VIDEO, "1.json": as_json(False)})
    assert open_corpus(file).class_names == ("False", "True") and open_corpus(file).labels.tolist() == [1, 0]


def read_stream(file):
    return streamed_clips(StreamedTarCorpus([put(file)], name="stream"))


def test_tars_that_were_joined_with_cat_are_refused(tmp_path):
    one = write_tar(tmp_path / "one.tar", {"0.mp4": VIDEO}).read_bytes()
    (tmp_path / "both.tar").write_bytes(one + one)
    message = "goes on after its end mark at byte 1024, as tars do that were joined with cat"
    with pytest.raises(ValueError, match=f"both.tar {message}"):
        open_corpus(tmp_path / "both.tar")
    with pytest.raises(DamagedTarError, match=message):
        read_stream(tmp_path / "both.tar")


def test_a_damaged_header_does_not_end_a_streamed_tar(tmp_path):
    data = write_tar(tmp_path / "x.tar", {f"{n}.mp4": bytes(600) for n in range(4)}).read_bytes()
    second = data.index(b"1.mp4")
    for damaged in (data[:second] + b"x" * 30 + data[second + 30 :], data[: second + 100]):
        (tmp_path / "x.tar").write_bytes(damaged)
        with pytest.raises(DamagedTarError, match=f"is damaged or truncated at byte {second}"):
            read_stream(tmp_path / "x.tar")


def test_a_compressed_tar_is_refused_on_the_disk_and_streamed(tmp_path):
    with tarfile.open(tmp_path / "gz.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.mp4"), io.BytesIO())
    with pytest.raises(ValueError, match="cannot be read as an uncompressed tar"):
        open_corpus(tmp_path / "gz.tar")
    with pytest.raises(DamagedTarError, match="cannot be read as an uncompressed tar .*decompress it first"):
        read_stream(tmp_path / "gz.tar")


def test_an_open_address_is_a_file(tmp_path):
    with open_address(put(write_tar(tmp_path / "x.tar", {"0.mp4": VIDEO}))) as file:
        assert file.read(5) == b"0.mp4"
