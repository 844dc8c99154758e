import json

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from transformers_vjepa import VJEPAConfig
from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.file_corpus import FileCorpus
from transformers_vjepa.data.labels import (
    LabelError,
    LabelMismatchError,
    align_labels,
    are_matched_by_name,
    find_class_names,
    model_class_names,
    public_class_names,
    read_class_names,
)


@pytest.mark.parametrize(
    "num_labels, data_set, named",
    [
        (400, "Kinetics-400", {0: "abseiling", 1: "air drumming", 399: "zumba"}),
        (
            174,
            "Something-Something v2",
            {
                0: "Approaching something with your camera",
                67: "Pretending to open something without actually opening it",
                109: "Putting something on a surface",
                173: "Wiping something off of something",
            },
        ),
        (1000, "ImageNet-1k", {0: "tench", 207: "golden retriever", 999: "toilet tissue"}),
        (205, "Places205", {0: "abbey", 5: "apartment_building_outdoor", 204: "yard"}),
    ],
)
def test_public_lists(num_labels, data_set, named):
    name, names = public_class_names(num_labels)
    assert name == data_set
    assert len(names) == len(set(names)) == num_labels
    assert {index: names[index] for index in named} == named


@pytest.mark.parametrize("num_labels", [400, 205])
def test_lists_numbered_alphabetically(num_labels):
    _, names = public_class_names(num_labels)
    assert names == sorted(names)


def test_unknown_numbers_of_classes_get_generic_names():
    assert public_class_names(7) is None
    names, source = find_class_names(3)
    assert names == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert source == "LABEL_0 to LABEL_2: no public list of 3 classes is known (name them with --labels FILE)"
    assert "the names of iNaturalist 2021 are not part of the package" in find_class_names(10000)[1]


@pytest.mark.parametrize(
    "content",
    [
        "walk\nrun, fast\nsit\n",
        json.dumps(["walk", "run, fast", "sit"]),
        json.dumps({"2": "sit", "0": "walk", "1": "run, fast"}),
        json.dumps({"walk": "0", "sit": 2, "run, fast": 1}),
    ],
)
def test_names_from_a_file(tmp_path, content):
    path = tmp_path / "labels"
    path.write_text(content)
    assert read_class_names(path, 3) == ["walk", "run, fast", "sit"]
    assert find_class_names(3, path) == (["walk", "run, fast", "sit"], f"from {path}")


@pytest.mark.parametrize(
    "content, message",
    [
        ("walk\nrun\n", "names 2 classes, 'walk' first, and there are 3: give one name for each class"),
        ("walk\nrun\nwalk\n", "names classes twice: 'walk'"),
        (json.dumps({"0": "walk", "1": "run", "3": "sit"}), "must have each of the ids 0 to 2 once"),
        (json.dumps({"walk": 0, "run": 1, "sit": 1}), "must have each of the ids 0 to 2 once"),
        (json.dumps({"walk": "a", "run": "b", "sit": "c"}), "maps neither ids to names nor names to ids"),
        ("3", "holds a int: expected a list, a dict or one name per line"),
    ],
)
def test_files_that_do_not_fit(tmp_path, content, message):
    path = tmp_path / "labels"
    path.write_text(content)
    with pytest.raises(LabelError, match=message):
        read_class_names(path, 3)


@pytest.mark.parametrize(
    "content",
    [
        "class\nwalk\nrun, fast\nsit\n",
        "0 walk\n1 run, fast\n2 sit\n",
        'id,name\n0,walk\n1,"run, fast"\n2,sit\n',
        '"name";"id"\r\n"sit";"2"\r\n"walk";"0"\r\n"run, fast";"1"\r\n',
        "1\trun, fast\n0\twalk\n2\tsit\n",
        'Label\n"walk"\n"run, fast"\n"sit"\n',
    ],
)
def test_header_and_ids_in_text(tmp_path, content):
    path = tmp_path / "labels.txt"
    path.write_text(content, newline="")
    assert read_class_names(path, 3) == ["walk", "run, fast", "sit"]
    path.write_text(content, encoding="utf-16", newline="")
    assert read_class_names(path, 3) == ["walk", "run, fast", "sit"]


def test_numbers_that_belong_to_names(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("level 3\nlevel 4\n10 pushups\n")
    assert read_class_names(path, 3) == ["level 3", "level 4", "10 pushups"]
    path.write_text("5\n7\n11\n")
    assert read_class_names(path, 3) == ["5", "7", "11"]


@pytest.mark.parametrize(
    "content, message",
    [
        (
            "walk\nrun\nsit\nstand\n",
            "names 4 classes, 'walk' first, and there are 3: give one name for each class",
        ),
        ("1 walk\n2 run\n3 sit\n", "must have each of the ids 0 to 2 once"),
        ("0,walk\n0,run\n1,sit\n2,stand\n", "has '0' twice: give each id and each name once"),
        ('{"0": "walk", "0": "run", "1": "sit", "2": "stand"}', "has '0' twice"),
        ("id,name\n", "names no classes"),
    ],
)
def test_files_in_which_names_may_shift(tmp_path, content, message):
    path = tmp_path / "labels"
    path.write_text(content)
    with pytest.raises(LabelError, match=message):
        read_class_names(path, 3)


def test_more_names_need_ids(tmp_path):
    path = tmp_path / "labels"
    path.write_text("0,walk\n1,run\n2,sit\n3,stand\n")
    assert read_class_names(path, 3, more_with_ids=True) == ["walk", "run", "sit", "stand"]
    path.write_text("walk\nrun\nsit\nstand\n")
    with pytest.raises(LabelError, match="names 4 classes"):
        read_class_names(path, 3, more_with_ids=True)


def test_names_that_are_not_utf8(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("café\nbar\n".encode("cp1252"))
    with pytest.raises(LabelError, match="labels.txt is not text in UTF-8 .*: convert it, for example with iconv"):
        read_class_names(path, 2)


# Classes of a data set and classes of a model

NAMES = ["kick", "hug", "push"]
GENERIC = ["LABEL_0", "LABEL_1", "LABEL_2"]


def corpus_of(*names, labels=None):
    labels = range(len(names)) if labels is None else labels
    return FileCorpus([f"{n}.mp4" for n, _ in enumerate(labels)], labels=labels, class_names=names)


@pytest.mark.parametrize(
    ("ours", "theirs", "classes"),
    [
        (["hug", "kick", "push"], NAMES, [1, 0, 2]),
        (["push"], NAMES, [2]),
        (["Air_Drumming", "dont push", "bee-keeping"], ["bee keeping", "air drumming", "dont  push!"], [1, 2, 0]),
        (["walk", "Walk"], ["Walk", "walk"], [1, 0]),
        (["C", "C++", "C#"], ["C#", "C", "C++"], [1, 2, 0]),
        (["turn (left)", "4:3", "-10_deg"], ["-10 deg", "Turn left", "4:3!"], [1, 2, 0]),
        (["café"], ["x", "CAFE\u0301"], [1]),
        (["1", "2", "none"], ["02", "1.0", "None"], [1, 0, 2]),
        (["LABEL_1"], GENERIC, [1]),
    ],
)
def test_labels_are_aligned_by_name(ours, theirs, classes):
    assert are_matched_by_name(corpus_of(*ours), theirs)
    assert align_labels(corpus_of(*ours), theirs) == dict(enumerate(classes))


@pytest.mark.parametrize(
    ("corpus", "theirs", "classes"),
    [
        (corpus_of(labels=[0, 2, -1]), NAMES, {0: 0, 2: 2}),
        (corpus_of(labels=[0, 2]), GENERIC, {0: 0, 2: 2}),
        (corpus_of("0", "1", "2", labels=[0, 2]), NAMES, {0: 0, 2: 2}),
        (corpus_of("2", "0"), NAMES, {0: 2, 1: 0}),
        (corpus_of(labels=[11, 5]), ["0", "5", "11"], {5: 1, 11: 2}),
        (corpus_of("5", "0"), ["0", "5", "11"], {0: 1, 1: 0}),
        (corpus_of(labels=[2, 1]), ["1", "2", "none"], {1: 0, 2: 1}),
    ],
)
def test_numbers_are_values_of_numbered_names_and_else_class_numbers(corpus, theirs, classes):
    assert align_labels(corpus, theirs) == classes


@pytest.mark.parametrize(
    ("corpus", "theirs", "classes"),
    [
        (corpus_of("n01", "n02", "n03"), NAMES, {0: 0, 1: 1, 2: 2}),
        (corpus_of("x", "y"), GENERIC, {0: 0, 1: 1}),
        (corpus_of(labels=[5, 11]), ["0", "5", "11"], {5: 1, 11: 2}),
        (corpus_of(labels=[0, 1]), ["1", "2", "none"], {0: 0, 1: 1}),
    ],
)
def test_labels_are_aligned_by_number(corpus, theirs, classes):
    assert not are_matched_by_name(corpus, theirs, by="number")
    assert align_labels(corpus, theirs, by="number") == classes


@pytest.mark.parametrize(
    ("corpus", "theirs", "message"),
    [
        (
            corpus_of("hug", "jump", "run"),
            NAMES,
            "does not have 2 of 3 classes: 'jump', 'run'. It knows 'kick', 'hug', 'push'. Rename them, or, if both",
        ),
        (corpus_of(*[f"n{number}" for number in range(9)]), NAMES, "'n0', 'n1', 'n2', 'n3', 'n4' and 4 more"),
        # As many names as classes, and still not a match.
        (
            corpus_of("x", "y", "z"),
            GENERIC,
            r"The classes of the model have no names \('LABEL_0', .*\). Name them \(id2label in config.json\), or, if "
            r"both have the same order, match labels by number \(vjepa evaluate --label_matching number\)",
        ),
        (corpus_of(labels=[0, 3]), NAMES, r"has the label 3, the model 3 classes \(numbers 0 to 2\)"),
        (corpus_of("3", "0"), GENERIC, r"has the label 3, the model 3 classes \(numbers 0 to 2\)"),
        (corpus_of(labels=[0, 1]), ["0", "5", "11"], "does not have 1 of 2 classes: '1'. It knows '0', '5', '11'"),
        (corpus_of("crane"), ["crane", "hug", "crane"], "more than one class of these names: 'crane'"),
        (corpus_of("HUG"), ["hug", "Hug"], "more than one class of these names: 'HUG'"),
        (corpus_of("Hug", "hug"), NAMES, "'Hug' and 'hug' of the data set are one class of the model, 'hug'"),
        (corpus_of("C++"), ["C", "D"], r"does not have 1 of 1 classes: 'C\+\+'"),
    ],
)
def test_classes_that_do_not_match(corpus, theirs, message):
    with pytest.raises(LabelMismatchError, match=message):
        align_labels(corpus, theirs)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("-10 deg", "10 deg"),
        ("\u221210 deg", "10 deg"),
        ("tilt (-5)", "tilt (5)"),
        (".5 m", "5 m"),
        ("level 1.5", "level 1-5"),
        ("4:3", "4/3"),
        ("10 °C", "10 C"),
        ("a^b", "a b"),
        ("का", "कि"),
        ("👍", "👎"),
        ("+", "-"),
    ],
)
def test_signs_that_tell_names_apart(ours, theirs):
    for one, other in ((ours, theirs), (theirs, ours)):
        with pytest.raises(LabelMismatchError, match="does not have 1 of 1 classes"):
            align_labels(corpus_of(one), [other, "walk"])


def test_a_class_without_clips_may_be_missing_in_the_model():
    assert align_labels(corpus_of("hug", "jump", labels=[0, 0]), NAMES) == {0: 1}


def test_labels_of_streamed_data():
    features = Features({"video": Value("binary"), "label": ClassLabel(names=["push", "kick"])})
    corpus = open_corpus(Dataset.from_dict({"video": [b""], "label": [0]}, features=features).to_iterable_dataset())
    assert align_labels(corpus, NAMES) == {0: 2, 1: 0}
    features = Features({"video": Value("binary"), "label": Value("int64")})
    corpus = open_corpus(Dataset.from_dict({"video": [b""], "label": [5]}, features=features).to_iterable_dataset())
    assert align_labels(corpus, NAMES) == {0: 0, 1: 1, 2: 2}
    assert align_labels(corpus, ["0", "5", "11"]) == {0: 0, 5: 1, 11: 2}


def test_names_of_a_model_are_text():
    config = VJEPAConfig(id2label={0: "caf\udce9", 1: "\ud800"}, label2id={})
    assert model_class_names(config) == [r"caf\xe9", r"\ud800"]
