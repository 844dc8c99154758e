"""
Evaluate a classifier on labelled videos or pictures: a saved probe or fine-tuned model, or a converted checkpoint.

    vjepa evaluate --model outputs/probe --dataset videos/ --output_dir outputs/evaluation
    accelerate launch -m transformers_vjepa evaluate --model models/vitl16-k400 --dataset k400_val.csv \\
        --protocol k400_16x8x3 --dtype bfloat16 --num_workers 8 --output_dir outputs/k400

Run the same command again, with any number of processes, and it goes on where it stopped. The output folder gets
results.json, predictions.parquet (classes and probabilities of every video), confusion.png and classes.png. Without
labels there are predictions only.

Protocols (frames x segments x views): k400_16x8x3 and ssv2_16x2x3 as published, for videos; in1k for pictures. The
arguments of "protocol" override their parts. Without one, the centre of one clip in the middle of the video is seen.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from transformers import PreTrainedConfig

from ..command_line.parsing import MISTAKES, names_given, parse_with_recipe, user_errors
from ..data.arguments import CorpusArguments, Dtype, start_processes
from ..data.clip_reading import TooManyBrokenVideosError
from ..data.corpora import Corpus
from ..data.labels import LabelMismatchError, align_labels, have_names
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
from ..evaluation.reports import EmptyReportError, describe_results, write_prediction_report
from ..evaluation.shards import PassOptions, ShardError, ShardFolder, writing_errors
from ..models.vjepa.modeling_vjepa import VJEPAForVideoClassification
from ..safety.sanitizing import log_line
from .dry_run import check_writable, classifier_rows, corpus_rows, table


@dataclass(kw_only=True)
class EvaluationArguments:
    """What is evaluated."""

    _argument_group_name = "evaluation"

    model: str = field(metadata={"help": "Classifier: a folder or Hub id."})
    output_dir: str = field(metadata={"help": "Where results, predictions and pictures go."})
    dtype: Dtype = field(default="float32", metadata={"help": "Type of weights and computation."})
    label_matching: Literal["name", "number"] = field(
        default="name",
        metadata={
            "help": "Match classes of data and model by name where both have names, or by number (for example of "
            "folders named by WordNet ids, in their order)."
        },
    )


@dataclass(kw_only=True)
class ProtocolArguments:
    """Which clips and crops of a video are seen."""

    _argument_group_name = "protocol"

    protocol: str | None = field(default=None, metadata={"help": "By name.", "choices": list(PROTOCOLS)})
    num_frames: int | None = field(default=None, metadata={"help": "Frames of a clip; as many as the model takes."})
    num_segments: int | None = field(default=None, metadata={"help": "Clips of a video, spread evenly."})
    num_views: int | None = field(default=None, metadata={"help": "Crops of a clip along its long side."})
    frame_step: int | None = field(
        default=None,
        metadata={"help": "Frames from one frame of a clip to the next; by default the protocol's or processor's."},
    )
    spacing: Literal["stride", "linspace"] | None = field(
        default=None, metadata={"help": "At a true stride, or spread over the clip and rounded, as published."}
    )


Arguments = tuple[EvaluationArguments, CorpusArguments, ProtocolArguments]


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Command line over recipe over defaults."""
    return parse_with_recipe(
        argv,
        (EvaluationArguments, CorpusArguments, ProtocolArguments),
        description=__doc__,
        dry_run_help="Say what would be done: model, protocol, data, first videos; then exit.",
    )


def details(
    arguments: EvaluationArguments,
    data: CorpusArguments,
    protocol: EvaluationProtocol,
    name: str | None,
    shards: ShardFolder,
    *,
    by_name: bool,
) -> dict[str, Any]:
    """What results.json records besides the results."""
    settings = shards.settings
    return {
        "model": arguments.model,
        "model_weights_sha256": settings["weights"],
        "dtype": arguments.dtype,
        "dataset": data.dataset,
        "manifest_sha256": settings.get("manifest"),
        "label_matching": "name" if by_name else "number",
        "protocol": {"name": name, **vars(protocol)},
        "sampling": settings["sampling"],
        "decoder": data.decoder,
    }


def report(
    shards: ShardFolder, corpus: Corpus, config: PreTrainedConfig, arguments: EvaluationArguments, **extra: Any
) -> dict[str, Any]:
    """Writes the results of all processes."""
    label_map = align_labels(corpus, config, by=arguments.label_matching)
    names = [config.id2label[label] for label in range(config.num_labels)]
    return write_prediction_report(
        read_predictions(shards, label_map),
        arguments.output_dir,
        class_names=names,
        broken=broken_videos(shards),
        **extra,
    )


def describe(
    model: VJEPAForVideoClassification, corpus: Corpus, protocol: EvaluationProtocol, dataset: str, output_dir: str
) -> str:
    """What would be done (`--dry_run`)."""
    clips = protocol.num_segments * protocol.num_views
    seen = f"{protocol.num_segments} segments x {protocol.num_views} views of each video, {clips} clips"
    rows = classifier_rows(model, batch_size=1, finetune=False, bf16=False)
    rate = f"every {protocol.frame_step} frames" if protocol.frame_step else f"{protocol.target_fps:g} frames a second"
    rows += [("protocol", f"{seen}; {rate}, {protocol.spacing}")]
    return table([*rows, *corpus_rows({log_line(dataset): corpus}), ("output", output_dir)])


def run(argv: Sequence[str]) -> dict[str, Any] | None:
    """One evaluation from its command line; the results on the main process, `None` on the others and of a dry run."""
    with user_errors(*MISTAKES, ImportError):
        check_scikit_learn()  # not after hours of computing
        arguments, data, choices = parse_arguments(argv)
        state = start_processes(use_cpu=data.use_cpu)
        corpus = data.open()
        model, processor = load_classifier(arguments.model, dtype=getattr(torch, arguments.dtype))
        changes = {name: value for name, value in vars(choices).items() if name != "protocol"}
        protocol = resolve_protocol(choices.protocol, processor=processor, **changes)
        # Refuse what does not fit before anything is computed.
        geometry = protocol.geometry(model.config, backend=data.decoder)
        check_protocol_fits(choices.protocol, corpus)
        align_labels(corpus, model.config, by=arguments.label_matching)
        if "dry_run" in names_given(argv):
            check_writable(arguments.output_dir)
            print(describe(model, corpus, protocol, data.dataset, arguments.output_dir))
            return None
    with user_errors(ShardError, TooManyBrokenVideosError, PredictionError, LabelMismatchError, EmptyReportError):
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
        by_name = arguments.label_matching == "name" and have_names(corpus, model.config)
        extra = details(arguments, data, protocol, choices.protocol, shards, by_name=by_name)
        with writing_errors(arguments.output_dir):
            results = report(shards, corpus, model.config, arguments, details=extra)
    print(f"\n{describe_results(results)}\nresults:       {arguments.output_dir}")
    return results


def main() -> None:
    run(sys.argv[1:])
    if PartialState().num_processes > 1:
        torch.distributed.destroy_process_group()
