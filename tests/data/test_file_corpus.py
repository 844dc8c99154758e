import os
from pathlib import Path

import pytest
from small_corpora import contents

from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.file_corpus import frame_folders

NAMES = [f"{number}.mp4" for number in range(6)]


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
    with pytest.raises(ValueError, match=r"mixed.csv has numbers \(1\) and names \('walking'\) as labels: use one"):
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


def test_index_with_names_of_classes(tmp_path):
    (tmp_path / "named.csv").write_text('file,label\nsub/a b.mp4,walking fast\n"c.mp4", running\nd.avi,walking fast\n')
    corpus = open_corpus(str(tmp_path / "named.csv"))
    assert corpus.class_names == ("running", "walking fast")
    assert corpus.labels.tolist() == [1, 0, 1]
    assert [corpus.describe(index) for index in range(3)] == [
        str(tmp_path / name) for name in ("sub/a b.mp4", "c.mp4", "d.avi")
    ]


def entries(index):
    """Path relative to the index, and label or name, of each clip."""
    corpus = open_corpus(index)
    names = [corpus.class_names[label] if corpus.class_names and label >= 0 else label for label in corpus.labels]
    paths = [corpus.read(number).data for number in range(len(corpus))]
    return [(path.removeprefix(f"{index.parent}/"), name) for path, name in zip(paths, names, strict=True)]


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        *[("a.mp4,level 1", "a.mp4", "level 1"), ("a.mp4,3.0", "a.mp4", 3), ('"a.mp4","3"', "a.mp4", 3)],
        *[
            ("a.mp4 03", "a.mp4", 3),
            ("a.mp4\t3", "a.mp4", 3),
            ("a.mp4;walk", "a.mp4", "walk"),
            ("a.mp4,", "a.mp4", -1),
        ],
        *[("a.mp4\twalk fast", "a.mp4", "walk fast"), ("a.mp4, walk ", "a.mp4", "walk"), ("a.mp4,-1", "a.mp4", -1)],
        *[("a, b.mp4 3", "a, b.mp4", 3), ("a, b.mp4,walk", "a, b.mp4", "walk"), ("a;b.mp4,1;2", "a;b.mp4", "1;2")],
        *[('a.mp4,"run, fast"', "a.mp4", "run, fast"), ('"a, 1.mp4"; "run"', "a, 1.mp4", "run")],
        *[('"a.mp4" , "run"', "a.mp4", "run"), ('"a b.mp4" 3', "a b.mp4", 3), ('"a, b.mp4"', "a, b.mp4", -1)],
        *[('"a ""b"".mp4",run', 'a "b".mp4', "run"), ('the "b".mp4 3', 'the "b".mp4', 3)],
        *[("x 2.mp4", "x 2.mp4", -1), ("a.mp4 4294967296", "a.mp4", 2**32), ("no_extension 3", "no_extension", 3)],
        *[
            ("https://h/a.mp4?s=1,2 3", "https://h/a.mp4?s=1,2", 3),
            ("https://h/a.mp4,level 1", "https://h/a.mp4", "level 1"),
        ],
        *[
            ("https://h/v?id=1 3", "https://h/v?id=1", 3),
            ("a.mp4,True", "a.mp4", "True"),
            ("a.mp4,1e3", "a.mp4", "1e3"),
        ],
        *[
            ("frames/c 0,walk", "frames/c 0", "walk"),
            ("frames/c 0 3", "frames/c 0", 3),
            ("frames/c 0", "frames/c 0", -1),
        ],
    ],
)
def test_lines_of_an_index(tmp_path, line, path, label):
    (tmp_path / "frames" / "c 0").mkdir(parents=True)
    index = tmp_path / "index.csv"
    index.write_text(line + "\n")
    assert entries(index) == [(path, label)]
    index.write_text(f"{line}\r\n{line}\r\n", encoding="utf-16", newline="")
    assert entries(index) == [(path, label)] * 2


@pytest.mark.parametrize(
    "line",
    [
        *[
            "a.mp4,walk,3",
            "a.mp4 walking",
            "3,a.mp4",
            "walk,a.mp4",
            "frames/lost,walk",
            "a.mp4,run, fast",
            "a.xyz,level 1",
        ],
        *["a.mp4 3.5", '"a.mp4', 'a.mp4,"walk', "clip0,walk", "# a remark"],
    ],
)
def test_lines_that_could_mean_something_else_are_refused(tmp_path, line):
    (tmp_path / "index.csv").write_text(f"{line}\nb.mp4,1\n")
    with pytest.raises(ValueError, match="index.csv, line 1: .* has none of the formats 'path label'"):
        open_corpus(tmp_path / "index.csv")


@pytest.mark.parametrize(
    "header",
    [
        *[
            "path,label",
            "video_path label",
            "filename;class",
            '"path","label"',
            "Video Name,Class ID",
            "videoPath\tclassName",
        ],
        *["#path,label", "file", "label", "VIDEO,LABEL,comment", "\npath,label"],
    ],
)
def test_headers(tmp_path, header):
    (tmp_path / "path").mkdir()  # a file or folder with the name of a column does not make the header a clip
    (tmp_path / "index.csv").write_text(f"{header}\na.mp4,walk\nb.mp4,run\n")
    assert entries(tmp_path / "index.csv") == [("a.mp4", "walk"), ("b.mp4", "run")]


def test_names_that_are_not_utf8_are_escaped(tmp_path):
    (tmp_path / "index.csv").write_bytes("café.mp4,café\nb.mp4,bar\n".encode("cp1252"))
    corpus = open_corpus(tmp_path / "index.csv")
    assert corpus.class_names == ("bar", r"caf\xe9")
    assert corpus.describe(0) == str(tmp_path / "caf\udce9.mp4")  # the file has these bytes


def folder_of(root, *files):
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(
    ("folders", "names", "labels"),
    [
        ("b a c", ("a", "b", "c"), [0, 1, 2]),
        ("0 1 2 10 9 3 4 5 6 7 8", tuple(map(str, range(11))), [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("00 01 02", ("00", "01", "02"), [0, 1, 2]),
        ("0 5 11", (), [0, 11, 5]),
        ("1 2", (), [1, 2]),
        ("2023 2024 misc", ("2023", "2024", "misc"), [0, 1, 2]),
        ("20231231235959123456 b", ("20231231235959123456", "b"), [0, 1]),
        ("bus car train", ("bus", "car", "train"), [0, 1, 2]),
    ],
)
def test_classes_of_folders(tmp_path, folders, names, labels):
    corpus = open_corpus(folder_of(tmp_path, *(f"{name}/1.mp4" for name in folders.split())))
    assert tuple(corpus.class_names) == names
    assert corpus.labels.tolist() == labels  # of the files in the order of their paths


def test_splits_are_not_classes(tmp_path, caplog):
    corpus = open_corpus(folder_of(tmp_path, "train/walk/1.mp4", "Val/walk/2.mp4"))
    assert corpus.labels.tolist() == [-1, -1] and corpus.class_names == ()
    assert "has the first-level folders Val, train, which are splits and not classes: its clips have no" in caplog.text
    assert open_corpus(tmp_path / "train").class_names == ("walk",)


def test_folders_of_the_system_are_no_classes(tmp_path, caplog):
    places = ["@eaDir/1.mp4", "$RECYCLE.BIN/1.mp4", "lost+found/1.mp4", "__MACOSX/a/1.mp4", "a/@eaDir/1.mp4"]
    places += ["@Recently-Snapshot/1.mp4", "LOST.DIR/1.mp4", "a/@Transcode/1.mp4"]
    folder_of(tmp_path, *places, "System Volume Information/1.mp4", ".ipynb_checkpoints/1.mp4", "a/1.mp4", "b/1.mp4")
    corpus = open_corpus(tmp_path)
    assert corpus.class_names == ("a", "b") and len(corpus) == 2
    assert "9 folders of the system are skipped, such as $RECYCLE.BIN, @Recently-Snapshot, @eaDir" in caplog.text


def test_folders_that_cannot_be_read_end_with_an_error(tmp_path, monkeypatch):
    folder_of(tmp_path, "a/1.mp4", "b/1.mp4")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="Permission denied.*/b"):
        open_corpus(tmp_path)


def test_links_that_lead_nowhere_end_with_an_error_where_they_may_be_folders(tmp_path):
    folder_of(tmp_path, "a/1.mp4", "b/1.mp4")
    (tmp_path / "a" / "2.mp4").symlink_to("/nowhere/2.mp4")
    assert len(open_corpus(tmp_path)) == 3
    (tmp_path / "c").symlink_to("/nowhere/c")
    with pytest.raises(FileNotFoundError, match="/c is a link to /nowhere/c, which does not exist.*: mount its disk"):
        open_corpus(tmp_path)


def images_of(root, *folders, names=tuple(f"{number:04d}.jpg" for number in range(1, 13))):
    return folder_of(root, *(f"{folder}/{name}" for folder in folders for name in names))


def test_frames_of_videos_are_noted(tmp_path, caplog):
    corpus = open_corpus(images_of(tmp_path, "walk/c0", "walk/c1", "run/c0/rgb", "run/c1/rgb"))
    assert len(corpus) == 48 and corpus.class_names == ("run", "walk")
    assert frame_folders(corpus) == [
        str(tmp_path / name) for name in ("run/c0/rgb", "run/c1/rgb", "walk/c0", "walk/c1")
    ]
    assert "4 folders, such as run/c0/rgb, hold numbered images, as the frames of a video do" in caplog.text
    index = tmp_path / "index.csv"
    index.write_text("walk/c0,walk\nrun/c1/rgb,run\n")
    assert entries(index) == [("walk/c0", "walk"), ("run/c1/rgb", "run")]


@pytest.mark.parametrize("name", ["frame_{:04d}.jpg", "c0-Frames{}.png", "frame{}.jpg"])
def test_images_that_are_called_frames_are_noted(tmp_path, caplog, name):
    corpus = open_corpus(images_of(tmp_path, "c0", "c1", names=[name.format(number) for number in range(6)]))
    assert frame_folders(corpus) == [str(tmp_path / "c0"), str(tmp_path / "c1")]
    assert "2 folders, such as c0, hold numbered images, as the frames of a video do" in caplog.text


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (("walk", "run"), [f"picture_frame_shop{number}.jpg" for number in range(20)]),
        (("walk", "run"), ["frame_1.jpg"]),
        (("walk", "run"), [f"{number}.jpg" for number in range(20)]),  # photographs of a class
        (("walk/images", "run/images"), [f"walk_{number}.jpg" for number in range(20)]),
        (("walk/a", "walk/b"), [f"{number}.jpg" for number in (3, 17, 18, 40, 77, 81, 95, 96, 120)]),
        (("walk/a", "walk/b"), [f"{name}.jpg" for name in "abcdefghijk"]),
        (("walk/a", "walk/b"), [f"{number}.jpg" for number in range(7)]),
        (("walk/a", "walk/b"), [f"{number}.mp4" for number in range(20)]),
    ],
)
def test_images_that_are_not_frames(tmp_path, caplog, folders, names):
    assert frame_folders(open_corpus(images_of(tmp_path, *folders, names=names))) == []
    assert "frames" not in caplog.text
