"""The command `vjepa train_classifier`; with `--dry_run` it prints what the run would do."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch

from ..command_line.parsing import MISTAKES, names_given, user_errors
from ..data.clip_loader import WorkersLostError
from ..data.clip_reading import TooManyBrokenVideosError
from ..data.corpus import IndexedCorpus
from ..data.lanes import StreamError
from ..evaluation.arguments import Arguments, parse_arguments
from ..evaluation.neighbours import evaluate_neighbours
from ..evaluation.setup import build, class_names, classifier_config, load_config, open_splits, place_synthetic_corpus
from ..evaluation.shards import ShardError
from ..evaluation.trainer import UnusableSplitError, VJEPAClassificationTrainer
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForVideoClassification
from ..safety.output_lock import output_lock
from ..training.checkpoints import UnusableCheckpointError
from ..training.memory import training_memory
from ..training.progress import no_bars
from ..training.stream_trainer import DivergedError
from .dry_run import Row, bytes_text, check_writable, classifier_rows, corpus_rows, memory_text, table

# Errors that end a run with one line: the user has to correct something other than the command line.
_FAULTS = (
    UnusableCheckpointError,
    DivergedError,
    ShardError,
    StreamError,
    TooManyBrokenVideosError,
    UnusableSplitError,
    WorkersLostError,
)


def describe(argv: Sequence[str]) -> str:
    """What a command line would do (`--dry_run`). Nothing is trained or written."""
    parsed = parse_arguments(argv)
    check_writable(parsed.training.output_dir)
    config = load_config(parsed)
    parsed, synthetic = place_synthetic_corpus(parsed)
    arguments, data, training = parsed
    corpora = open_splits(data)
    names = class_names(data, corpora, synthetic)
    config = classifier_config(arguments, config, names)
    with torch.device("meta"):
        model = VJEPAForVideoClassification(config)
    rows = classifier_rows(model)
    if arguments.mode == "knn":
        votes = f"{arguments.num_neighbors} nearest neighbours, temperature {arguments.knn_temperature:g}"
        rows += [("vote", votes), _features_row(config, corpora, parsed)]
    else:
        rows += _training_rows(model, corpora, parsed)
    return table([*rows, *corpus_rows(corpora, config=config), ("output", str(training.output_dir))])


def _training_rows(
    model: VJEPAForVideoClassification, corpora: Mapping[str, IndexedCorpus], parsed: Arguments
) -> list[Row]:
    """Memory, steps, probes and features of a training run."""
    (arguments, data, training), config = parsed, model.config
    epoch = training.lay_out_steps(num_clips=len(corpora["train"]), has_validation="validation" in corpora)
    batch_size = training.per_device_train_batch_size
    rows: list[Row] = []
    if arguments.mode == "finetune":
        shape = (batch_size, config.frames_per_clip, config.in_chans, config.crop_size, config.crop_size)
        memory = training_memory(
            lambda: type(model)(config), lambda network, mode: network(torch.empty(shape)), bf16=training.bf16
        )
        rows.append(("memory", memory_text(memory)))
    steps = f"{training.max_steps:,} of {training.clips_per_step} {config.noun}s, {epoch:,} per epoch"
    rows.append(("steps", f"{steps}; evaluation every {training.save_steps:,}"))
    if arguments.mode == "probe":
        rates = " ".join(f"{rate * training.rate_factor:g}" for rate in training.learning_rates)
        decays = " ".join(map(str, training.weight_decays))
        optimizer = "" if training.probe_optimizer == "adamw" else f"{training.probe_optimizer.upper()}, "
        rows.append(("probes", f"{optimizer}learning rates {rates}, each with the weight decays {decays}"))
        if not data.augment:
            rows.append(_features_row(config, corpora, parsed))
    return rows


def _features_row(config: VJEPAConfig, corpora: Mapping[str, IndexedCorpus], parsed: Arguments) -> Row:
    """The size of the features that are stored."""
    data = parsed.data
    # Means of several segments are averaged.
    vectors = 1 if config.pooling == "mean" else config.num_patches * data.num_segments
    size = getattr(torch, data.feature_dtype).itemsize * vectors * config.pooled_size
    total = sum(map(len, corpora.values())) * size * data.num_views
    return "features", f"{bytes_text(total)} on disk, in {parsed.training.output_dir}/features"


def run(argv: Sequence[str]) -> VJEPAClassificationTrainer | None:
    """
    One training run from its command line. `None` without a training: with `--mode knn`, and with `--dry_run`, which
    prints what the run would do.
    """
    if "dry_run" in names_given(argv):
        with user_errors(*MISTAKES, TooManyBrokenVideosError):
            print(describe(argv))
        return None
    with ExitStack() as stack:
        with user_errors(*MISTAKES, TooManyBrokenVideosError):
            arguments = parse_arguments(argv)
            stack.enter_context(output_lock(arguments.training.output_dir))
            if arguments.model.mode == "knn":
                with user_errors(*_FAULTS), no_bars(wanted=arguments.training.disable_tqdm):
                    summary = evaluate_neighbours(arguments)
                if summary:
                    print(summary)
                return None
            job = build(*arguments)
        trainer = job.trainer
        with user_errors(*_FAULTS):
            job.train()
            if not trainer.stop_signal:
                with no_bars(wanted=trainer.args.disable_tqdm):
                    summary = job.finish()
        if trainer.is_world_process_zero():
            if trainer.stop_signal:
                print("stopped by a signal; continue with the same command and --resume_from_checkpoint auto")
            else:
                trainer.finish()
                if trainer.commit_url:
                    print(f"pushed:   {trainer.commit_url}")
                print(summary)
    return trainer


def main() -> None:
    trainer = run(sys.argv[1:])
    if trainer and trainer.stop_signal:
        sys.exit(128 + trainer.stop_signal)  # as shells report the end by a signal
