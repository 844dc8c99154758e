"""
Train a classifier on labelled videos or images: a probe on the frozen encoder, or the whole network.

    vjepa train_classifier --model outputs/demo --dataset videos/ --output_dir outputs/probe
    vjepa train_classifier --mode finetune --model outputs/demo --dataset videos/ --output_dir outputs/fine
    accelerate launch -m transformers_vjepa train_classifier --config probe_k400_vitl16 \\
        --model CONVERTED --dataset k400_train.csv --validation_dataset k400_val.csv

Probes of several learning rates and weight decays are trained in one pass over the features. At the end the probe with
the best accuracy on the validation clips is kept; it is then tested once on the test clips. The output folder is a
model for AutoModelForVideoClassification and pipeline("video-classification"), or those for images, with results.json,
the predictions for each split, and charts.

A recipe (--config, a YAML file) gives defaults for any of the arguments below; the command line overrides it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from transformers.hf_argparser import HfArg

from ..command_line.parsing import names_given, parse_with_recipe
from ..data.synthetic import APPEARANCES, MOTIONS
from .trainer import VJEPAClassificationArguments


@dataclass
class ModelArguments:
    """The model and the way it is trained."""

    _argument_group_name = "model"

    mode: Literal["probe", "finetune"] = HfArg(
        default="probe", help="Train a probe on the frozen encoder, or the whole network."
    )
    model: str | None = HfArg(
        default=None,
        help="Folder or Hub id: a pretraining checkpoint (its target encoder is used), a base model or a classifier. "
        "With --random_encoder also an architecture by name.",
    )
    random_encoder: bool = HfArg(
        default=False, help="Do not load the weights: an untrained encoder of the same architecture."
    )
    pooling: Literal["attentive", "mean"] = HfArg(default="attentive", help="How the classifier pools the tokens.")
    num_pooler_layers: int = HfArg(default=0, help="Self-attention blocks after the cross-attention of the pooler.")
    drop_path_rate: float = HfArg(default=0.0, help="Fine-tuning: stochastic depth at the last block.")
    crop_size: int | None = HfArg(default=None, help="Side of a clip in pixels, if not the model's.")
    frames_per_clip: int | None = HfArg(default=None, help="Frames of a clip, if not the model's.")


@dataclass
class DataArguments:
    """Labelled clips: where they are, how they are divided into splits, and which frames and crops are taken."""

    _argument_group_name = "data"

    dataset: str = HfArg(
        default="synthetic:motion",
        help="A folder with a folder of videos or images for each class, a text or CSV index ('path label' or "
        "'path,class name' in each line), a tar, Parquet, or a pattern. 'synthetic:motion' and "
        "'synthetic:appearance' are the built-in corpus with its test clips, rendered beside the output folder.",
    )
    validation_dataset: str | None = HfArg(default=None, help="Validation clips, if they are a separate data set.")
    validation_fraction: float = HfArg(
        default=0.2,
        help="Without --validation_dataset: share of each class (or of the groups) used for validation; 0: none.",
    )
    test_dataset: str | None = HfArg(default=None, help="Test clips, if they are a separate data set.")
    num_folds: int | None = HfArg(
        default=None,
        help="Cross-validation: divide the groups (--group_pattern) into this number of folds; --fold is the test "
        "fold.",
    )
    fold: int | None = HfArg(
        default=None, help="Test fold of this run, from 0 to num_folds - 1; the other folds are trained on."
    )
    group_pattern: str | None = HfArg(
        default=None,
        help="Regular expression; the part in brackets is the group of a clip in its path. A group stays in one split",
    )
    train_fraction: float = HfArg(default=1.0, help="Share of the training clips of each class to use.")
    split_seed: int = HfArg(default=0, help="Seed of the random splits.")
    labels: str | None = HfArg(
        default=None, help="File with the names of numbered classes: one in each line, from class 0 on."
    )
    video_column: str | None = HfArg(default=None, help="Column of a Parquet data set.")
    augment: bool | None = HfArg(
        default=None,
        help="Draw new random clips and crops in each epoch. Without this, probes are trained on features that are "
        "computed once. Default: true for fine-tuning.",
    )
    num_segments: int = HfArg(default=1, help="Clips of each video, pooled together.")
    num_views: int = HfArg(default=1, help="Crops of each clip in evaluation, averaged.")
    frame_step: int | None = HfArg(
        default=None, help="Frames from one frame of a clip to the next. Default: as the model was trained, or 4."
    )
    target_fps: float | None = HfArg(default=None, help="Frames per second of a clip, instead.")
    clip_duration: float | None = HfArg(default=None, help="Seconds that a clip lasts, instead.")
    spacing: Literal["stride", "linspace"] = HfArg(
        default="stride", help="Place frames at the exact step, or as the published evaluation does."
    )
    short_videos: Literal["repeat_last", "refuse"] = HfArg(
        default="repeat_last",
        help="Videos that end before a clip does: repeat their last frame, or leave them out as broken.",
    )
    crop_scale: list[float] = HfArg(
        default_factory=lambda: [0.3, 1.0], help="Least and largest area of a random crop."
    )
    crop_ratio: list[float] = HfArg(
        default_factory=lambda: [0.75, 1.35], help="Least and largest width/height of a random crop."
    )
    flip_probability: float = HfArg(default=0.5, help="Probability of a horizontal flip.")
    decoder: Literal["pyav", "decord", "torchcodec"] = HfArg(default="pyav", help="Video decoder.")
    max_broken_share: float = HfArg(
        default=0.05, help="Stop above this share of broken videos among the last 1,000, from 20 of them on."
    )
    feature_dtype: Literal["float16", "bfloat16", "float32"] = HfArg(
        default="float16", help="Type of stored features."
    )


class Arguments(NamedTuple):
    """All arguments of a training run."""

    model: ModelArguments
    data: DataArguments
    training: VJEPAClassificationArguments


_SPACINGS = {"frame_step", "target_fps", "clip_duration"}
SYNTHETIC = {"synthetic": "motion", "synthetic:motion": "motion", "synthetic:appearance": "appearance"}
# Options that a mode does not use, and options that follow from the length of a run: they are refused.
_IDLE = {
    "probe": {"learning_rate", "weight_decay", "layer_decay", "mixup", "cutmix", "label_smoothing_factor"}
    | {"drop_path_rate"},
    "finetune": {"learning_rates", "weight_decays", "feature_dtype"},
}
_LAID_OUT = {"eval_strategy", "eval_steps", "save_steps", "metric_for_best_model", "greater_is_better"}
SYNTHETIC_CLASSES = {"motion": MOTIONS, "appearance": APPEARANCES}


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """The arguments of a command line. It overrides the recipe, which overrides the defaults."""
    parsed = parse_with_recipe(
        argv,
        (ModelArguments, DataArguments, VJEPAClassificationArguments),
        description=__doc__,
        recipe_help="recipe: a name (vjepa recipes lists them) or a YAML file with values for these arguments; "
        "by default probe_tiny, if neither --model nor --dataset is given",
        default_recipe=lambda given: None if given & {"model", "dataset"} else "probe_tiny",
        overridden=lambda given: _SPACINGS if given & _SPACINGS else set(),
        use_cpu=not torch.accelerator.is_available(),
        dry_run_help="Show what the run would do (sizes, memory, splits, steps, first videos), and exit.",
    )
    arguments = Arguments(*parsed)
    mode = arguments.model.mode
    if fixed := sorted(names_given(argv) & _LAID_OUT):
        raise ValueError(
            f"{', '.join(f'--{name}' for name in fixed)} cannot be set, since the length of a run decides when it "
            "evaluates and saves: leave it out"
        )
    if idle := sorted(names_given(argv) & _IDLE[mode]):
        raise ValueError(
            f"{', '.join(f'--{name}' for name in idle)} has no effect with --mode {mode}: leave it out"
            + (" (probes take --learning_rates and --weight_decays)" if mode == "probe" else "")
        )
    return arguments
