"""Uploads and downloads over HTTP, as users do them: in separate processes with separate caches."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml
from hub_server import READER, WRITER, File, Repository, card_errors, serving
from safetensors.torch import load_file
from videos import write_video

TESTS = Path(__file__).parents[1]
SOURCES = TESTS.parent / "src"
#: The folder models/vjepa, which each repository gets as a whole.
CODE = {
    "clip_sampling.py",
    "clip_transforms.py",
    "configuration_vjepa.py",
    "decoding.py",
    "frame_table.py",
    "image_processing_vjepa.py",
    "media_files.py",
    "modeling_vjepa.py",
    "other_readers.py",
    "pyav_reader.py",
    "video_processing_vjepa.py",
    "video_reader.py",
}
SETTINGS = {"config.json", "preprocessor_config.json", "video_preprocessor_config.json"}
CHECKPOINT = {
    "model.safetensors",
    "optimizer.pt",
    "position.json",
    "preprocessor_config.json",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hub():
    with serving() as server:
        card = b"---\nlicense: cc-by-nc-4.0\nlibrary_name: transformers\n---\nConverted.\n"
        server.cards = {"bound": card}
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    write_video(root / "video.mp4", level=90)
    for name, level in (("bright", 220), ("dark", 20), ("grey", 120)):
        for number in range(6):
            write_video(root / "videos" / name / f"{number}.mp4", level=level + number)
    return root


def user(hub, folder, part, *, home=None, has_package=True, **environment):
    """Runs a part of hub_user.py. Returns its result, and everything that it printed."""
    python = sys.executable
    paths = [str(SOURCES), str(TESTS)]
    if not has_package:
        # The interpreter of the system: it finds installed packages, but not the package installed in place.
        python = str(Path(sys.base_prefix) / "bin" / "python3")
        paths = [sysconfig.get_path("purelib")]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "homes" / (home or part)),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths),
        "READER": READER,
        "WRITER": WRITER,
    }
    command = [python, str(TESTS / "hub_user.py"), part, str(folder)]
    done = subprocess.run(
        command, env=kept | settings | environment, capture_output=True, text=True, timeout=900, cwd=folder
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


@pytest.fixture(scope="module")
def pushed(hub, folder):
    seen, _ = user(hub, folder, "push_objects", HF_TOKEN=WRITER)
    (folder / "first").write_text(seen["first"])
    files = {
        path: File(data, is_lfs=path.endswith("s")) for path, data in hub.repositories["me/model"].files().items()
    }
    hub.repositories["me/gated"] = Repository("me", gated=True)
    hub.repositories["me/gated"].commit("main", files, "initial commit")
    return seen


def card_of(repository, path="README.md"):
    text = repository.files()[path].decode()
    assert card_errors(text) == []
    return yaml.safe_load(text.split("---\n")[1]), text


# Pushing


def test_each_object_is_uploaded_with_the_code(hub, pushed):
    expected = {
        "me/config": {"config.json"},
        "me/model": {"config.json", "model.safetensors"},
        "me/pretraining": SETTINGS | {"model.safetensors"},
        "me/classifier": SETTINGS | {"model.safetensors"},
        "me/private": SETTINGS | {"model.safetensors"},
        "me/saved": {"config.json", "model.safetensors", "video_preprocessor_config.json"},
    }
    for name, files in expected.items():
        assert set(hub.repositories[name].files()) == files | CODE | {".gitattributes", "README.md"}
        assert hub.repositories[name].private == (name == "me/private")
    config = json.loads(hub.repositories["me/config"].files()["config.json"])
    assert config["auto_map"]["AutoModel"] == "modeling_vjepa.VJEPAModel"


def test_a_stock_model_is_uploaded_without_code_and_used_by_its_name(hub, folder, pushed):
    seen, _ = user(hub, folder, "stock", HF_TOKEN=WRITER)
    files = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert set(hub.repositories["me/stock"].files()) == files | {".gitattributes"}
    assert "auto_map" not in json.loads(hub.repositories["me/stock"].files()["config.json"])
    data, text = card_of(hub.repositories["me/stock"])
    assert data["tags"] == ["ijepa", "image"] and 'pipeline("image-feature-extraction", model="me/stock")' in text
    assert seen["model"] == "IJepaModel" and seen["equal"] == [True, True] and seen["crop"] == 32
    assert yaml.safe_load(seen["base"].split("---\n")[1])["base_model"] == ["me/stock"]
    assert "me/model is not a stock I-JEPA model of the Hub, and there is no such file" in seen["lines"]["ours"]
    assert "there is no me/nothing on this machine or on the Hub" in seen["lines"]["nothing"]


def test_cards_of_objects_say_what_they_are(hub, pushed):
    data, text = card_of(hub.repositories["me/classifier"])
    assert data["pipeline_tag"] == "video-classification" and "license" not in data
    assert 'pipeline("video-classification", model="me/classifier"' in text
    data, _ = card_of(hub.repositories["me/model"])
    assert data == {
        "library_name": "transformers",
        "pipeline_tag": "feature-extraction",
        "tags": ["vjepa", "video", "small"],
    }


def test_unchanged_files_make_no_commit(hub, pushed):
    assert pushed["again"] == [pushed["first"]] * 2
    assert pushed["changed"] not in ("", pushed["first"])
    assert hub.repositories["me/classifier"].history[1:] == [
        "Upload VJEPAForVideoClassification",
        "Upload processor",
        "Upload processor",
        "Upload VJEPAForVideoClassification",
    ]


def test_local_folders_have_no_code(pushed):
    assert set(pushed["local"]) - {"README.md"} == {
        "config.json",
        "model.safetensors",
        "video_preprocessor_config.json",
    }
    assert not pushed["has_map"]


# Pulling


@pytest.fixture(scope="module")
def pulled(hub, folder, pushed):
    return user(hub, folder, "pull")


def test_pulls_the_same_and_old_revisions(pushed, pulled):
    seen, _ = pulled
    assert seen["pretraining"] == pushed["outputs"]["me/pretraining"]
    assert seen["old"] == pushed["outputs"]["me/classifier"]
    assert [new - old for new, old in zip(seen["new"]["logits"], seen["old"]["logits"], strict=True)] == pytest.approx(
        [1.0] * 3, abs=1e-5
    )
    assert seen["private"] == pushed["outputs"]["me/private"]
    assert all(name.startswith("transformers_vjepa.") for name in seen["old"]["modules"])


def test_private_repositories_stay_private(hub, pulled):
    seen, printed = pulled
    for name, line in seen["lines"].items():
        assert name == "gated" or (line.startswith("error: ") and "\n" not in line and "Traceback" not in line)
    for name in ("without", "other", "resume without", "resume other", "classify without", "classify other"):
        assert "there is no me/private on this machine or on the Hub, or it is private" in seen["lines"][name]
    for name in ("wrong", "resume wrong", "classify wrong", "push wrong"):
        assert "the Hub does not accept the token: log in again with hf auth login" in seen["lines"][name]
    assert seen["lines"]["push without"].startswith("error: no token for me/new: log in with hf auth login")
    assert "the token does not allow this with me/new" in seen["lines"]["push other"]
    assert "gated" in seen["lines"]["gated"]
    for token in (READER, WRITER, "hf_" + "nobodynobody"):
        assert token not in printed
    assert "me/new" not in hub.repositories


def test_loads_from_the_cache_when_offline(hub, folder, pushed, pulled):
    asked = sum(hub.requests.values())
    seen, _ = user(hub, folder, "offline", home="pull", HF_HUB_OFFLINE="1")
    assert seen == pushed["outputs"]["me/pretraining"]
    assert sum(hub.requests.values()) == asked


def test_loads_without_the_package(hub, folder, pushed):
    seen, _ = user(hub, folder, "without_package", has_package=False)
    assert len(seen["lines"]) == 2
    assert all("trust_remote_code=True" in line and "me/classifier" in line for line in seen["lines"])
    for name in ("pretraining", "classifier"):
        modules, expected = seen[name].pop("modules"), dict(pushed["outputs"][f"me/{name}"])
        expected.pop("modules")
        assert all(module.startswith("transformers_modules.me.") for module in modules)
        assert seen[name] == expected


# Training


@pytest.fixture(scope="module")
def trained(hub, folder, pushed):
    repository = hub.repositories["me/bound"] = Repository("me")
    files = dict(hub.repositories["me/pretraining"].trees[hub.repositories["me/pretraining"].branches["main"]])
    repository.commit("main", {**files, "README.md": File(hub.cards["bound"], is_lfs=False)}, "initial commit")
    return user(hub, folder, "train", HF_TOKEN=WRITER)


MODEL = {".gitattributes", "README.md", "model.safetensors", *CODE} | SETTINGS
PICTURES = {f"pictures/{name}.png" for name in ("curves", "features", "masks")}


@pytest.mark.parametrize(
    "strategy, prefixes, commits",
    [
        ("end", [], []),
        ("every_save", [], [2, 4]),
        ("checkpoint", ["last-checkpoint"], [2, 4]),
        ("all_checkpoints", ["checkpoint-2", "checkpoint-4"], [2, 4]),
    ],
)
def test_each_strategy_pushes_whole_commits(hub, folder, trained, strategy, prefixes, commits):
    repository = hub.repositories[f"me/{strategy}"]
    titles = [f"Training in progress, step {step}" for step in commits]
    # Without images, which are drawn at the end, the push of the last step leaves nothing to add.
    end = [] if commits and strategy != "checkpoint" else ["End of training"]
    assert repository.history == ["initial commit", *titles, *end]
    files = set(repository.files())
    checkpoints = {file for file in files if "checkpoint" in file}
    assert files - checkpoints == MODEL | (PICTURES if strategy == "checkpoint" else set())
    for prefix in prefixes:
        inside = {file.partition("/")[2] for file in checkpoints if file.startswith(f"{prefix}/")}
        assert inside >= CHECKPOINT and not any(file.endswith((".py", ".bin")) for file in inside)
    assert {file.partition("/")[0] for file in checkpoints} == set(prefixes)
    assert repository.private
    assert repository.files()["model.safetensors"] == (folder / "end" / "model.safetensors").read_bytes()


def test_the_card_tells_of_the_run(hub, folder, trained):
    data, text = card_of(hub.repositories["me/checkpoint"])
    assert data["license"] == "mit" and data["pipeline_tag"] == "feature-extraction" and "datasets" not in data
    assert "| steps | 4 |" in text and "| clips seen | 8 |" in text and "- `videos`" in text
    assert "hidden_size: 24" in text and "vjepa pretrain" in text
    links = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert set(links) == PICTURES
    first = hub.repositories["me/checkpoint"]
    early = next(tree for oid, tree in first.trees.items() if first.titles[oid].endswith("step 2"))
    assert "2 of 4: training continues" in early["README.md"].data.decode()
    for file in (folder / "checkpoint" / "README.md", folder / "probe" / "README.md"):
        assert file.is_file() and str(folder) not in file.read_text()


def test_resumes_from_the_hub_bit_equal(folder, trained):
    _, printed = trained
    straight, resumed = folder / "end", folder / "resumed"
    for name in ("model.safetensors", "checkpoint-4/model.safetensors"):
        ours, theirs = load_file(straight / name), load_file(resumed / name)
        assert ours.keys() == theirs.keys() and all(ours[key].equal(theirs[key]) for key in ours)
    assert not (resumed / "checkpoint-2").exists()
    assert (straight / "checkpoint-4" / "position.json").read_text() == (
        resumed / "checkpoint-4" / "position.json"
    ).read_text()
    assert "has all 4 steps: nothing left to train" in printed


def test_pushes_that_fail_end_no_training(hub, folder, trained):
    seen, printed = trained
    assert "checkpoint-2 was not pushed to the Hub: the connection to the Hub failed" in printed
    assert f"vjepa publish {folder / 'broken'} me/broken" in printed
    straight = load_file(folder / "end" / "model.safetensors")
    broken = load_file(folder / "broken" / "model.safetensors")
    assert all(value.equal(broken[name]) for name, value in straight.items())
    assert seen["lines"]["publish"].startswith("error: the connection to the Hub failed")
    assert seen["sent again"] == 0  # what was uploaded before stays there
    assert hub.repositories["me/broken"].history == ["initial commit", "Upload with vjepa publish"]
    assert set(hub.repositories["me/broken"].files("other")) == MODEL
    data, text = card_of(hub.repositories["me/broken"])
    assert data["license"] == "apache-2.0" and "apache-2.0. The code" in text
    assert "nothing is uploaded: --dry_run" in printed


def test_mistakes_end_in_a_line(trained):
    lines = trained[0]["lines"]
    assert lines["weights only"].startswith("error: me/end on the Hub holds no checkpoint")
    assert lines["licence"].startswith(
        "error: licence 'mit' is not allowed: these weights come from weights under cc-"
    )


def test_a_non_commercial_licence_is_inherited_through_a_chain_of_models(hub, folder, trained):
    data, text = card_of(hub.repositories["me/probe"])
    assert data["license"] == "cc-by-nc-4.0" and data["base_model"] == ["me/bound"]
    assert data["pipeline_tag"] == "video-classification" and data["metrics"] == ["accuracy"]
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"] == {"type": "videos", "name": "videos", "split": "validation"}
    assert "| validation |" in text and "`started`" in text


def test_a_probe_is_pushed_as_a_classifier(hub, trained):
    repository = hub.repositories["me/probe"]
    assert repository.history[-1] == "End of training" and repository.private
    files = set(repository.files())
    assert MODEL | {"curves.png", "validation/confusion.png", "validation/classes.png"} <= files
    outside = {file for file in files if not file.startswith("last-checkpoint/")}
    assert not any(file.endswith((".csv", ".parquet", ".pt", ".bin")) or "features/" in file for file in outside)


def test_no_uploaded_or_local_file_has_a_token(hub, folder, trained):
    contents = [data for each in hub.repositories.values() for tree in each.trees.values() for data in tree.values()]
    assert not any(WRITER.encode() in file.data for file in contents)
    kept = [file for file in folder.rglob("*") if file.is_file() and "homes" not in file.parts]
    assert not any(WRITER.encode() in file.read_bytes() for file in kept)
    assert WRITER not in trained[1]
