"""
CLEVR (arXiv 1612.06890) as two tasks of image classification: how many objects a scene has (Clevr/Count), and how far
away its closest object is (Clevr/Dist), as VTAB defines them (arXiv 1910.04867, appendix A).
"""

import csv
import json
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..safety.atomic_files import atomic_path

#: Numbers of objects in a scene: the classes of Clevr/Count.
COUNTS = range(3, 11)
#: Upper bounds of the distances of Clevr/Dist, in units of the scene; a bound belongs to the class below.
DISTANCES = (8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
#: Classes of Clevr/Dist, nearest first. Sorted by name they are in this order.
DISTANCE_NAMES = ("0.0 to 8.0", "8.0 to 8.5", "8.5 to 9.0", "9.0 to 9.5", "9.5 to 10.0", "above 10.0")


class ClevrError(ValueError):
    """Files of CLEVR that are missing, damaged, or describe other scenes than CLEVR has."""


@dataclass(frozen=True)
class ClevrIndex:
    """An index file that was written, and the number of images of each class, in the order of the classes."""

    path: Path
    classes: Mapping[str, int]


def scene_classes(scene: Mapping[str, Any]) -> dict[str, str]:
    """
    The names of the classes of a scene of `CLEVR_*_scenes.json`: `count` is the number of its objects, `dist` the bin
    of `DISTANCES` in which the distance of the closest object lies (the third of its `pixel_coords`).

    Raises:
        ClevrError: fields are missing, or a value is out of range.
    """
    try:
        distances = [float(item["pixel_coords"][2]) for item in scene["objects"]]
    except (LookupError, TypeError, ValueError) as error:
        raise ClevrError(
            f"a scene has no usable objects with pixel_coords ({type(error).__name__}: {error}): take the scenes of "
            "CLEVR_v1.0"
        ) from error
    if len(distances) not in COUNTS:
        raise ClevrError(f"a scene has {len(distances)} objects: scenes of CLEVR have {COUNTS[0]} to {COUNTS[-1]}")
    if not 0 < min(distances) <= DISTANCES[-1]:
        raise ClevrError(
            f"the closest object of a scene has the distance {min(distances):g}: it must lie in (0, {DISTANCES[-1]:g}]"
        )
    return {"count": str(len(distances)), "dist": DISTANCE_NAMES[bisect_left(DISTANCES, min(distances))]}


def index_clevr(
    root: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    splits: Sequence[str] = ("train", "val"),
) -> list[ClevrIndex]:
    """
    Writes `count_SPLIT.csv` and `dist_SPLIT.csv`, index files of two columns: the absolute path of an image, and the
    name of its class. They are data sets for `--dataset`. Existing files are replaced; each is written completely or
    not at all.

    Args:
        root: the folder `CLEVR_v1.0` with `scenes/CLEVR_SPLIT_scenes.json` and `images/SPLIT/`.
        output_dir: created if it does not exist.
        splits: `train` (70,000 images) and `val` (15,000); the test images have no scenes.

    Returns:
        The files, in the order count, dist of each split.

    Raises:
        ClevrError: missing or damaged files, missing images, or see [`scene_classes`].
    """
    root, output_dir = Path(root), Path(output_dir)
    written = []
    for split in splits:
        rows = _rows(root, split)
        output_dir.mkdir(parents=True, exist_ok=True)
        for task, names in (("count", [str(count) for count in COUNTS]), ("dist", DISTANCE_NAMES)):
            path = output_dir / f"{task}_{split}.csv"
            with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows((image, classes[task]) for image, classes in rows)
            found = Counter(classes[task] for _, classes in rows)
            written.append(ClevrIndex(path, {name: found[name] for name in names if found[name]}))
    return written


def _rows(root: Path, split: str) -> list[tuple[str, dict[str, str]]]:
    """Path and classes of each image of a split, in the order of the scenes."""
    file, folder = root / "scenes" / f"CLEVR_{split}_scenes.json", root / "images" / split
    for path, kind in ((file, Path.is_file), (folder, Path.is_dir)):
        if not kind(path):
            raise ClevrError(f"{path} is missing: give the folder of the unpacked CLEVR_v1.0.zip")
    there = set(os.listdir(folder))
    rows = []
    scenes = _scenes(file)
    for number, scene in enumerate(tqdm(scenes, desc=f"CLEVR {split}", unit=" scenes", disable=None)):
        try:
            name = scene["image_filename"]
            rows.append((name, scene_classes(scene)))
        except ClevrError as error:
            raise ClevrError(f"{file}, scene {number} ({name}): {error}") from error
        except (LookupError, TypeError) as error:
            raise ClevrError(f"{file}, scene {number}, has no image_filename: take the file of CLEVR_v1.0") from error
    if missing := [name for name, _ in rows if name not in there]:
        raise ClevrError(
            f"{len(missing)} of {len(rows)} images are not in {folder}, such as {missing[0]}: unpack all of "
            "CLEVR_v1.0.zip"
        )
    return [(str(folder.absolute() / name), classes) for name, classes in rows]


def _scenes(file: Path) -> Iterable[Any]:
    try:
        scenes = json.loads(file.read_bytes())["scenes"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ClevrError(f"{file} has no list of scenes ({type(error).__name__}): unpack the file again") from error
    if not isinstance(scenes, list) or not scenes:
        raise ClevrError(f"{file} has no list of scenes: unpack the file again")
    return scenes
