"""The examples in the docstrings of the public classes and functions: every one runs as it stands."""

import inspect
import re
from pathlib import Path

import pytest
from videos import write_video

import transformers_vjepa

#: Fenced blocks of Python, at any indentation.
FENCE = re.compile(r"^( *)```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
WITH_EXAMPLES = [
    "VJEPAConfig",
    "VJEPAModel",
    "VJEPAForPreTraining",
    "VJEPAForVideoClassification",
    "VJEPAVideoProcessor",
    "VJEPAImageProcessor",
    "VJEPATrainer",
    "VJEPAClassificationTrainer",
    "clip_stream",
]
DOCUMENTED = [name for name in transformers_vjepa.__all__ if not isinstance(getattr(transformers_vjepa, name), dict)]


def examples_of(name: str) -> list[str]:
    docstring = inspect.cleandoc(getattr(transformers_vjepa, name).__doc__)
    return [inspect.cleandoc("\n" + code) for _, code in FENCE.findall(docstring)]


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user: three videos in `videos/`, and six of two classes in `labelled/`."""
    folders = {"videos": 3, "labelled/run": 3, "labelled/wave": 3}
    for number, (folder, count) in enumerate(folders.items()):
        for index in range(count):
            write_video(tmp_path / folder / f"{index}.mp4", level=60 * number + 20 * index, num_frames=24)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_has_an_example(name):
    docstring = inspect.cleandoc(getattr(transformers_vjepa, name).__doc__)
    assert "\nExamples:\n" in docstring and examples_of(name)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_examples_run(name, user_folder):
    for number, code in enumerate(examples_of(name)):
        exec(compile(code, f"<example {number} of {name}>", "exec"), {"__name__": "__main__"})
