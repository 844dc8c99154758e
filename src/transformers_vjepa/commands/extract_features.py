"""
Write the features of a data set of videos or images to files.

    vjepa extract_features videos/ --model outputs/demo --kind mean --format parquet --output_dir features/
    accelerate launch -m transformers_vjepa extract_features k400.csv --model models/vitl16 --kind tokens \\
        --model_dtype bfloat16 --num_workers 8 --output_dir features/k400

The same command resumes a stopped pass, with any number of processes. It also reads clips again that were broken or
whose files were replaced, and computes their shards again. Read shards of safetensors with
transformers_vjepa.evaluation.features.FeatureStore, one clip at a time, and Parquet (pooled features) with
datasets.load_dataset("parquet", data_files="FOLDER/*.parquet"). settings.json holds the settings of the pass,
summary.json the broken videos.
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from transformers.hf_argparser import HfArg

from ..command_line.parsing import names_given, parse_with_recipe, user_errors
from ..data.arguments import CorpusArguments, Dtype, ViewArguments, start_processes
from ..data.clip_reading import TooManyBrokenVideosError
from ..data.corpora import Corpus
from ..data.lanes import StreamError
from ..evaluation.features import FeatureError, FeatureSettings, summarise_features, write_features
from ..evaluation.shards import PassOptions, ShardError, writing_errors
from ..hub.loading import load_processor, load_whole
from ..models.vjepa.modeling_vjepa import VJEPAModel
from ..safety.atomic_files import write_text_atomically
from ..safety.output_lock import output_lock
from ..safety.sanitizing import json_text, log_line
from .dry_run import Row, check_writable, clip_row, corpus_rows, parameters_text, table


@dataclass(kw_only=True)
class FeatureArguments:
    """The features to write."""

    _argument_group_name = "features"

    model: str = HfArg(
        help="Folder or Hub id. A pretraining checkpoint gives its target encoder, a classifier its encoder."
    )
    output_dir: str = HfArg(help="Folder for the shards.")
    kind: Literal["tokens", "mean", "time_means"] = HfArg(
        default="mean", help="All tokens, their mean, or their mean over space at each time step."
    )
    format: Literal["safetensors", "parquet"] = HfArg(
        default="safetensors", help="Format of the files; Parquet takes pooled features only."
    )
    dtype: Dtype | None = HfArg(
        default=None, help="Type on disk; by default float32 for pooled features and float16 for tokens."
    )
    model_dtype: Dtype = HfArg(default="float32", help="Type of weights and computation.")
    shard_size: int | None = HfArg(
        default=None, help="Videos per shard; by default a sixteenth of all, at most 1,024 and 128 MiB."
    )


@dataclass
class ClipArguments(ViewArguments):
    """The clips and crops of a video that the model sees."""

    _argument_group_name = "clips"


def parse_arguments(argv: Sequence[str]) -> tuple[FeatureArguments, CorpusArguments, ClipArguments]:
    """Arguments of a command line, over a recipe, over the defaults. The data set may come first, without its name."""
    argv = list(argv)
    if argv and not argv[0].startswith("-"):
        argv.insert(0, "--dataset")
    return parse_with_recipe(
        argv,
        (FeatureArguments, CorpusArguments, ClipArguments),
        description=__doc__,
        dry_run_help="Show what the command would do: model, features, data, first videos; then exit.",
    )


def describe(
    model: VJEPAModel, corpus: Corpus, dataset: str, arguments: FeatureArguments, choices: ClipArguments
) -> str:
    """What the command would do (`--dry_run`)."""
    config = model.config
    vectors = {"tokens": config.num_patches, "mean": 1, "time_means": config.grid_size[0]}[arguments.kind]
    vectors *= choices.num_views * (1 if arguments.kind == "mean" else choices.num_segments)
    number = f"{vectors:,} vectors of {config.hidden_size} for each {config.medium}"
    text = f"{number} ({arguments.kind}), as {arguments.format}"
    rows: list[Row] = [("model", parameters_text({"encoder": model.encoder})), clip_row(config)]
    rows += [("features", text), *corpus_rows({log_line(dataset): corpus}, config=config)]
    return table([*rows, ("output", arguments.output_dir)])


def run(argv: Sequence[str]) -> dict[str, Any] | None:
    """One pass from its command line; the summary on the main process, `None` on the others and of a dry run."""
    with ExitStack() as stack:
        return _run(argv, stack)


def _run(argv: Sequence[str], stack: ExitStack) -> dict[str, Any] | None:
    with user_errors():
        arguments, data, choices = parse_arguments(argv)
        state = start_processes(use_cpu=data.use_cpu)
        corpus = data.open()
        encoder = {"add_predictor": False, "dtype": getattr(torch, arguments.model_dtype)}
        model = load_whole(VJEPAModel, arguments.model, remedy="it is not a V-JEPA", **encoder)
        processor = load_processor(arguments.model, model.config)
        geometry = choices.geometry(model.config, processor, backend=data.decoder)
        features = FeatureSettings(
            kind=arguments.kind,
            dtype=arguments.dtype or ("float16" if arguments.kind == "tokens" else "float32"),
            file_format=arguments.format,
            shard_size=arguments.shard_size,
        )
        if "dry_run" in names_given(argv):
            check_writable(arguments.output_dir)
            print(describe(model, corpus, data.dataset, arguments, choices))
            return None
        stack.enter_context(output_lock(arguments.output_dir))
    with user_errors(FeatureError, ShardError, StreamError, TooManyBrokenVideosError):
        write_features(
            model.to(state.device),
            corpus,
            arguments.output_dir,
            features=features,
            geometry=geometry,
            processor=processor,
            options=PassOptions.from_arguments(data, state),
        )
        state.wait_for_everyone()
        if not state.is_main_process:
            return None
        summary = {"model": arguments.model, "dataset": data.dataset, **summarise_features(arguments.output_dir)}
        file = Path(arguments.output_dir) / "summary.json"
        with writing_errors(file):
            write_text_atomically(file, json_text(summary))
    medium, shards = model.config.medium, summary["num_shards"]
    found = f"{summary['num_videos']} {medium}s in {shards} {'file' if shards == 1 else 'files'}"
    print(f"\n{found}, {summary['num_broken']} broken")
    print(f"features: {arguments.output_dir}   (summary.json names the broken {medium}s)")
    return summary


def main() -> None:
    run(sys.argv[1:])
    PartialState().destroy_process_group()
