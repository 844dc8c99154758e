"""
Pretrain V-JEPA, or continue from a checkpoint, on videos from a folder, an index file, archives or the Hub.

    vjepa pretrain --config tiny_cpu --output_dir outputs/tiny
    accelerate launch -m transformers_vjepa pretrain --config vitl16 \\
        --dataset k710.csv=0.4 ssv2.csv=0.2 howto/=0.4 --output_dir outputs/vitl16

A recipe (--config: its name, or a YAML file) gives defaults for the arguments below; the command line overrides it.
"""

from dataclasses import dataclass, fields
from typing import Literal

import torch
from transformers.hf_argparser import HfArg

from ..command_line.parsing import parse_with_recipe
from ..data.arguments import SPACINGS, AugmentationArguments, DecodingArguments, SamplingArguments, SourceArguments
from ..models.vjepa.configuration_vjepa import PRESETS
from .trainer import VJEPATrainingArguments


@dataclass
class ModelArguments:
    """The architecture: a preset and fields that differ from it, or a checkpoint; and the target of the prediction."""

    _argument_group_name = "model"

    preset: str = HfArg(default="vitt16", help="Architecture to start from.", metadata={"choices": list(PRESETS)})
    init_from: str | None = HfArg(
        default=None, help="Start from these weights (folder or Hub id) instead of a new model."
    )
    crop_size: int | None = HfArg(default=None, help="Side of a clip in pixels.")
    patch_size: int | None = HfArg(default=None, help="Side of a patch in pixels.")
    frames_per_clip: int | None = HfArg(default=None, help="Frames of a clip; 1 pretrains on images.")
    tubelet_size: int | None = HfArg(default=None, help="Frames that a token spans.")
    hidden_size: int | None = HfArg(default=None, help="Width of the encoder.")
    num_hidden_layers: int | None = HfArg(default=None, help="Blocks of the encoder.")
    num_attention_heads: int | None = HfArg(default=None, help="Heads of the encoder.")
    pred_hidden_size: int | None = HfArg(default=None, help="Width of the predictor.")
    pred_num_hidden_layers: int | None = HfArg(default=None, help="Blocks of the predictor.")
    pred_num_attention_heads: int | None = HfArg(default=None, help="Heads of the predictor.")
    initializer_range: float | None = HfArg(
        default=None, help="Standard deviation of the initial weights; narrow networks need more (0.02)."
    )
    pred_loss: Literal["l1", "l2", "smooth_l1"] | None = HfArg(
        default=None,
        help="The loss. Default: that of the preset or checkpoint. V-JEPA: l1. I-JEPA or one frame: smooth_l1.",
    )
    prediction_target: Literal["features", "pixels"] = HfArg(
        default="features",
        help="Predict the features of masked tokens (V-JEPA), or their normalised pixels, to compare.",
    )


# The fields of the last base come first in --help: the data sets, then sampling, augmentation and decoding.
@dataclass(kw_only=True)
class DataArguments(DecodingArguments, AugmentationArguments, SamplingArguments, SourceArguments):
    """The data sets, and how clips are cut from their videos."""

    _argument_group_name = "data"

    dataset: list[str] = HfArg(
        default_factory=lambda: ["synthetic"],
        help="One or more of: a folder of videos, tars, Parquet or images; a text or CSV index ('path label' per "
        "line); a pattern such as shards-{000..009}.tar; a Hub data set id. '=0.3' behind it is its weight in the "
        "mix. 'synthetic' renders the built-in corpus beside the output folder.",
    )
    decode_timeout: float = HfArg(
        default=60.0,
        help="Seconds to find and read one video. After that a DataLoader worker is replaced and the video skipped as "
        "a broken one (without workers: a warning). 0: no limit.",
    )
    cache_videos: int = HfArg(
        default=0, help="Megabytes of decoded video files that each worker keeps: for small corpora of short clips."
    )
    shuffle_buffer: int = HfArg(default=256, help="Videos to shuffle among, for streamed corpora only.")


# Fields that `--preset` and `--init_from` decide: with one of these on the command line a recipe must not change them.
ARCHITECTURE = {item.name for item in fields(ModelArguments)} - {
    "init_from",
    "crop_size",
    "frames_per_clip",
    "pred_loss",
    "prediction_target",
}


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, DataArguments, VJEPATrainingArguments]:
    """The arguments of a command line; it overrides the recipe, and the recipe overrides the defaults."""
    return parse_with_recipe(
        argv,
        (ModelArguments, DataArguments, VJEPATrainingArguments),
        description=__doc__,
        recipe_help="recipe: a name (vjepa recipes lists them) or a YAML file with values for these arguments; "
        "tiny_cpu if neither this nor --dataset, --preset or --init_from is given",
        default_recipe=lambda given: None if given & {"dataset", "preset", "init_from"} else "tiny_cpu",
        overridden=lambda given: (
            (ARCHITECTURE if given & {"preset", "init_from"} else set()) | (SPACINGS if given & SPACINGS else set())
        ),
        dry_run_help="Print sizes, memory, steps, data and first clips of the run, and exit.",
        use_cpu=not torch.accelerator.is_available(),
    )
