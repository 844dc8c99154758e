import json

import pytest

from transformers_vjepa.data.labels import LabelError, find_class_names, public_class_names, read_class_names


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
        ("walk\nrun\n", "names 2 classes, the model has 3: pass its data set's file"),
        ("walk\nrun\nwalk\n", "names classes twice: walk"),
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
