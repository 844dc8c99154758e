from pathlib import Path

import pytest

from transformers_vjepa.data.corpora import open_corpus

NAMES = [f"{number}.mp4" for number in range(6)]


def contents(corpus):
    return [corpus.read(index) for index in range(len(corpus))]


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


def write_files(folder, **contents):
    """Files by name, with `/` written as `__` and `.` as `_`."""
    for name, content in contents.items():
        file = folder / name.replace("__", "/").replace("_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def test_files_that_are_left_out_are_counted_and_named_once(tmp_path, caplog):
    write_files(tmp_path, a__1_mp4=b"", a__2_heic=b"", a__3_HEIC=b"", notes__x_txt=b"", b__4_mts=b"", README=b"")
    for _ in range(2):
        assert open_corpus(tmp_path).class_names == ("a", "b")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert (
        "4 files are left out, because they are not images or videos that can be read: 2 .heic, 1 without an "
        "extension, 1 .txt, such as README, among them all of notes; convert or unpack those of 2 .heic to use them"
    ) in record.message


@pytest.mark.parametrize("lost", [".mxf", ".heic", ".zip", ".npy", ".jxl"])
def test_a_class_of_files_that_cannot_be_read_is_refused(tmp_path, lost):
    write_files(tmp_path, walk__1_mp4=b"", run__2_mp4=b"")
    (tmp_path / "run/2.mp4").rename(tmp_path / f"run/2{lost}")
    message = rf"holds only files that cannot be read \(1 \{lost}\) in run: .* these classes would be lost"
    with pytest.raises(ValueError, match=message):
        open_corpus(tmp_path)


def test_a_folder_without_left_out_files_says_nothing(tmp_path, caplog):
    write_files(tmp_path, a__1_mp4=b"", b__2_m2ts=b"", b___DS_Store=b"")
    assert len(open_corpus(tmp_path)) == 2
    assert caplog.records == []


def test_typescript_and_sound_are_left_out_by_their_content(tmp_path, caplog):
    sound = b"OggS\0\2" + bytes(22) + b"\1\x1e\1vorbis"
    theora = b"OggS\0\2" + bytes(22) + b"\1\x2a\x80theora"
    stream = b"G@\0\x10" + b"\xff" * 184
    write_files(tmp_path, a_ts=b"import x from 'y'\n", b_ts=stream, c_ogg=sound, d_ogg=theora, e_ts=b"")
    corpus = open_corpus(tmp_path)
    assert [Path(corpus.describe(index)).name for index in range(len(corpus))] == ["b.ts", "d.ogg", "e.ts"]
    assert "2 files are left out, because they are not images or videos that can be read: 1 .ts, 1 .ogg" in caplog.text


def test_the_query_of_an_address_is_not_its_extension(tmp_path):
    (tmp_path / "index.csv").write_text("https://host/a.png?size=1 0\nzip://b.JPG::https://host/x.zip 0\n")
    assert [clip.is_image for clip in contents(open_corpus(tmp_path / "index.csv"))] == [True, True]


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


def test_index_with_names_of_classes(tmp_path):
    (tmp_path / "named.csv").write_text('file,label\nsub/a b.mp4,walking fast\n"c.mp4", running\nd.avi,walking fast\n')
    corpus = open_corpus(str(tmp_path / "named.csv"))
    assert corpus.class_names == ("running", "walking fast")
    assert corpus.labels.tolist() == [1, 0, 1]
    assert [corpus.describe(index) for index in range(3)] == [
        str(tmp_path / name) for name in ("sub/a b.mp4", "c.mp4", "d.avi")
    ]
