import io
import json
import tarfile

import pytest
from small_corpora import contents
from videos import write_tar

from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.tar_corpus import TarCorpus

NAMES = [f"{number}.mp4" for number in range(6)]


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
