import pickle

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Video, load_dataset
from videos import write_tar

from transformers_vjepa.data.corpora import is_corpus, open_corpus
from transformers_vjepa.data.corpus import SubsetCorpus
from transformers_vjepa.data.file_corpus import FileCorpus

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
    monkeypatch.setattr("transformers_vjepa.data.corpora.load_dataset", None)
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
