"""CLEVR as classification: the classes of hand-made scenes, and the index files."""

import json

import pytest
from PIL import Image

from transformers_vjepa.commands import index_clevr as command
from transformers_vjepa.data.clevr import ClevrError, index_clevr, scene_classes
from transformers_vjepa.data.corpora import open_corpus


def scene(*distances, name="a.png"):
    return {"image_filename": name, "objects": [{"pixel_coords": [10, 20, distance]} for distance in distances]}


@pytest.fixture
def clevr(tmp_path):
    """Three training scenes and one validation scene, with their images."""
    root = tmp_path / "CLEVR_v1.0"
    scenes = {
        "train": [
            scene(12.0, 8.2, 11.0, name="CLEVR_train_000000.png"),
            scene(10.1, 10.2, 10.3, 30.0, name="CLEVR_train_000001.png"),
            scene(7.0, 9.0, 9.9, name="CLEVR_train_000002.png"),
        ],
        "val": [scene(*[9.6] * 10, name="CLEVR_val_000000.png")],
    }
    (root / "scenes").mkdir(parents=True)
    for split, found in scenes.items():
        (root / "images" / split).mkdir(parents=True)
        (root / "scenes" / f"CLEVR_{split}_scenes.json").write_text(json.dumps({"info": {}, "scenes": found}))
        for item in found:
            Image.new("RGB", (48, 32)).save(root / "images" / split / item["image_filename"])
    return root


@pytest.mark.parametrize(
    "nearest, name",
    [
        (0.1, "0.0 to 8.0"),
        (8.0, "0.0 to 8.0"),  # a bound belongs to the class below
        (8.01, "8.0 to 8.5"),
        (8.5, "8.0 to 8.5"),
        (9.0, "8.5 to 9.0"),
        (9.5, "9.0 to 9.5"),
        (10.0, "9.5 to 10.0"),
        (10.01, "above 10.0"),
        (100.0, "above 10.0"),
    ],
)
def test_the_class_of_a_distance_is_that_of_the_closest_object(nearest, name):
    assert scene_classes(scene(100.0, nearest, 100.0)) == {"count": "3", "dist": name}


@pytest.mark.parametrize(
    "wrong, message",
    [
        (scene(8.0, 9.0), "a scene has 2 objects: scenes of CLEVR have 3 to 10"),
        (scene(*[8.0] * 11), "a scene has 11 objects"),
        (scene(0.0, 9.0, 9.0), r"the distance 0: it must lie in \(0, 100\]"),
        (scene(101.0, 102.0, 103.0), r"the distance 101: it must lie in \(0, 100\]"),
        ({"image_filename": "a.png"}, "no usable objects with pixel_coords .KeyError: 'objects'"),
        ({"objects": [{"shape": "cube"}]}, "no usable objects with pixel_coords .KeyError: 'pixel_coords'"),
        ({"objects": [{"pixel_coords": [1, 2]}]}, "no usable objects with pixel_coords .IndexError"),
    ],
)
def test_other_scenes_than_those_of_clevr_are_refused(wrong, message):
    with pytest.raises(ClevrError, match=message):
        scene_classes(wrong)


def test_the_index_files_are_data_sets(clevr, tmp_path):
    written = index_clevr(clevr, tmp_path / "index")
    assert [index.path.name for index in written] == [
        "count_train.csv",
        "dist_train.csv",
        "count_val.csv",
        "dist_val.csv",
    ]
    assert [dict(index.classes) for index in written[:2]] == [
        {"3": 2, "4": 1},
        {"0.0 to 8.0": 1, "8.0 to 8.5": 1, "above 10.0": 1},
    ]
    count, dist = (open_corpus(tmp_path / "index" / f"{task}_train.csv") for task in ("count", "dist"))
    assert count.labels.tolist() == [3, 4, 3]
    assert [dist.class_names[label] for label in dist.labels] == ["8.0 to 8.5", "above 10.0", "0.0 to 8.0"]
    assert dist.read(2).is_image and dist.describe(2).endswith("images/train/CLEVR_train_000002.png")
    first = (tmp_path / "index" / "dist_train.csv").read_bytes()
    index_clevr(clevr, tmp_path / "index", splits=["train"])
    assert (tmp_path / "index" / "dist_train.csv").read_bytes() == first


def test_the_command_says_what_it_wrote(clevr, tmp_path, capsys):
    command.run([str(clevr), "--output_dir", str(tmp_path / "index"), "--splits", "val"])
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/index/count_val.csv   1 images (10: 1)",
        f"{tmp_path}/index/dist_val.csv   1 images (9.5 to 10.0: 1)",
    ]
    assert sorted(file.name for file in (tmp_path / "index").iterdir()) == ["count_val.csv", "dist_val.csv"]


def test_incomplete_folders_end_with_one_line(clevr, tmp_path):
    def fails(message):
        with pytest.raises(SystemExit, match=message):
            command.run([str(clevr), "--output_dir", str(tmp_path / "index")])
        assert not (tmp_path / "index").exists()

    scenes = clevr / "scenes" / "CLEVR_train_scenes.json"
    (clevr / "images" / "train" / "CLEVR_train_000001.png").unlink()
    fails("error: 1 of 3 images are not in .*images/train, such as CLEVR_train_000001.png: unpack all")
    scenes.write_text(json.dumps({"scenes": [scene(9, 9, 9, name="b.png"), {"objects": []}]}))
    fails("error: .*CLEVR_train_scenes.json, scene 1, has no image_filename")
    scenes.write_text(json.dumps({"scenes": [scene(9.0, 9.0, name="b.png")]}))
    fails(r"error: .*CLEVR_train_scenes.json, scene 0 \(b.png\): a scene has 2 objects")
    scenes.write_text('{"scenes": [')
    fails("error: .*CLEVR_train_scenes.json has no list of scenes .JSONDecodeError.: unpack the file again")
    scenes.write_text('{"scenes": []}')
    fails("error: .*CLEVR_train_scenes.json has no list of scenes: unpack the file again")
    scenes.unlink()
    fails("error: .*CLEVR_train_scenes.json is missing: give the folder of the unpacked CLEVR_v1.0.zip")
