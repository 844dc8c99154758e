"""
Evaluate a classifier on labelled videos or images: a saved probe or fine-tuned model, or a converted checkpoint.

    vjepa evaluate --model outputs/probe --dataset videos/ --output_dir outputs/evaluation
    accelerate launch -m transformers_vjepa evaluate --model models/vitl16-k400 --dataset k400_val.csv \\
        --protocol k400_16x8x3 --dtype bfloat16 --num_workers 8 --output_dir outputs/k400

The same command resumes a stopped evaluation, with any number of processes. It also reads videos again that were
broken or whose files were replaced. The output folder gets results.json, predictions.parquet (classes and
probabilities of every video), confusion.png and classes.png. For data without labels it gets only the predictions.

Protocols (frames x segments x views): k400_16x8x3 and ssv2_16x2x3 as published, for videos; in1k for images. The
arguments of "protocol" override parts of the protocol. Without a protocol, the model sees the centre crop of one clip
in the middle of the video.
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

from ..command_line.parsing import MISTAKES, names_given, parse_with_recipe, user_errors
from ..data.arguments import CorpusArguments, Dtype, start_processes
from ..data.clip_reading import TooManyBrokenVideosError
from ..data.corpora import Corpus
from ..data.labels import LabelMismatchError, are_matched_by_name, match_classes, model_class_names
from ..data.lanes import StreamError
from ..data.table_corpus import SequentialCorpus
from ..evaluation.metrics import check_scikit_learn
from ..evaluation.protocols import (
    PROTOCOLS,
    EvaluationProtocol,
    PredictionError,
    broken_videos,
    check_protocol_fits,
    load_classifier,
    predict,
    read_predictions,
    resolve_protocol,
)
from ..evaluation.reports import EmptyReportError, describe_results, kind_of_clips, write_prediction_report
from ..evaluation.shards import PassOptions, ShardError, writing_errors
from ..models.vjepa.modeling_vjepa import VJEPAForVideoClassification
from ..safety.output_lock import output_lock
from ..safety.sanitizing import log_line
from .dry_run import check_writable, classifier_rows, corpus_rows, table


@dataclass(kw_only=True)
class EvaluationArguments:
    """The classifier to evaluate."""

    _argument_group_name = "evaluation"

    model: str = HfArg(help="Classifier: a folder or Hub id.")
    output_dir: str = HfArg(help="Folder for results, predictions and charts.")
    dtype: Dtype = HfArg(default="float32", help="Type of weights and computation.")
    label_matching: Literal["name", "number"] = HfArg(
        default="name",
        help="Match classes of data and model by name if both have names, or by number (for example folders "
        "named by WordNet ids, in their order). Names that are numbers are these numbers.",
    )


@dataclass(kw_only=True)
class ProtocolArguments:
    """The clips and crops of a video that the model sees."""

    _argument_group_name = "protocol"

    protocol: str | None = HfArg(default=None, help="Name of a protocol.", metadata={"choices": list(PROTOCOLS)})
    num_frames: int | None = HfArg(default=None, help="Frames of a clip; by default the model's number.")
    num_segments: int | None = HfArg(default=None, help="Clips of a video, evenly spaced.")
    num_views: int | None = HfArg(default=None, help="Crops of a clip along its long side.")
    frame_step: int | None = HfArg(
        default=None, help="Frames from one frame of a clip to the next; by default the protocol's or processor's."
    )
    spacing: Literal["stride", "linspace"] | None = HfArg(
        default=None, help="Frames at the exact step, or evenly spaced and rounded, as published."
    )


def parse_arguments(argv: Sequence[str]) -> tuple[EvaluationArguments, CorpusArguments, ProtocolArguments]:
    """The command line overrides the recipe, which overrides the defaults."""
    return parse_with_recipe(
        argv,
        (EvaluationArguments, CorpusArguments, ProtocolArguments),
        description=__doc__,
        dry_run_help="Show what the command would do: model, protocol, data, first videos; then exit.",
    )


def describe(
    model: VJEPAForVideoClassification, corpus: Corpus, protocol: EvaluationProtocol, dataset: str, output_dir: str
) -> str:
    """What the command would do (`--dry_run`)."""
    segments, views = protocol.num_segments, protocol.num_views
    seen = f"{segments} segments x {views} views of each video, {segments * views} clips"
    rate = f"every {protocol.frame_step} frames" if protocol.frame_step else f"{protocol.target_fps:g} frames a second"
    crops = f"{views} view{'s' if views > 1 else ''} of each image"
    text = crops if model.config.is_image_model else f"{seen}; {rate}, {protocol.spacing}"
    rows = [*classifier_rows(model), ("protocol", text)]
    return table([*rows, *corpus_rows({log_line(dataset): corpus}, config=model.config), ("output", output_dir)])


def run(argv: Sequence[str]) -> dict[str, Any] | None:
    """One evaluation from its command line; the results on the main process, `None` on the others and of a dry run."""
    with ExitStack() as stack:
        return _run(argv, stack)


def _run(argv: Sequence[str], stack: ExitStack) -> dict[str, Any] | None:
    with user_errors(*MISTAKES, ImportError):
        check_scikit_learn()  # before hours of computation
        arguments, data, choices = parse_arguments(argv)
        state = start_processes(use_cpu=data.use_cpu)
        corpus = data.open()
        model, processor = load_classifier(arguments.model, dtype=getattr(torch, arguments.dtype))
        changes = {name: value for name, value in vars(choices).items() if name != "protocol"}
        protocol = resolve_protocol(choices.protocol, processor=processor, **changes)
        # Refuse a protocol or labels that do not fit before the computation starts.
        geometry = protocol.geometry(model.config, backend=data.decoder)
        check_protocol_fits(choices.protocol, corpus)
        names = model_class_names(model.config)
        corpus, classes = match_classes(corpus, names, by=arguments.label_matching)
        if "dry_run" in names_given(argv):
            check_writable(arguments.output_dir)
            print(describe(model, corpus, protocol, data.dataset, arguments.output_dir))
            return None
        stack.enter_context(output_lock(arguments.output_dir))
    expected = (
        ShardError,
        StreamError,
        TooManyBrokenVideosError,
        PredictionError,
        LabelMismatchError,
        EmptyReportError,
    )
    with user_errors(*expected):
        shards = predict(
            model.to(state.device),
            corpus,
            Path(arguments.output_dir) / "shards",
            geometry,
            processor=processor,
            options=PassOptions.from_arguments(data, state),
        )
        state.wait_for_everyone()
        if not state.is_main_process:
            return None
        with writing_errors(arguments.output_dir):
            matching = "name" if are_matched_by_name(corpus, names, by=arguments.label_matching) else "number"
            if isinstance(corpus, SequentialCorpus) and not corpus.class_names and arguments.label_matching == "name":
                matching = "name or number"  # each label by its kind
            details = {
                "model": arguments.model,
                "model_weights_sha256": shards.settings["weights"],
                "dtype": arguments.dtype,
                "dataset": data.dataset,
                "manifest_sha256": shards.settings.get("manifest"),
                "label_matching": matching,
                "protocol": {"name": choices.protocol, **vars(protocol)},
                "sampling": shards.settings["sampling"],
                "decoder": data.decoder,
            }
            results = write_prediction_report(
                read_predictions(shards, classes),
                arguments.output_dir,
                class_names=names,
                broken=broken_videos(shards),
                details=details,
            )
    kind = kind_of_clips(corpus, otherwise="videos")
    matched = f"matched by {results['label_matching']}" if results["num_labelled"] else "none"
    print(f"\n{describe_results(results, kind=kind)}\nlabels:        {matched}\nresults:       {arguments.output_dir}")
    return results


def main() -> None:
    run(sys.argv[1:])
    PartialState().destroy_process_group()
