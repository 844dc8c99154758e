"""Who may import whom: the table of the house, and every import of the sources held against it."""

import ast
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[1] / "src" / "transformers_vjepa"
GROUND = {"safety", "command_line"}
#: Each sub-package, and those that it may import.
MAY_IMPORT = {
    "safety": set(),
    "command_line": {"safety"},
    "models": set(),
    "data": {"safety", "command_line", "models"},
    "figures": {"models"},
    "conversion": {"safety", "models", "data"},
    "hub": {"safety", "models", "conversion"},
    "training": {"safety", "models", "data", "hub"},
    "pretraining": GROUND | {"models", "data", "hub", "figures", "training"},
    "evaluation": GROUND | {"models", "data", "hub", "figures", "training"},
    "analysis": {"models", "data", "figures", "pretraining", "evaluation"},
    "study": GROUND | {"models", "data", "figures", "training", "pretraining", "evaluation", "analysis"},
    "app": {"safety", "models", "data", "figures", "pretraining", "evaluation", "analysis"},
    "commands": GROUND
    | {"models", "data", "hub", "conversion", "training", "pretraining", "evaluation", "analysis", "study", "app"},
}


def imports_of(file: Path) -> list[tuple[str, str]]:
    """Imports from this package, as (module, name): `from ..data.streaming import x` is ("data.streaming", "x")."""
    folder = file.relative_to(SOURCES).parent.parts
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - node.level + 1]
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found += [(module, alias.name) for alias in node.names]
    return found


FILES = sorted(file for file in SOURCES.rglob("*.py") if file.parent != SOURCES)


def test_the_table_names_every_sub_package():
    assert {file.relative_to(SOURCES).parts[0] for file in FILES} == set(MAY_IMPORT)


def test_the_table_has_one_direction():
    order = list(MAY_IMPORT)
    assert all(order.index(lower) < order.index(upper) for upper, all_ in MAY_IMPORT.items() for lower in all_)


@pytest.mark.parametrize("package", list(MAY_IMPORT))
def test_no_import_beside_the_table(package):
    files = [file for file in FILES if file.relative_to(SOURCES).parts[0] == package]
    arrows = {(str(file.relative_to(SOURCES)), module) for file in files for module, _ in imports_of(file)}
    assert arrows or package in ("safety", "hub", "figures", "models")
    others = {(file, module) for file, module in arrows if module.split(".")[0] != package}
    assert {(file, module) for file, module in others if module.split(".")[0] not in MAY_IMPORT[package]} == set()


def test_no_private_name_crosses_files():
    crossing = [
        (str(file.relative_to(SOURCES)), module, name)
        for file in FILES
        for module, name in imports_of(file)
        if name.startswith("_")
    ]
    assert crossing == []


def test_what_travels_to_the_hub_imports_its_own_folder_only():
    folder = SOURCES / "models" / "vjepa"
    modules = {f"models.vjepa.{file.stem}" for file in folder.glob("*.py")}
    assert {module for file in folder.glob("*.py") for module, _ in imports_of(file)} <= modules
