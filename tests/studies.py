"""A study folder as `vjepa study` writes it, with invented numbers, tiny random models and rendered clips."""

import json
from pathlib import Path

import numpy as np
import torch

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAVideoProcessor
from transformers_vjepa.data.synthetic import APPEARANCES, MOTIONS, render_clip
from transformers_vjepa.study.kinds import IMAGES, VIDEOS, StudyKind
from transformers_vjepa.study.plan import StudyClips, scores
from transformers_vjepa.study.results import contrasts

CLASSES = {"motion": list(MOTIONS), "appearance": list(APPEARANCES)}
SEEDS = (0, 1, 2)
LABEL_COUNTS = (120, 240, 1200, 2400)
# Invented accuracies in percent by arm: motion, appearance.
LEVELS = {
    "vjepa": (64, 58),
    "ijepa": (0, 58),
    "untrained": (41, 33),
    "pixels": (49, 47),
    "multiblock": (62, 57),
    "random_tube": (57, 59),
    "causal": (60, 50),
    "published_truncation": (62, 54),
    "raster": (0, 39),
    "block": (0, 44),
    "random": (0, 41),
    **dict.fromkeys(IMAGES.block_arms, (0, 49)),
}
BASELINES = {
    "mean_colours": (13, 21),
    "single_frame": (12, 24),
    "raw_pixels": (15, 25),
    "frame_differences": (17, 22),
    "optical_flow": (91, 34),
}
SHIFTS = {"ridge": 0, "neighbours": -6, "attentive": 6, "mean": -9}


def row(
    arm: str, seed: int | None, step: int | None, labels: int, task: str, read_out: str, level: float, *, num_test: int
) -> dict:
    """One evaluation with about `level` percent of hits."""
    # The same clips are difficult for every arm: a clip is a hit if its difficulty is below the level.
    hard = np.random.default_rng(list(CLASSES).index(task)).permutation(num_test) / num_test * 100
    own = np.random.default_rng([seed or 0, sum(map(ord, arm + read_out)), labels, step or 0]).normal(0, 12, num_test)
    names = {"arm": arm, "seed": seed, "step": step, "labels": labels, "task": task, "read_out": read_out}
    rank = {} if step is None else {"rank": 9 + 0.05 * step + seed}
    return {**names, **scores(hard + own < level), **rank}


def levels_of(kind: StudyKind) -> dict[str, tuple[int, int]]:
    """The levels of the networks of a study."""
    return {arm: levels for arm, levels in LEVELS.items() if arm in kind.arms}


def rows(kind: StudyKind, *, num_test: int, steps: int) -> list[dict]:
    found = []
    for task in kind.tasks:
        column = list(CLASSES).index(task)
        for arm, levels in levels_of(kind).items():
            for seed in SEEDS:
                last = 0 if arm == "untrained" else steps
                level = levels[column] + 2 * (seed - 1)
                for read_out, shift in SHIFTS.items():
                    found.append(row(arm, seed, last, 200, task, read_out, level + shift, num_test=num_test))
                if arm not in kind.label_arms:
                    continue
                for read_out in kind.read_outs:
                    for place, count in enumerate(LABEL_COUNTS):
                        more = level + SHIFTS[read_out] + 7 * (place - 1)
                        found.append(row(arm, seed, last, count, task, read_out, more, num_test=num_test))
                    for share in (1, 2, 3, 4) if arm == kind.main else ():
                        part = 41 + (level - 41) * (share / 5) ** 0.5 + SHIFTS[read_out]
                        step = share * steps // 5
                        found.append(row(arm, seed, step, 200, task, read_out, part, num_test=num_test))
        for arm in kind.descriptors:
            for read_out in ("ridge", "neighbours"):
                level = BASELINES[arm][column]
                found.append(row(arm, None, None, 200, task, read_out, level, num_test=num_test))
    return found


def runs(kind: StudyKind, *, steps: int) -> list[dict]:
    found, arms = [], list(levels_of(kind))
    for arm in arms:
        for seed in SEEDS:
            folder = f"runs/{arm}-seed{seed}"
            if arm == "untrained":
                found.append({"arm": arm, "seed": seed, "steps": 0, "seconds": 0.0, "folder": folder, "loss": []})
                continue
            last = round(1.4 * steps) if arm == "pixels" else steps
            places = list(range(10, last + 1, 10))
            level = 0.45 + 0.04 * arms.index(arm)
            loss = [[s, level + 0.3 * np.exp(-s / 90) + 0.01 * seed + 0.008 * np.sin(s)] for s in places]
            rank = [[s, 14 + 3 * arms.index(arm) + 12 * (1 - np.exp(-s / 200)) + seed] for s in places]
            names = {"arm": arm, "seed": seed, "steps": last, "seconds": 500.0 + 9 * seed, "folder": folder}
            found.append({**names, "loss": loss, "rank": rank})
    return found


def write_study(
    folder: Path, *, kind: StudyKind = VIDEOS, num_test: int = 40, steps: int = 300, with_models: bool = True
) -> Path:
    """
    Writes `study.json`; with `with_models` also the models of three arms and `clips.pt`.

    Args:
        kind: of videos or of images.
        num_test: number of test clips, in the results and in `clips.pt`.
        steps: steps of pretraining.
    """
    folder.mkdir(parents=True, exist_ok=True)
    evaluations = rows(kind, num_test=num_test, steps=steps)
    classes = {task: CLASSES[task] for task in kind.tasks}
    chance = {task: 100 / len(names) for task, names in classes.items()}
    settings = {"dataset": "synthetic", "seeds": list(SEEDS), "steps": steps, "num_test": num_test, "labels": 200}
    if kind is IMAGES:  # settings of a study of videos need not name their kind
        settings["kind"] = "images"
    settings["equal_time"] = {"ratio": 1.4, "steps": round(1.4 * steps)}
    study = {
        "settings": {**settings, "classes": classes, "chance": chance},
        "machine": {"cpu": "Some <CPU> & more", "cores": 2, "torch": "2.14", "python": "3.12"},
        "rows": evaluations,
        "runs": runs(kind, steps=steps),
        "contrasts": contrasts(kind, evaluations, tasks=kind.tasks, labels=200, label_counts=LABEL_COUNTS),
    }
    (folder / "study.json").write_text(json.dumps(study))
    if with_models:
        write_models(folder, kind)
        write_clips(folder, kind, num_train=80, num_test=num_test)
    return folder


def write_models(folder: Path, kind: StudyKind) -> None:
    still = {"frames_per_clip": 1, "tubelet_size": 1, "patch_size": 4, "pred_num_mask_tokens": 1}
    config = VJEPAConfig(
        crop_size=32,
        **(still if kind is IMAGES else {"frames_per_clip": 8, "patch_size": 8}),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        pred_hidden_size=12,
        pred_num_hidden_layers=1,
        pred_num_attention_heads=2,
    )
    for seed, arm in enumerate(kind.label_arms):
        torch.manual_seed(seed)
        place = folder / "runs" / f"{arm}-seed0"
        VJEPAForPreTraining(config).save_pretrained(place)
        VJEPAVideoProcessor(crop_size=32, num_frames=config.frames_per_clip, frame_step=2).save_pretrained(place)


def write_clips(folder: Path, kind: StudyKind, *, num_train: int, num_test: int) -> None:
    clips, labels = {}, {task: {} for task in kind.tasks}
    shown = slice(8, 9) if kind is IMAGES else slice(None, None, 2)
    for split, number in (("train", num_train), ("test", num_test)):
        pairs = [(index % len(MOTIONS), index % len(APPEARANCES)) for index in range(number)]
        frames = [
            render_clip(
                motion=MOTIONS[motion], appearance=APPEARANCES[shape], seed=[len(split), index], size=48, num_frames=16
            )[shown, 8:40, 8:40]
            for index, (motion, shape) in enumerate(pairs)
        ]
        clips[split] = torch.from_numpy(np.stack(frames))
        columns = dict(zip(CLASSES, zip(*pairs, strict=True), strict=True))
        for task in kind.tasks:
            labels[task][split] = torch.tensor(columns[task])
    StudyClips(clips, labels, {task: CLASSES[task] for task in kind.tasks}).save(folder / "clips.pt")
