"""Wheel and source distribution (contents, metadata, bounds, a wheel that works alone), and files around the code."""

import configparser
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
import yaml
from oldest import oldest
from packaging.requirements import Requirement

import transformers_vjepa
from transformers_vjepa.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "transformers_vjepa"
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
VERSION = SETUP["metadata"]["version"]
# Files that appear in a repository when it is used. None of them may be built.
LITTER = [
    "outputs/demo/model.safetensors",
    "runs/events",
    "docs/_build/index.html",
    "tests/__pycache__/conftest.pyc",
    "scripts/clip.mp4",
    "build/lib/transformers_vjepa/removed_long_ago.py",
    "notes.txt",
]
SOURCE_FILES = {
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "MANIFEST.in",
    "Makefile",
    "README.md",
    "pyproject.toml",
    "setup.cfg",
}
SOURCE_FOLDERS = ("benchmarks", "docs", "scripts", "src", "tests")


def files_below(folder: Path) -> set[str]:
    """Names of the files below a folder, relative to it, with forward slashes."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def text_of(name: str) -> str:
    """Text of a file of the repository; skips in a source distribution, which does not have all of them."""
    if not (ROOT / name).exists():
        pytest.skip(f"{name} is part of the repository only")
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A clean copy of the repository."""
    copy = tmp_path_factory.mktemp("packaging") / "tree"
    kept = {*SOURCE_FILES, *SOURCE_FOLDERS}
    copy.mkdir()
    for name in sorted(kept):
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.mp4", "_build", ".*")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def built(tree, tmp_path_factory) -> Path:
    """The folder with wheel and source distribution, built from a copy with `LITTER` in it."""
    littered = tmp_path_factory.mktemp("packaging") / "littered"
    shutil.copytree(tree, littered)
    for name in LITTER:
        (littered / name).parent.mkdir(parents=True, exist_ok=True)
        (littered / name).write_text("litter")
    dist = littered / "dist"
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(littered)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return dist


@pytest.fixture(scope="module")
def wheel(built, tmp_path_factory) -> Path:
    """The unpacked wheel."""
    folder = tmp_path_factory.mktemp("packaging") / "unpacked"
    with zipfile.ZipFile(built / f"{PACKAGE}-{VERSION}-py3-none-any.whl") as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def distribution(wheel) -> Distribution:
    (found,) = distributions(path=[str(wheel)])
    return found


def run_wheel(wheel, folder, *arguments):
    """Runs the base interpreter, which has no editable installs, with the wheel first on its path."""
    python = Path(sys.base_prefix) / "bin" / "python3"
    paths = [str(wheel), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(python), "-W", "ignore", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_exactly_one_wheel_and_one_source_distribution_are_built(built):
    assert files_below(built) == {f"{PACKAGE}-{VERSION}-py3-none-any.whl", f"{PACKAGE}-{VERSION}.tar.gz"}


def test_the_wheel_has_the_files_of_the_package_and_nothing_else(tree, wheel):
    info = f"{PACKAGE}-{VERSION}.dist-info"
    records = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
    expected = files_below(tree / "src") | {f"{info}/{name}" for name in records}
    assert files_below(wheel) == expected
    package = files_below(wheel / PACKAGE)
    data = {"recipes/vitl16.yaml", "accelerate_configs/multi_gpu.yaml", "data/class_names/places205.json"}
    assert {"py.typed", "commands/pretrain.py", "hub/model_cards/template.md", *data} <= package
    assert {Path(name).suffix for name in package} <= {".css", ".jinja", ".json", ".md", ".py", ".typed", ".yaml"}


def test_the_source_distribution_has_what_is_needed_to_test_it_and_nothing_else(tree, built):
    with tarfile.open(built / f"{PACKAGE}-{VERSION}.tar.gz") as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert {name for name in names if ".egg-info/" not in name} == files_below(tree) | {"PKG-INFO"}
    assert {"tests/conftest.py", "tests/vjepa_mini/numbers.safetensors", "scripts/pretrain.py"} <= names


def test_metadata(distribution):
    metadata = distribution.metadata
    assert (metadata["Name"], metadata["Version"]) == (PACKAGE, VERSION)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert not [classifier for classifier in metadata.get_all("Classifier") if classifier.startswith("License ::")]
    assert metadata["Requires-Python"] == SETUP["options"]["python_requires"]
    assert metadata["Summary"] and metadata["Keywords"]
    (script,) = distribution.entry_points
    assert (script.name, script.value) == ("vjepa", "transformers_vjepa.__main__:main")
    extras = {"viz", "probe", "decord", "torchcodec", "tensorboard", "app", "docs", "test"}
    assert set(metadata.get_all("Provides-Extra")) >= extras


def test_the_package_index_would_take_both(built):
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, sorted(built.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr


def test_the_wheel_runs_by_itself(wheel, tmp_path):
    listed = run_wheel(wheel, tmp_path, "-m", PACKAGE, "recipes")
    assert {"vitl16", "tiny_cpu", "multi_gpu"} <= set(listed.split())
    program = """
from importlib.resources import files
import yaml
import transformers_vjepa
from transformers_vjepa.command_line.parsing import recipe_path
from transformers_vjepa.data.labels import public_class_names
print(transformers_vjepa.__file__)
print(transformers_vjepa.__version__)
print(yaml.safe_load(recipe_path("tiny_cpu").read_text())["preset"])
print(len(public_class_names(205)[1]), len(public_class_names(174)[1]))
print(sorted(card.name for card in files("transformers_vjepa.hub").joinpath("model_cards").iterdir()))
"""
    cards = sorted(path.name for path in (ROOT / "src" / PACKAGE / "hub" / "model_cards").glob("*.md"))
    assert len(cards) == 24
    where, version, preset, classes, listing = run_wheel(wheel, tmp_path, "-c", program).splitlines()
    assert where == str(wheel / PACKAGE / "__init__.py")
    assert (version, preset, classes) == (VERSION, "vitt16", "205 174")
    assert listing == str(cards)
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_the_one_of_the_installed_package():
    assert transformers_vjepa.__version__ == VERSION


def test_the_oldest_versions_are_the_lower_bounds_of_the_wheel(distribution):
    bounds: dict[str, set[str]] = {}
    for requirement in map(Requirement, distribution.requires):
        (lower,) = (bound.version for bound in requirement.specifier if bound.operator == ">=")
        bounds.setdefault(requirement.name, set()).add(lower)
    assert {name: {version} for name, version in oldest().items()} == bounds


def test_upper_bounds_are_the_next_major_versions_and_no_others(distribution):
    upper = {
        (requirement.name, bound.version)
        for requirement in map(Requirement, distribution.requires)
        for bound in requirement.specifier
        if bound.operator == "<"
    }
    expected = {"accelerate": "2", "datasets": "6", "evaluate": "1", "gradio": "7", "torch": "3", "torchvision": "1"}
    assert upper == {*expected.items(), ("transformers", "6")}
    for name, bound in upper:
        assert int(importlib.metadata.version(name).split(".")[0]) == int(bound) - 1, f"{name}: raise the bound"


@pytest.mark.parametrize(
    ("install", "test", "message"),
    [
        ("torch >= 2.7", "torch >= 2.8", "torch has two lower bounds, 2.7 and 2.8: keep one"),
        ("torch >= 2.8, < 3", "torch >= 2.9, < 3", "torch has two lower bounds, 2.8 and 2.9: keep one"),
        ("torch >= 2.8, != 2.9", "", "has the bound !=2.9: use >= version or < major version"),
        ("torch == 2.8", "", "torch==2.8 has no lower bound: write torch >= the oldest version that is tested"),
        ("torch < 3", "", "torch<3 has no lower bound"),
        ("torch", "", "torch has no lower bound"),
    ],
)
def test_bounds_that_contradict_each_other_are_refused(tmp_path, install, test, message):
    setup = tmp_path / "setup.cfg"
    setup.write_text(f"[options]\ninstall_requires =\n    {install}\n[options.extras_require]\ntest =\n    {test}\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        oldest(setup)


def test_changelog_has_this_version_on_top():
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", text_of("CHANGELOG.md"), flags=re.MULTILINE)
    released = [heading for heading in headings if heading[0] != "Unreleased"]
    assert released[0][0] == VERSION and all(date for _, date in released)


def test_citation():
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors", "version", "date-released", "license"} <= citation.keys()
    assert (citation["title"], citation["version"], citation["license"]) == (PACKAGE, VERSION, "Apache-2.0")
    assert f"## [{VERSION}] - {citation['date-released']}" in text_of("CHANGELOG.md")
    (paper,) = citation["references"]
    assert {"type", "title", "authors", "year"} <= paper.keys()


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):(?!=)", text_of("Makefile"), flags=re.MULTILINE))


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_workflows_run_what_make_offers(name):
    workflow = yaml.safe_load(text_of(f".github/workflows/{name}"))
    assert workflow["permissions"] == {"contents": "read"}
    assert "concurrency" in workflow
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] > 0
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w.-]+/[\w.-]+@(release/)?v\d+", step["uses"]), "a major version"
            elif "name" not in step:
                command, *targets = step["run"].split()
                assert command == "make" and set(targets) <= make_targets(), step["run"]


def test_the_matrix_is_what_the_classifiers_promise():
    matrix = yaml.safe_load(text_of(".github/workflows/ci.yml"))["jobs"]["fast"]["strategy"]["matrix"]
    promised = re.findall(r"Python :: (3\.\d+)$", SETUP["metadata"]["classifiers"], flags=re.MULTILINE)
    assert matrix["python-version"] == promised
    assert SETUP["options"]["python_requires"] == f">={promised[0]}"


@pytest.mark.parametrize(
    "name, label, required", [("bug", "bug", {"what", "environment"}), ("feature", "enhancement", {"task"})]
)
def test_issue_forms_ask_for_what_is_needed(name, label, required):
    """By the rules of GitHub's form schema: GitHub shows a mistake in a form only to the person who reports."""
    form = yaml.safe_load(text_of(f".github/ISSUE_TEMPLATE/{name}.yml"))
    assert set(form) == {"name", "description", "labels", "body"} and form["labels"] == [label]
    assert all(isinstance(form[key], str) and form[key] for key in ("name", "description"))
    for field in form["body"]:
        assert field["type"] == "textarea" and set(field) <= {"type", "id", "attributes", "validations"}
        assert set(field["attributes"]) <= {"label", "description", "placeholder", "value", "render"}
        assert field["attributes"]["label"] and field["attributes"]["description"].endswith(".")
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    assert {field["id"] for field in form["body"] if field.get("validations", {}).get("required")} == required
    for option in re.findall(r"`vjepa (\S+)`", str(form)):
        assert option in {*COMMANDS, "--version"}, option


def test_issues_without_a_form_are_allowed():
    assert yaml.safe_load(text_of(".github/ISSUE_TEMPLATE/config.yml")) == {"blank_issues_enabled": True}


def test_hooks_before_a_commit_are_the_ruff_of_the_environment():
    (repository,) = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert {"id", "name", "entry", "language"} <= hook.keys()
        python, *command = hook["entry"].split()
        assert python == ".venv/bin/python" and hook["language"] == "system"
        subprocess.run([sys.executable, *command, "--help"], check=True, capture_output=True, timeout=60)
