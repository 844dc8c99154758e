"""The pages: they build, every block of code runs, and every option, link, path and file of the tree exists."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path

import nbformat
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from documents import (
    DOCS,
    PAGES,
    README,
    ROOT,
    Block,
    blocks_of,
    check_pip,
    lines_of,
    options_of,
    run_block,
    run_command,
)
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from PIL import Image
from published import published_checkpoint_of, published_probe_of
from test_layers import MAY_IMPORT
from transformers import TrainerCallback
from videos import write_tar

import transformers_vjepa
from transformers_vjepa import PRESETS, VJEPAConfig, VJEPAForPreTraining, VJEPAImageProcessor, VJEPAVideoProcessor
from transformers_vjepa.command_line.parsing import LAUNCH_CONFIGS, RECIPES
from transformers_vjepa.commands import COMMANDS, demo
from transformers_vjepa.data import synthetic as corpus_module
from transformers_vjepa.data.synthetic import CorpusConfig, build_corpus, load_labels
from transformers_vjepa.evaluation import reports
from transformers_vjepa.pretraining import setup

#: Most blocks of code that may be left out, each with its reason in the page.
MOST_LEFT_OUT = 6
TEXTS = [*PAGES, README, ROOT / "CONTRIBUTING.md"]
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))

#: Every preset in these tests: a clip of 16 frames of 48 pixels, and a network of one block.
SMALL = {"crop_size": 48, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL |= {"pred_hidden_size": 24, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}
#: Names of the videos' classes: three, and ten videos of each.
CLASSES = ("left", "right", "up")


@dataclass(frozen=True)
class SmallCorpus(CorpusConfig):
    num_train: int = 80
    num_test: int = 40
    size: int = 32


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# The world ---------------------------------------------------------------------------------------------------


def place_videos(root: Path) -> None:
    """Writes small videos under every name that the pages use for data."""
    corpus = build_corpus(root / "outputs" / "synthetic", config=SmallCorpus(), num_processes=1)
    found = {
        name: [record.path for record in load_labels(corpus, split="train") if record.motion == name]
        for name in CLASSES
    }
    for name, files in found.items():
        (root / "videos" / name).mkdir(parents=True)
        for number, file in enumerate(files):
            os.link(file, root / "videos" / name / f"{number}.mp4")
    (root / "path" / "to").mkdir(parents=True)
    (root / "path" / "to" / "videos").symlink_to(root / "videos")
    os.link(found["left"][0], root / "video.mp4")
    for number, color in enumerate(["red", "green", "blue", "grey"]):
        (root / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (48, 40), color).save(root / "pictures" / f"{number}.png")
    place_images(root)
    for name, color in (("cats", "orange"), ("dogs", "brown")):
        (root / "photos" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (40 + number, 36), color).save(root / "photos" / name / f"{number}.jpg")
    lines = [f"videos/{name}/{number}.mp4 {label}" for label, name in enumerate(CLASSES) for number in range(6)]
    for name in ("k710", "ssv2", "howto100m", "k400_train", "k400_val", "ssv2_train", "ssv2_val"):
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
    files = [file.read_bytes() for file in found["up"]]
    for shard in range(2):
        write_tar(root / f"shards-{shard:03d}.tar", {f"{n:03d}.mp4": data for n, data in enumerate(files[:4])})
    pq.write_table(pa.table({"video": files, "label": [0] * len(files)}), root / "clips.parquet", row_group_size=4)


def place_images(root: Path) -> None:
    """Writes the labelled images of the published evaluations: folders, Parquet with a column of labels, and CLEVR."""
    pictures = [file.read_bytes() for file in sorted((root / "pictures").iterdir())]
    for shard in range(2):
        write_tar(root / f"images-{shard:03d}.tar", {f"{number}.png": data for number, data in enumerate(pictures)})
    for split in ("train", "val"):
        for name in CLASSES:
            (root / "imagenet" / split / name).mkdir(parents=True)
            for number in range(50 if split == "train" else 4):  # 1 % of the training images is one of each class
                os.link(root / "pictures" / f"{number % 4}.png", root / "imagenet" / split / name / f"{number}.png")
        scenes, images = root / "CLEVR_v1.0" / "scenes", root / "CLEVR_v1.0" / "images" / split
        scenes.mkdir(parents=True, exist_ok=True)
        images.mkdir(parents=True)
        objects = [{"pixel_coords": [1, 2, 8.2]}] * 4
        found = [{"image_filename": f"{n}.png", "objects": objects[: 3 + n % 2]} for n in range(len(pictures))]
        (scenes / f"CLEVR_{split}_scenes.json").write_text(json.dumps({"scenes": found}))
        for number, data in enumerate(pictures):
            (images / f"{number}.png").write_bytes(data)
    (root / "cifar100" / "cifar100").mkdir(parents=True)
    rows = {"img": [{"bytes": data, "path": None} for data in pictures * 2], "fine_label": [0, 1] * len(pictures)}
    for name in ("train", "test"):
        pq.write_table(pa.table(rows), root / "cifar100" / "cifar100" / f"{name}-00000-of-00001.parquet")


def place_models(root: Path) -> None:
    """Writes a model like that of the demo, and files in the published layout."""
    torch.manual_seed(0)
    config = VJEPAConfig(**SMALL, frames_per_clip=8)
    folder = root / "outputs" / "demo"
    VJEPAForPreTraining(config).save_pretrained(folder)
    VJEPAVideoProcessor(crop_size=48, num_frames=8, frame_step=2).save_pretrained(folder)
    VJEPAImageProcessor(crop_size=48).save_pretrained(folder)
    image = {"frames_per_clip": 1, "tubelet_size": 1, "pred_num_mask_tokens": 1}
    VJEPAForPreTraining(VJEPAConfig(**SMALL, **image)).save_pretrained(root / "models" / "ijepa-vith14")
    torch.save(published_checkpoint_of(VJEPAConfig(**SMALL)), root / "vitl16.pth.tar")
    torch.save(published_probe_of(SMALL["hidden_size"], num_labels=400), root / "k400-probe.pth.tar")
    image_model = VJEPAConfig.from_preset("ijepa-vith14")
    torch.save(published_checkpoint_of(image_model), root / "IN1K-vit.h.14-300e.pth.tar")


@pytest.fixture(scope="module")
def small_sizes():
    """Presets, corpus and read-outs of a size for tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(PRESETS):
            is_image = PRESETS[name].get("frames_per_clip") == 1
            patch.setitem(PRESETS, name, SMALL if not is_image else {**PRESETS[name], **SMALL})
        patch.setattr(corpus_module, "CorpusConfig", SmallCorpus)
        patch.setattr(demo, "LABELS", 40)
        patch.setattr(demo, "READ_OUTS", ("ridge",))
        # Drawing images takes longer than these runs; tests/commands/test_pretrain.py draws them.
        patch.setattr(setup, "TrainingImages", lambda *arguments, **settings: TrainerCallback())
        # So do charts; tests/evaluation/test_reports.py draws them.
        for name in ("_draw", "_draw_curves"):
            patch.setattr(reports, name, lambda *arguments, **settings: None)
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory, small_sizes) -> Path:
    root = tmp_path_factory.mktemp("world")
    place_videos(root)
    place_models(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run_command(["convert_checkpoint", "vitl16.pth.tar", "--output_dir", "models/vitl16"])
        probe = ["--probe", "k400-probe.pth.tar", "--output_dir", "models/vitl16-k400"]
        run_command(["convert_checkpoint", "vitl16.pth.tar", *probe])
        run_command(["convert_checkpoint", "IN1K-vit.h.14-300e.pth.tar", "--output_dir", "models/ijepa-vith14"])
    return root


@pytest.fixture
def world(template, tmp_path, monkeypatch) -> Path:
    """A folder for each page, in which its blocks run."""
    shutil.copytree(template, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Blocks ------------------------------------------------------------------------------------------------------


#: What must hold, at the end of a page, for some names that its Python blocks define.
EXPECTED = {
    "probabilities": lambda value: abs(value.sum().item() - len(value)) < 1e-5,
    "best": lambda value: [sorted(entry) for entry in value] == [["label", "score"]] * 3,
    "answers": lambda value: len(set(value)) == 3,
    "nearest": lambda value: value.shape[1] == 3,
    "table": lambda value: len(value) > 1,
}


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_blocks_run_as_they_stand(page, world):
    names: dict = {}
    for block in blocks_of(page):
        if block.left_out is None:
            try:
                run_block(block, names)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"{block} fails: {type(error).__name__}: {error}") from error
    for name, holds in EXPECTED.items():
        assert name not in names or holds(names[name]), name


def test_blocks_that_are_left_out_are_few_and_say_why():
    left_out = [block for page in TEXTS for block in blocks_of(page) if block.left_out is not None]
    print("\n".join(f"{block}: {block.left_out}" for block in left_out))
    assert all(len(block.left_out) > 10 for block in left_out)
    assert len(left_out) <= MOST_LEFT_OUT


def test_images_of_masks_are_those_that_the_page_draws():
    code = "".join(block.code for block in blocks_of(DOCS / "masks.md"))
    drawn = {*re.findall(r"draw\(\"(\w+)\"", code), *re.findall(r"\"pictures/(\w+)\.png", code)}
    assert drawn == {image.stem for image in (DOCS / "pictures").glob("*.png")}
    for image in DOCS.glob("**/*.png"):
        assert image.stat().st_size < 150_000, image


def test_a_block_in_an_unknown_language_and_an_unknown_command_are_errors():
    with pytest.raises(AssertionError, match="no test knows how to run"):
        run_block(Block(README, 1, "fortran", "", None), {})
    with pytest.raises(AssertionError, match="unknown command 'rm': add it to WORDS"):
        run_block(Block(README, 1, "bash", "rm -r outputs", None), {})


# Options, links, files ---------------------------------------------------------------------------------------

#: Options of other programs that the texts name.
FOREIGN = {"editable", "machine_rank", "config_file", "num_cpu_threads_per_process", "logdir", "cpu", "push_to_hub"}
FOREIGN |= {"num_processes", "multi_gpu", "fname", "devices", "sort"}


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """Names of the options of every command, and of the benchmarks, without dashes."""
    found = {name: {option.lstrip("-") for option in options_of(name)} for name in COMMANDS if name != "demo"}
    files = [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("tests/*.py")]
    return found | {str(file): set(re.findall(r"\"--(\w+)\"", file.read_text())) for file in files}


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_every_option_exists(page, options):
    text = page.read_text()
    known = set().union(*options.values()) | FOREIGN
    for name in set(re.findall(r"(?<![\w-])--(\w[\w-]*)", text)):
        assert name.replace("-", "_") in known, f"{page.name}: --{name}"
    for block in blocks_of(page):  # also those that are left out
        for _, words in lines_of(block.code) if block.language == "bash" else ():
            command = next((word for word in words if word in options or Path(word).stem in options), None)
            if command is None or command.endswith(".py") and "scripts" not in command:
                continue
            given = words[words.index(command) + 1 :]
            given = given[: given.index("--")] if "--" in given else given
            for word in given:
                if word.startswith("--"):
                    name = word[2:].partition("=")[0].replace("-", "_")
                    assert name in options[Path(command).stem], f"{page.name}: {command} has no {word}"


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_every_link_and_file_exists(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.is_file(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors_of(file), f"{page.name}: {target}"
    for path in re.findall(r"(?<![\w./-])((?:scripts|tests|benchmarks|docs)/[\w./]*\w\.\w+)", text):
        assert (ROOT / path).is_file(), f"{page.name}: {path}"


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_recipes_presets_and_configurations_exist(page):
    text = page.read_text()
    for name in re.findall(r"--config(?:=| )([\w.]+)", text):
        assert (RECIPES / f"{name.removesuffix('.yaml')}.yaml").is_file() or not name[0].islower(), name
    for name in re.findall(r"--config_file(?:=| )(\w+)\.yaml", text):
        assert (LAUNCH_CONFIGS / f"{name}.yaml").is_file(), name
    for name in re.findall(r"--preset(?:=| )([\w-]+)", text):
        assert name in PRESETS, name
    for code in (DOCS / "reproducing.md", DOCS / "classification.md"):
        for name in re.findall(r"`((?:probe|finetune)_\w+)`", code.read_text()):
            assert (RECIPES / f"{name}.yaml").is_file(), name


def test_no_page_names_this_machine():
    for page in [*TEXTS, *NOTEBOOKS]:
        assert not re.search(r"/(?:root|home|tmp|work)/", page.read_text()), page


def tree_of(page: Path) -> dict[str, str]:
    """The tree of files on a page: paths in the repository, which may be patterns, and what each line says of them."""
    (tree,) = re.findall(r"^```text\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    folders, found = [], {}
    for line in tree.splitlines():
        indent, name, said = re.fullmatch(r"( *)(\S+)(.*)", line).groups()
        depth = len(indent) // 2
        assert depth <= len(folders), f"{line!r} is indented below no folder"
        path = "".join([*folders[:depth], name])
        folders[depth:] = [name] if name.endswith("/") else []
        assert path not in found, f"{path} is there twice"
        found[path] = said.strip()
    return found


def test_file_tree_names_every_file_and_no_other():
    tree = tree_of(DOCS / "code.md")
    named = {path for path in tree if not path.endswith("/")}
    assert [path for path in named if not tree[path]] == []
    files = {
        file.relative_to(ROOT).as_posix()
        for folder in ("src/transformers_vjepa", "scripts")
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    # Of `__init__.py` the tree names the package's only: those of sub-packages have no code that needs an explanation.
    package = "src/transformers_vjepa/__init__.py"
    files -= {file for file in files if file.endswith("/__init__.py") and file != package}
    assert {file for file in files if not any(fnmatchcase(file, path) for path in named)} == set(), "not in the tree"
    assert {path for path in tree if not list(ROOT.glob(path))} == set(), "in the tree, but not in the repository"


def test_folders_of_a_tree_are_read_by_their_indentation(tmp_path):
    page = tmp_path / "page.md"
    lines = ["src/", "  a/      sub-package", "    x.py  code", "    y/    more", "      *.md  cards", "  b.py"]
    page.write_text("\n".join(["```text", *lines, "```", ""]))
    assert tree_of(page) == {
        **{"src/": "", "src/a/": "sub-package", "src/a/x.py": "code"},
        **{"src/a/y/": "more", "src/a/y/*.md": "cards", "src/b.py": ""},
    }


def test_table_of_imports_is_the_one_that_is_enforced():
    rows = re.findall(r"^\| `(\w+)` \| ?(.*?) ?\|$", (DOCS / "code.md").read_text(), flags=re.MULTILINE)
    said = {name: set(re.findall(r"`(\w+)`", imports)) for name, imports in rows}
    said["commands"] = set(said) - said["commands"] - {"commands"}  # "all others but"
    assert said == MAY_IMPORT
    assert list(said) == list(MAY_IMPORT)


def test_make_sets_up_extras_that_exist():
    extras = re.findall(r"\$\(VENV\)/installed-([\w,]+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert "docs" in extras
    for names in extras:
        check_pip(["install", f".[{names}]"])


#: Sub-packages whose interface is the command line, and modules that serve other modules of the package only.
COMMAND_LINE = {"app", "command_line", "commands", "study"}
INTERNAL = {
    *("data.arguments", "data.class_numbers", "data.clip_order", "data.lanes", "data.random_streams"),
    *("data.table_labels", "data.tar_samples"),
    *("data.remote_reading", "evaluation.arguments", "evaluation.shards", "figures.style", "hub.names"),
    *("hub.remote_code", "models.vjepa.frame_table", "models.vjepa.media_files", "models.vjepa.other_readers"),
    *("models.vjepa.pyav_reader", "models.vjepa.video_reader", "pretraining.arguments", "pretraining.images"),
    *("data.fingerprints", "pretraining.mask_geometry"),
    *("safety.agreement", "safety.atomic_files", "safety.file_hashes", "safety.output_lock"),
    *("safety.private_names", "safety.sanitizing"),
    *("training.arguments", "training.hub_pushes", "training.manifests", "training.memory", "training.progress"),
    "training.sharding",
}


def test_every_public_module_is_in_the_reference():
    sources = ROOT / "src" / "transformers_vjepa"
    modules = {
        ".".join(file.relative_to(sources).with_suffix("").parts)
        for file in sources.glob("*/**/*.py")
        if file.name != "__init__.py" and file.relative_to(sources).parts[0] not in COMMAND_LINE
    }
    pages = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    shown = re.findall(r"^\.\. automodule:: transformers_vjepa\.(\S+)$", pages, flags=re.MULTILINE)
    classes = re.findall(r"^\.\. auto(?:class|data):: transformers_vjepa\.(\S+)\.\w+$", pages, flags=re.MULTILINE)
    assert len(set(shown)) == len(shown)
    assert {*shown, *classes} == modules - INTERNAL
    for name in set(transformers_vjepa.__all__) - {"PRESETS"}:
        module = getattr(transformers_vjepa, name).__module__.removeprefix("transformers_vjepa.")
        assert module in shown or f".. autoclass:: transformers_vjepa.{module}.{name}\n" in pages, name
    for name in re.findall(r"^\| `(\w+\.[\w.]+)` \|", pages, flags=re.MULTILINE):
        module, _, function = name.rpartition(".")
        assert module in shown and hasattr(import_module(f"transformers_vjepa.{module}"), function), name


# The pages ---------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """The variables of this process, with this package on the path of Python."""
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


def test_pages_build_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "trees")]
    result = subprocess.run(
        [*command, str(DOCS), str(tmp_path / "html")], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    reference = (tmp_path / "html" / "command_line.html").read_text()
    for name in COMMANDS:
        names = set() if name == "demo" else {f"--{option[2:].replace('-', '_')}" for option in options_of(name)}
        said = {name for name in names if name.startswith("--no_") or name in ("--h", "--help", "--help_all")}
        missing = {option for option in names - said if option not in reference}
        assert not missing, f"{name}: {missing}"
    assert "frame_step" in (tmp_path / "html" / "api" / "data.html").read_text()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_notebook_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    book = nbformat.read(notebook, as_version=4)
    assert any(cell.get("outputs") for cell in book.cells), f"{notebook.name} has no outputs to look at"
    assert notebook.stat().st_size < 1_000_000
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    # The kernel of this interpreter, whatever kernels the machine has.
    manager = KernelManager()
    manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    client = NotebookClient(book, km=manager, timeout=200, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
