"""The labels of tables: which class a label is, whatever the type of its column and the file it stands in."""

import io
import re

import fsspec
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset

from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.labels import match_classes


def table(labels):
    return pa.table({"video": pa.array([b"video"] * len(labels)), "label": labels})


def write(folder, *tables):
    for number, part in enumerate(tables):
        pq.write_table(part, folder / f"{number}.parquet", row_group_size=2)
    return str(folder / "*.parquet")


def class_labels(names, labels):
    """A table as `datasets` writes a `ClassLabel`."""
    features = Features({"video": Value("binary"), "label": ClassLabel(names=names)})
    rows = {"video": [b"video"] * len(labels), "label": labels}
    return (
        Dataset.from_dict(rows, features=features)
        .with_format("arrow")[:]
        .replace_schema_metadata(features.arrow_schema.metadata)
    )


def labels_of(source):
    corpus = open_corpus(source)
    assert [corpus.read(index).label for index in range(len(corpus))] == corpus.labels.tolist()
    return corpus.labels.tolist(), corpus.class_names


COLUMNS = {
    "int8": (pa.array([3, 0, None], pa.int8()), [3, 0, -1], ()),
    "uint64": (pa.array([3, 0, None], pa.uint64()), [3, 0, -1], ()),
    "whole floats": (pa.array([3.0, 0.0, None, float("nan")]), [3, 0, -1, -1], ()),
    "other floats": (pa.array([2.5, 0.5, None]), [1, 0, -1], ("0.5", "2.5")),
    "booleans": (pa.array([True, False, None]), [1, 0, -1], ("False", "True")),
    "numbers as text": (pa.array(["10", " 9", "3.0", "", None]), [10, 9, 3, -1, -1], ()),
    "numbers and names as text": (pa.array(["1", "none", "02", None]), [0, 2, 1, -1], ("1", "2", "none")),
    "names": (pa.array(["walk", "run", "walk ", None]), [1, 0, 1, -1], ("run", "walk")),
    "large text": (pa.array(["walk", "run"], pa.large_string()), [1, 0], ("run", "walk")),
    "a dictionary": (pa.array(["walk", "run", None]).dictionary_encode(), [1, 0, -1], ("run", "walk")),
    "no label": (pa.array([None, None], pa.int64()), [-1, -1], ()),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_labels_by_the_type_of_their_column(tmp_path, case):
    column, labels, names = COLUMNS[case]
    assert labels_of(write(tmp_path, table(column))) == (labels, names)


def test_class_labels_keep_their_order(tmp_path):
    parts = [class_labels(["walk", "run", "sit"], [0, 2, None]), class_labels(["walk", "run", "sit"], [2, 0, -1])]
    assert labels_of(write(tmp_path, *parts)) == ([0, 2, -1, 2, 0, -1], ("walk", "run", "sit"))


def test_class_labels_of_several_files_are_matched_by_name(tmp_path):
    parts = [class_labels(["walk", "run"], [0, 1]), class_labels(["run", "sit", "walk"], [0, 1, 2])]
    assert labels_of(write(tmp_path, *parts)) == ([2, 0, 0, 1, 2], ("run", "sit", "walk"))
    parts[1] = table(pa.array(["run", "sit", None]))
    assert labels_of(write(tmp_path, *parts)) == ([2, 0, 0, 1, -1], ("run", "sit", "walk"))


def test_names_of_class_labels_that_are_numbers_are_these_numbers(tmp_path):
    in_place = class_labels(["0", "1", "2"], [0, 2])
    assert labels_of(write(tmp_path, in_place)) == ([0, 2], ("0", "1", "2"))
    # As `class_encode_column` sorts them.
    sorted_as_text = class_labels(sorted(map(str, range(12))), [0, 1, 2, 3, 4])
    assert labels_of(write(tmp_path, sorted_as_text)) == ([0, 1, 10, 11, 2], ())
    stream = open_corpus(load_dataset("parquet", data_files=str(tmp_path / "0.parquet"), streaming=True)["train"])
    rows = [stream.encoded(row, where="") for row in stream.lane(0, lanes=1)[0]]
    assert [clip.label for clip in rows] == [0, 1, 10, 11, 2] and stream.class_names == ()


def test_labels_that_cannot_be_one_data_set_are_refused(tmp_path):
    numbers = table(pa.array([0, 1]))
    with pytest.raises(ValueError, match=r"0.parquet has numbers \(0\) and names \('run'\) as labels"):
        open_corpus(write(tmp_path, numbers, class_labels(["walk", "run"], [0, 1])))
    with pytest.raises(ValueError, match=r"0.parquet has numbers \(0\) and names \('9223372036854775808'\)"):
        open_corpus(write(tmp_path, table(pa.array([0, 2**63], pa.uint64())), numbers))
    broken = class_labels(["walk", "run"], [0, 1]).set_column(1, "label", pa.array([0, 2]))
    broken = broken.replace_schema_metadata(class_labels(["walk", "run"], [0]).schema.metadata)
    with pytest.raises(ValueError, match="0.parquet has the label 2 and 2 classes: correct one of them"):
        open_corpus(write(tmp_path, broken, numbers))


def test_columns_that_are_not_used_are_named(tmp_path, caplog):
    columns = {"label": pa.array([[3], [4]]), "target": pa.array([3, 4]), "caption": pa.array(["a", "b"])}
    pq.write_table(pa.table({"video": pa.array([b"x", b"y"])} | columns), tmp_path / "0.parquet")
    assert labels_of(tmp_path / "0.parquet") == ([-1, -1], ())
    assert (
        "0.parquet has no labels: no column label, labels, cls with numbers or names. Not used are label (list), "
        "target (int64), caption (string): name the column with the labels (label_column), or rename it to label"
        in caplog.text
    )


def rows_of(corpus, **kwargs):
    return [corpus.encoded(row, where="row", **kwargs) for row in corpus.lane(0, lanes=1)[0]]


def test_data_sets_in_memory_have_the_classes_of_files(tmp_path):
    for labels, classes, names in (
        (["walk", "run", None], [1, 0, -1], ("run", "walk")),
        (["10", "9", "3.0"], [10, 9, 3], ()),
        ([2.0, 0.0], [2, 0], ()),
        ([True, False], [1, 0], ("False", "True")),
        (["1", "none", "02"], [0, 2, 1], ("1", "2", "none")),
    ):
        corpus = open_corpus(Dataset.from_dict({"video": [b"video"] * len(labels), "label": labels}))
        assert corpus.labels.tolist() == classes and corpus.class_names == names
        assert [corpus.read(index).label for index in range(len(corpus))] == classes


def test_names_in_a_stream_are_refused_where_labels_are_needed():
    dataset = Dataset.from_dict({"video": [b"video"] * 2, "label": ["walk", "run"]}).to_iterable_dataset()
    corpus = open_corpus(dataset)
    assert [clip[1:] for clip in rows_of(corpus)] == [(-1, b"video", False, "")] * 2
    for clip, name in zip(rows_of(corpus, needs_label=True), ("walk", "run"), strict=True):
        assert clip.refused.startswith(f"its label '{name}' has no class: the names of a stream are only known at its")
        assert clip.refused.endswith("download the data set, or number its labels (a ClassLabel column)")


def test_a_stream_of_files_that_name_their_classes_differently_is_refused(tmp_path):
    memory = fsspec.filesystem("memory")
    for number, names in enumerate((["walk", "run"], ["walk", "run"], ["run", "walk"])):
        write(tmp_path, class_labels(names, [0, 1]))
        memory.pipe(f"memory://orders/{number}.parquet", (tmp_path / "0.parquet").read_bytes())
    with pytest.raises(ValueError, match="orders/2.parquet names the classes of label differently than .*0.parquet"):
        open_corpus("memory://orders/{0..2}.parquet")
    corpus = open_corpus("memory://orders/{0..1}.parquet")
    assert corpus.class_names == ("walk", "run") and [clip.label for clip in rows_of(corpus)] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "names, by, labels, classes",
    [
        (["walk", "run"], "name", ["Run", "walk", "1"], [1, 0, 1]),
        (["1", "2", "none"], "name", ["02", "none", "1"], [1, 2, 0]),
        (["0", "5", "11"], "name", [11, 5, 0], [2, 1, 0]),
        (["LABEL_0", "LABEL_1"], "name", [1, 0, 1], [1, 0, 1]),
        (["walk", "run"], "number", ["1", "0", None], [1, 0, -1]),
    ],
)
def test_labels_of_a_stream_are_matched_one_by_one(names, by, labels, classes):
    stream = Dataset.from_dict({"video": [b"video"] * 3, "label": labels}).to_iterable_dataset()
    corpus, mapping = match_classes(open_corpus(stream), names, by=by)
    clips = rows_of(corpus, needs_label=True)
    assert [clip.label for clip in clips] == classes and not any(clip.refused for clip in clips)
    assert mapping == {number: number for number in range(len(names))}


@pytest.mark.parametrize(
    "label, reason", [("sit", "the model does not have"), (2, r"the model has 2 classes \(numbers 0")]
)
def test_labels_of_a_stream_that_the_model_does_not_have_are_refused(label, reason):
    stream = Dataset.from_dict({"video": [b"video"], "label": [label]}).to_iterable_dataset()
    corpus, _ = match_classes(open_corpus(stream), ["walk", "run"])
    (clip,) = rows_of(corpus, needs_label=True)
    assert clip.label == -1 and re.search(f"its label '{label}' has no class: {reason}", clip.refused)


def test_a_label_column_by_name_as_in_cifar100(tmp_path):
    png = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), (200, 10, 10)).save(png, "png")
    fine, coarse = ClassLabel(names=["apple", "bee", "cat"]), ClassLabel(names=["food", "animal"])
    features = Features({"img": Image(), "fine_label": fine, "coarse_label": coarse})
    rows = {"img": [{"bytes": png.getvalue(), "path": None}] * 3, "fine_label": [2, 0, 1], "coarse_label": [1, 0, 1]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    source = tmp_path / "train.parquet"
    corpus = open_corpus(source, label_column="fine_label")
    assert corpus.labels.tolist() == [2, 0, 1] and corpus.class_names == ("apple", "bee", "cat")
    assert corpus.read(0).is_image and corpus.read(0).label == 2
    assert open_corpus(source, label_column="coarse_label").labels.tolist() == [1, 0, 1]
    assert open_corpus(source).labels.tolist() == [-1, -1, -1]
    streamed = load_dataset("parquet", data_files=str(source), streaming=True, split="train")
    assert open_corpus(streamed, label_column="fine_label").class_names == ("apple", "bee", "cat")
    with pytest.raises(ValueError, match="has no label column 'fine': choose one of img, fine_label, coarse_label"):
        open_corpus(source, label_column="fine")
    with pytest.raises(ValueError, match="the label column 'img' of .* holds image: choose a column of numbers or"):
        open_corpus(source, label_column="img")
