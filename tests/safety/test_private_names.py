"""Private names of other libraries: the table has all of them, and a name that changed is an error at import."""

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest
from transformers import Trainer

import transformers_vjepa
from transformers_vjepa.safety.private_names import KNOWN_VERSIONS, PRIVATE_NAMES, check_private_names

SOURCES = Path(transformers_vjepa.__file__).parent
FILES = [file for file in sorted(SOURCES.rglob("*.py")) if file.name not in ("__init__.py", "private_names.py")]
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
NAMES = {each.name for each in PRIVATE_NAMES}
LIBRARIES = {*KNOWN_VERSIONS, "argparse"}
# Methods of named tuples: public in spite of their names.
PUBLIC = {"_asdict", "_replace"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def defined_in(tree):
    """Private names that the sources define themselves: functions, classes, variables and attributes of `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                yield node.attr


def used_in(tree):
    """Private names that the sources use: as attributes, in `getattr` and its like, and in imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
            if len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
                yield node.args[1].value
        elif isinstance(node, ast.ImportFrom) and not node.level:
            is_private_module = any(is_private(part) for part in node.module.split("."))
            yield from (f"_{alias.name}" if is_private_module else alias.name for alias in node.names)


OWN = {name for tree in TREES.values() for name in defined_in(tree)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCES)))
def test_the_table_has_each_foreign_name_that_is_used(file):
    used = {name for name in used_in(TREES[file]) if is_private(name)}
    missing = {name for name in used - OWN - PUBLIC - NAMES if name.removeprefix("_") not in NAMES}
    assert missing == set(), f"add to PRIVATE_NAMES in {SOURCES / 'safety' / 'private_names.py'}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCES)))
def test_the_table_has_each_hook_that_is_overridden(file):
    module = import_module(".".join(["transformers_vjepa", *file.relative_to(SOURCES).with_suffix("").parts]))
    overridden = {
        name
        for kind in vars(module).values()
        if inspect.isclass(kind) and kind.__module__ == module.__name__
        for name in filter(is_private, vars(kind).keys() & OWN)  # without those of metaclasses
        for base in kind.__mro__[1:]
        if base.__module__.partition(".")[0] in LIBRARIES and name in vars(base)
    }
    assert overridden - NAMES == set()


def test_the_table_has_nothing_else():
    text = "".join(file.read_text(encoding="utf-8") for file in FILES)
    assert {each.name for each in PRIVATE_NAMES if each.name not in text} == set()
    assert {each.library for each in PRIVATE_NAMES} == set(KNOWN_VERSIONS)


def test_the_installed_versions_have_all_names():
    assert [problem for each in PRIVATE_NAMES if (problem := each.problem())] == []


def test_a_renamed_hook_is_an_error(monkeypatch):
    monkeypatch.delattr(Trainer, "_clip_grad_norm")
    message = (
        r"^transformers \d+.* has no transformers.trainer.Trainer._clip_grad_norm: transformers_vjepa needs "
        r"_clip_grad_norm\(model\) to clip .* known to work: pip install 'transformers==\d+.*'$"
    )
    with pytest.raises(ImportError, match=message):
        check_private_names("transformers.trainer")


def test_a_changed_signature_is_an_error(monkeypatch):
    monkeypatch.setattr(Trainer, "_save", lambda self, folder: None)
    with pytest.raises(
        ImportError, match=r"has transformers.trainer.Trainer._save\(folder\): .*_save\(output_dir, st"
    ):
        check_private_names("transformers.trainer")


def test_a_renamed_attribute_is_an_error(monkeypatch):
    monkeypatch.setattr(Trainer, "__init__", lambda self: None)
    with pytest.raises(ImportError, match="no longer mentions transformers.trainer.Trainer._train_batch_size in __in"):
        check_private_names("transformers")


def test_an_unknown_module_is_refused():
    with pytest.raises(ValueError, match="no private name of transformer is known"):
        check_private_names("transformer")
