"""
Pictures of a training run: its curves, what its masks hide, and what its features see. Needs matplotlib
(`pip install transformers_vjepa[viz]`); every function writes one file, whose suffix sets the format.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .configuration_vjepa import VJEPAConfig
from .metrics import accuracy_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Panels of the training curves: title, label of the axis, log scale, and the keys it draws with their
# legend. A key that ends in "_" stands for all keys with a number after it.
_PANELS: tuple[tuple[str, str, bool, dict[str, str]], ...] = (
    ("Loss", "training objective", False, {"loss": "train", "eval_loss": "eval"}),
    ("Validation", "share of clips", False, {"eval_accuracy": "accuracy", "eval_macro_f1": "macro F1"}),
    ("Validation loss", "cross-entropy", False, {"eval_cross_entropy": "validation"}),
    ("Learning rate", "learning rate", False, {"learning_rate": "learning rate"}),
    ("Weight decay", "weight decay", False, {"weight_decay": "weight decay"}),
    ("EMA momentum", "momentum", False, {"ema_momentum": "momentum"}),
    (
        "Spread of features",
        "standard deviation",
        False,
        {
            "target_std_over_clips": "target, over clips",
            "target_std_over_tokens": "target, over tokens",
            "predictor_std": "predictor",
        },
    ),
    (
        "Rank of target features",
        "effective rank",
        False,
        {"target_rank_over_clips": "over clips", "target_rank_over_tokens": "over tokens"},
    ),
    (
        "Gradient norm before clipping",
        "norm",
        True,
        {"encoder_grad_norm": "encoder", "predictor_grad_norm": "predictor"},
    ),
    (
        "Masks",
        "share of tokens",
        False,
        {"context_ratio_": "context, mask", "target_ratio_": "target, mask"},
    ),
    ("Throughput", "clips / s", False, {"clips_per_second": "clips / s"}),
    ("Waiting for data", "share of the step", False, {"data_wait_share": "data wait"}),
)
_COLORS = ("#1f5fa8", "#d9772b", "#2b8a5a", "#a83279", "#6b6b6b", "#8c6d1f")
_TARGET_COLOR = (0.16, 0.38, 0.75)
_DROPPED_COLOR = (0.85, 0.10, 0.10)
# Columns of frames beside whose width a legend or a title fits in one line, in inches the least width else.
_WIDE = 5
_MIN_WIDTH = 3.2
# Classes whose names can be read beside a confusion matrix.
_MAX_NAMED_CLASSES = 60


def plot_training_curves(
    log_history: Sequence[Mapping[str, Any]], path: str | Path, *, title: str = "Training"
) -> Path:
    """
    Draws what a run logged over its steps, one panel per group of values that it has.

    Args:
        log_history: entries as in `TrainerState.log_history`: mappings with `step` and any numbers.
        path: file to write.
        title: above the panels.

    Raises:
        ValueError: no entry has a step and a value that can be drawn.
        ImportError: matplotlib is missing.
    """
    panels = []
    for panel, label, log, keys in _PANELS:
        curves = _curves(log_history, keys)
        if curves:
            panels.append((panel, label, log, curves))
    if not panels:
        raise ValueError(
            f"none of the {len(log_history)} entries of `log_history` has a `step` and a known value such as "
            "`loss`: pass trainer.state.log_history of a run that logged at least once"
        )
    columns = min(3 if len(panels) <= 9 else 4, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = _new_figure(4.6 * columns, 3.1 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for index, (axis, panel) in enumerate(zip(axes.flat, panels, strict=False)):
        _draw_panel(axis, *panel)
        if index >= len(panels) - columns:
            axis.set_xlabel("optimizer step")
    figure.suptitle(title, fontsize=14, fontweight="bold")
    return _save(figure, path)


def plot_masked_clips(
    clips: Tensor,
    context_mask: Sequence[Tensor],
    target_mask: Sequence[Tensor],
    *,
    config: VJEPAConfig,
    path: str | Path,
    max_clips: int = 4,
) -> Path:
    """
    A sheet of what the networks see: per clip one row with the frames, and one per mask pair. Context tokens
    are left as they are, target tokens are tinted blue, tokens in neither (dropped to make lengths equal) are
    crossed out in red. One frame per tubelet, its first.

    Args:
        clips: uint8 (batch, frames, channels, height, width) of the size of `config`.
        context_mask: LongTensors (batch, context tokens); a single one is shared by all targets.
        target_mask: LongTensors (batch, target tokens).
        config: geometry of the tokens.
        path: file to write.
        max_clips: rows of clips to draw, from the first.

    Raises:
        ValueError: clips that do not match `config`, or numbers of context and target masks that do not match.
        ImportError: matplotlib is missing.
    """
    frames = _tubelet_frames(clips[:max_clips], config)
    if len(context_mask) not in (1, len(target_mask)):
        raise ValueError(
            f"{len(context_mask)} context masks do not go with {len(target_mask)} target masks: pass one per target, "
            "or a single one for all"
        )
    for mask in (*context_mask, *target_mask):
        if len(mask) < len(frames):
            raise ValueError(
                f"a mask of {len(mask)} clips does not go with {len(frames)} clips: pass one row per clip"
            )
    steps, num_masks = frames.shape[1], len(target_mask)
    contexts = list(context_mask) * (num_masks if len(context_mask) == 1 else 1)
    rows = len(frames) * (1 + num_masks)
    figure = _sheet(steps, 1.12 * rows + 0.9)
    axes = figure.subplots(rows, steps, squeeze=False)
    for clip, clip_frames in enumerate(frames):
        first = clip * (1 + num_masks)
        _draw_frames(axes[first], clip_frames, f"clip {clip}")
        for index, (context, target) in enumerate(zip(contexts, target_mask, strict=True)):
            kinds = _token_kinds(context[clip], target[clip], config)
            shares = f"context {(kinds == 0).float().mean():.0%}\ntarget {(kinds == 1).float().mean():.0%}"
            dropped = (kinds == 2).float().mean()
            shares += f"\ndropped {dropped:.0%}" if dropped > 0 else ""
            masked = _paint_tokens(clip_frames, kinds, config.patch_size)
            _draw_frames(axes[first + 1 + index], masked, f"mask {index}\n{shares}")
    _title_frames(axes[0], config)
    _mask_legend(figure, columns=3 if steps >= _WIDE else 1)
    return _save(figure, path)


def plot_feature_pca(
    clips: Tensor, snapshots: Sequence[tuple[int | str, Tensor]], *, config: VJEPAConfig, path: str | Path
) -> Path:
    """
    Features as colours: their first three principal components over all tokens of the clips, as red, green
    and blue, one image per tubelet under its frame. Rows are snapshots of the same clips during training, so
    that one sees structure appear, or collapse. Components are computed per snapshot; their signs follow the
    snapshot before, so that colours change as little as possible.

    Args:
        clips: uint8 (batch, frames, channels, height, width) of the size of `config`.
        snapshots: pairs of the optimizer step, or a name, and the features (batch, num_patches, channels).
        config: geometry of the tokens.
        path: file to write.

    Raises:
        ValueError: no snapshot, fewer than three feature channels, or shapes that do not match.
        ImportError: matplotlib is missing.
    """
    frames = _tubelet_frames(clips, config)
    if not snapshots:
        raise ValueError("`snapshots` is empty: pass at least one pair (step, features)")
    expected = (len(clips), config.num_patches)
    for step, features in snapshots:
        if features.ndim != 3 or tuple(features.shape[:2]) != expected or features.shape[2] < 3:
            raise ValueError(
                f"the features of step {step} have shape {tuple(features.shape)}, and the clips want "
                f"({expected[0]}, {expected[1]}, channels) with at least 3 channels: pass all tokens of these clips"
            )
    steps = frames.shape[1]
    rows = len(frames) * (1 + len(snapshots))
    figure = _sheet(steps, 1.12 * rows + 0.7)
    axes = figure.subplots(rows, steps, squeeze=False)
    before: Tensor | None = None
    for index, (step, features) in enumerate(snapshots):
        components, colors = _principal_colors(features, before)
        before = components
        maps = colors.unflatten(1, config.grid_size)
        for clip, clip_maps in enumerate(maps):
            _draw_frames(
                axes[clip * (1 + len(snapshots)) + 1 + index],
                clip_maps,
                f"step {step:,}" if isinstance(step, int) else step,
            )
    for clip, clip_frames in enumerate(frames):
        _draw_frames(axes[clip * (1 + len(snapshots))], clip_frames, f"clip {clip}")
    _title_frames(axes[0], config)
    space = " " if steps >= _WIDE else "\n"
    figure.suptitle(f"Features: first three{space}principal components", fontsize=13, fontweight="bold")
    return _save(figure, path)


def plot_confusion_matrix(matrix: np.ndarray, class_names: Sequence[str], path: str | Path) -> Path:
    """
    Draws which classes are taken for which: a row per true class, shaded by the share of its clips. Up to 20 classes
    the counts stand in the cells; above 60 the axes have numbers instead of names, and the classes that are most often
    taken for each other are listed beside the picture.

    Args:
        matrix: integer counts (classes, classes), true by predicted.
        class_names: names of the classes.
        path: file to write.

    Raises:
        ValueError: a matrix that is not square or has no clip, or another number of names.
        ImportError: matplotlib is missing.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.sum() == 0:
        raise ValueError(f"`matrix` of shape {matrix.shape} must be square and count at least one clip")
    _check_classes(class_names, len(matrix))
    number = len(matrix)
    totals = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(totals, 1)
    side = min(max(0.42 * number, 3.6), 9.5)
    # Room for names on two sides: about 0.085 inches per letter at this size.
    names = 0.6 if number > _MAX_NAMED_CLASSES else 0.5 + 0.085 * max(map(len, _shortened(class_names)))
    has_list = number > 20 and matrix.sum() > np.trace(matrix)
    figure = _new_figure(side + names + 1.1 + (4.4 if has_list else 0), side + names + 0.5)
    figure.set_layout_engine("compressed")  # "constrained" cuts the names off where the axes are square
    if has_list:
        axis, beside = figure.subplots(1, 2, width_ratios=(side + names + 1.1, 4.4))
        _list_confusions(beside, matrix, class_names)
    else:
        axis = figure.subplots()
    # Small shares must not vanish where there are many classes: the shade grows with the root of the share.
    shade = shares if number <= 20 else np.sqrt(shares)
    image = axis.imshow(shade, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if number <= 20:
        _write_counts(axis, matrix, shares)
    _label_classes(axis, class_names)
    axis.spines[:].set_color("#bbbbbb")
    bar = figure.colorbar(image, ax=axis, shrink=0.7, pad=0.02)
    ticks = np.array([0, 0.2, 0.4, 0.6, 0.8, 1])
    bar.set_ticks(ticks if number <= 20 else np.sqrt(ticks), labels=[f"{tick:.0%}" for tick in ticks])
    bar.set_label("share of the true class", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    accuracy = np.trace(matrix) / matrix.sum()
    axis.set_title(
        f"Confusion matrix: {np.trace(matrix):,} of {matrix.sum():,} right ({accuracy:.1%})",
        fontsize=11,
        fontweight="bold",
        loc="left",
    )
    return _save(figure, path)


def _list_confusions(axis: Axes, matrix: np.ndarray, class_names: Sequence[str], *, number: int = 40) -> None:
    """The most frequent confusions, as text."""
    off = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-off, axis=None, kind="stable")[:number]
    lines = []
    for row, column in zip(*np.unravel_index(order, off.shape), strict=True):
        if off[row, column]:
            true, predicted = _shortened([class_names[row], class_names[column]], length=24)
            count = str(off[row, column]).rjust(4, "\N{FIGURE SPACE}")
            total = str(matrix[row].sum()).ljust(5, "\N{FIGURE SPACE}")
            lines.append(f"{count} / {total} {true} \N{RIGHTWARDS ARROW} {predicted}")
    axis.axis("off")
    axis.set_title("Most frequent confusions", fontsize=11, fontweight="bold", loc="left")
    axis.text(0, 0.99, "clips / all    true \N{RIGHTWARDS ARROW} predicted", fontsize=8, va="top", color="#555555")
    axis.text(0, 0.965, "\n".join(lines), fontsize=8, va="top", linespacing=1.55)


def plot_class_accuracies(
    accuracies: Sequence[float], counts: Sequence[int], class_names: Sequence[str], path: str | Path
) -> Path:
    """
    Draws the accuracy of every class as a bar with its 95 % interval (see [`accuracy_interval`]), sorted; of more than
    40 classes the 20 best and the 20 worst. Classes without a clip are left out.

    Args:
        accuracies: share of right clips of each class, in [0, 1]; anything where a class has no clip.
        counts: clips of each class.
        class_names: names of the classes.
        path: file to write.

    Raises:
        ValueError: no clip, or numbers of values that differ.
        ImportError: matplotlib is missing.
    """
    accuracies, counts = np.asarray(accuracies, dtype=float), np.asarray(counts)
    _check_classes(class_names, len(accuracies))
    if counts.shape != accuracies.shape or counts.sum() == 0:
        raise ValueError(f"`counts` of shape {counts.shape} must count at least one clip of {len(accuracies)} classes")
    present = np.flatnonzero(counts)
    order = present[np.argsort(-accuracies[present], kind="stable")]
    groups = [("", order)] if len(order) <= 40 else [("20 best", order[:20]), ("20 worst", order[-20:])]
    mean, total = accuracies[present].mean(), (accuracies[present] * counts[present]).sum() / counts.sum()
    figure = _new_figure(7.6, 1.5 + sum(0.27 * len(group) + 0.4 for _, group in groups))
    heights = [len(group) for _, group in groups]
    axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=heights)
    for axis, (title, group) in zip(axes[:, 0], groups, strict=True):
        _draw_class_bars(axis, accuracies[group], counts[group], [class_names[index] for index in group])
        axis.axvline(total, color="#555555", linewidth=1, linestyle="--", zorder=3)
        if title:
            axis.set_title(title, fontsize=9, loc="right", color="#555555")
    axes[-1, 0].set_xlabel("accuracy, with 95 % interval; dashed: all clips", fontsize=9)
    of = f"of {len(order)} classes" if len(order) == len(class_names) else f"of {len(order)} classes with clips"
    figure.suptitle(f"Accuracy {total:.1%}, mean {of} {mean:.1%}", fontsize=11, fontweight="bold")
    return _save(figure, path)


def _draw_class_bars(axis: Axes, accuracies: np.ndarray, counts: np.ndarray, names: Sequence[str]) -> None:
    rows = np.arange(len(names))
    correct = np.rint(accuracies * counts).astype(int)
    bounds = np.array([accuracy_interval(int(c), int(n)) for c, n in zip(correct, counts, strict=True)])
    # Rounding may leave a bound a hair on the wrong side.
    errors = np.maximum(np.stack([accuracies - bounds[:, 0], bounds[:, 1] - accuracies]), 0)
    axis.barh(rows, accuracies, height=0.72, color="#9cbfe3", zorder=2)
    axis.errorbar(accuracies, rows, xerr=errors, fmt="none", ecolor=_COLORS[0], elinewidth=1.3, capsize=2.5, zorder=4)
    labels = [f"{name}  ({count})" for name, count in zip(_shortened(names, length=40), counts, strict=True)]
    axis.set_yticks(rows, labels, fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)  # the best on top
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", alpha=0.25, zorder=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _new_figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib, which is not installed: pip install transformers_vjepa[viz]"
        ) from error
    # A plain figure, with no pyplot behind it: no display, no state, nothing to close.
    return Figure(figsize=(width, height), layout="constrained")


def _sheet(steps: int, height: float) -> Figure:
    """A figure for `steps` frames side by side, with room for what stands above a few of them in several lines."""
    return _new_figure(max(1.1 * steps + 1.6, _MIN_WIDTH), height + (0 if steps >= _WIDE else 0.4))


def _save(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _curves(
    log_history: Sequence[Mapping[str, Any]], keys: Mapping[str, str]
) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values by legend, of the keys that occur."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for entry in log_history:
        if "step" not in entry:
            continue
        for key, label in keys.items():
            for name in sorted(entry):
                number = name.removeprefix(key)
                if name != key and not (key.endswith("_") and name.startswith(key) and number.isdigit()):
                    continue
                steps, values = curves.setdefault(label if name == key else f"{label} {number}", ([], []))
                steps.append(float(entry["step"]))
                values.append(float(entry[name]))
    return curves


def _draw_panel(
    axis: Axes, title: str, label: str, log: bool, curves: Mapping[str, tuple[list[float], list[float]]]
) -> None:
    for color, (name, (steps, values)) in zip(itertools.cycle(_COLORS), curves.items(), strict=False):
        few = len(steps) < 30
        axis.plot(steps, values, color=color, label=name, linewidth=1.6, marker="o" if few else None, markersize=3)
    if log and all(value > 0 for _, values in curves.values() for value in values):
        axis.set_yscale("log")
    else:
        axis.ticklabel_format(axis="y", useOffset=False)  # a momentum reads 0.9985, not 5e-4 + 9.98e-1
    axis.set_title(title, fontsize=11, loc="left", fontweight="bold")
    axis.set_ylabel(label, fontsize=9)
    axis.tick_params(which="both", labelsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axis.legend(fontsize=8, frameon=False)


def _check_classes(class_names: Sequence[str], number: int) -> None:
    if len(class_names) != number or number == 0:
        raise ValueError(f"{len(class_names)} class names do not go with {number} classes: pass one for each")


def _shortened(names: Sequence[str], *, length: int = 28) -> list[str]:
    return [name if len(name) <= length else name[: length - 1] + "\N{HORIZONTAL ELLIPSIS}" for name in names]


def _write_counts(axis: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    """Counts into the cells that have any, in a colour that the shade of the cell lets read."""
    size = 9 if len(counts) <= 12 else 7
    for row, column in zip(*np.nonzero(counts), strict=True):
        color = "white" if shares[row, column] > 0.5 else "black"
        axis.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=size, color=color)


def _label_classes(axis: Axes, class_names: Sequence[str]) -> None:
    """Names of the classes on both sides, as many as can be read; above that, their numbers."""
    number = len(class_names)
    if number > _MAX_NAMED_CLASSES:
        axis.set_xlabel("predicted class (number)", fontsize=10)
        axis.set_ylabel("true class (number)", fontsize=10)
        axis.tick_params(labelsize=8)
        return
    size = 9 if number <= 20 else 6
    names = _shortened(class_names)
    axis.set_xticks(range(number), names, rotation=90 if number > 8 else 40, fontsize=size)
    axis.set_yticks(range(number), names, fontsize=size)
    if number <= 8:
        for label in axis.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axis.tick_params(length=0)
    axis.set_xlabel("predicted", fontsize=10)
    axis.set_ylabel("true", fontsize=10)


def _tubelet_frames(clips: Tensor, config: VJEPAConfig) -> Tensor:
    """The first frame of every tubelet, as RGB in [0, 1]: (batch, time steps, height, width, 3)."""
    expected = (config.frames_per_clip, config.in_chans, config.crop_size, config.crop_size)
    if clips.dtype != torch.uint8 or clips.ndim != 5 or tuple(clips.shape[1:]) != expected or len(clips) == 0:
        raise ValueError(
            f"`clips` is {clips.dtype} of shape {tuple(clips.shape)}, and a picture wants torch.uint8 of shape "
            f"(batch, {', '.join(map(str, expected))}): pass the frames before normalisation, cropped to `config`"
        )
    frames = clips[:, :: config.tubelet_size].cpu().permute(0, 1, 3, 4, 2).float() / 255
    return frames[..., :3] if frames.shape[-1] >= 3 else frames[..., :1].expand(*frames.shape[:-1], 3)


def _token_kinds(context: Tensor, target: Tensor, config: VJEPAConfig) -> Tensor:
    """0 context, 1 target, 2 neither, on the token grid (time, height, width)."""
    kinds = torch.full((config.num_patches,), 2)
    kinds[target.cpu()] = 1
    kinds[context.cpu()] = 0
    return kinds.view(config.grid_size)


def _paint_tokens(frames: Tensor, kinds: Tensor, patch_size: int) -> Tensor:
    """Frames (time, height, width, 3) with target tokens tinted and dropped tokens crossed out."""
    pixels = interpolate(kinds[:, None].float(), scale_factor=patch_size)[:, 0, :, :, None]
    grey = frames.mean(-1, keepdim=True)
    tinted = 0.22 * grey + 0.78 * torch.tensor(_TARGET_COLOR)
    rows = torch.arange(patch_size)
    cross = (rows[:, None] - rows).abs().lt(max(1, patch_size // 8)) | (
        (rows[:, None] + rows - patch_size + 1).abs() < max(1, patch_size // 8)
    )
    cross = cross.repeat(kinds.shape[1], kinds.shape[2])[None, :, :, None]
    dropped = torch.where(cross, torch.tensor(_DROPPED_COLOR), 0.75 + 0.25 * grey)
    return torch.where(pixels == 1, tinted, torch.where(pixels == 2, dropped, frames))


def _principal_colors(features: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
    """
    The first three principal components of features (batch, tokens, channels), as directions (channels, 3) with
    signs close to `before`, and as colours in [0, 1] (batch, tokens, 3), 1st to 99th percentile per component.
    """
    tokens = features.detach().cpu().float().flatten(0, 1)
    tokens = tokens - tokens.mean(0)
    _, directions = torch.linalg.eigh(tokens.T @ tokens)  # ascending
    components = directions[:, -3:].flip(1)
    if before is not None and before.shape == components.shape:
        agreement = (components * before).sum(0)
    else:  # any rule will do, as long as it is the same on every machine: the largest weight is positive
        agreement = components.gather(0, components.abs().argmax(0, keepdim=True))[0]
    components = torch.where(agreement < 0, -components, components)
    values = tokens @ components
    low, high = torch.from_numpy(np.percentile(values.numpy(), [1, 99], axis=0)).float()
    colors = ((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return components, colors.unflatten(0, features.shape[:2])


def _draw_frames(axes: Sequence[Axes], frames: Tensor, label: str) -> None:
    """Draws images (time, height, width, 3) into a row of axes, with a label on its left."""
    for axis, frame in zip(axes, frames, strict=True):
        axis.imshow(frame.numpy(), interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    axes[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9, labelpad=6)


def _title_frames(axes: Sequence[Axes], config: VJEPAConfig) -> None:
    for index, axis in enumerate(axes):
        axis.set_title(f"frame {index * config.tubelet_size}", fontsize=8)


def _mask_legend(figure: Figure, *, columns: int) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor="white", edgecolor="black", label="context: seen by the encoder"),
        Patch(facecolor=_TARGET_COLOR, label="target: predicted"),
        Patch(facecolor="#e8e8e8", edgecolor=_DROPPED_COLOR, hatch="xxx", label="dropped: neither"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize=9, frameon=False)


__all__ = [
    "plot_class_accuracies",
    "plot_confusion_matrix",
    "plot_feature_pca",
    "plot_masked_clips",
    "plot_training_curves",
]
