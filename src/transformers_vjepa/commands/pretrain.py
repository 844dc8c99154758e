"""The command `vjepa pretrain`; with `--dry_run` it prints what the run would do."""

import sys
from itertools import islice

from ..command_line.parsing import MISTAKES, check_processes, names_given, user_errors
from ..data.corpora import SequentialCorpus
from ..data.streaming import StreamShare, parse_sources
from ..pretraining.arguments import parse_arguments
from ..pretraining.masking import get_mask_strategy
from ..pretraining.setup import (
    FAULTS,
    MODELS,
    build_config,
    build_stream,
    choose_masks,
    note_stills,
    open_sources,
    place_synthetic_corpus,
)
from ..pretraining.setup import run as run_pretraining
from ..pretraining.trainer import VJEPATrainer
from ..safety.sanitizing import log_line
from ..training.checkpoints import resolve_checkpoint
from .dry_run import check_writable, corpus_text, hub_text, pretraining_sizes, pretraining_steps, table


def describe(argv: list[str]) -> str:
    """What a command line would do (`--dry_run`). Nothing is trained, but a built-in corpus is rendered."""
    model, data, training = parse_arguments(argv)
    check_processes(training.world_size)
    check_writable(training.output_dir)
    checkpoint = resolve_checkpoint(training.output_dir, training.resume_from_checkpoint, token=training.hub_token)
    place_synthetic_corpus(data, training)
    config = build_config(model, token=training.hub_token)
    choose_masks(config, training, names_given(argv))
    config.pred_num_mask_tokens = len(get_mask_strategy(training.mask_strategy, config=config))
    sources, opened = parse_sources(data.dataset), open_sources(data)
    note_stills(opened, model, config)
    corpora = [item.source for item in opened]
    indexed = all(not isinstance(corpus, SequentialCorpus) for corpus in corpora)
    num_videos = sum(map(len, corpora)) if indexed else None
    stream = build_stream(data, config, training, share=StreamShare(), shuffle_buffer=4)
    clips = list(islice(stream, 3))
    found = []
    for item, corpus in zip(sources, corpora, strict=True):
        weight = f" (weight {item.weight:g})" if item.weight is not None else ""
        found.append(f"{log_line(str(item.source))}: {corpus_text(corpus)}{weight}")
    return table(
        [
            *pretraining_sizes(MODELS[model.prediction_target], config, training, example=clips[0]),
            *pretraining_steps(training, num_videos=num_videos),
            ("data", found),
            ("first clips", [log_line(clip["path"]) for clip in clips]),
            ("output", f"{training.output_dir}" + (f", resuming from {checkpoint}" if checkpoint else "")),
            *([("Hub", hub_text(training))] if training.push_to_hub else []),
        ]
    )


def run(argv: list[str]) -> VJEPATrainer | None:
    """One pretraining run from its command line; with `--dry_run` prints what it would do, and returns `None`."""
    if "dry_run" in names_given(argv):
        with user_errors(*MISTAKES, *FAULTS):
            print(describe(argv))
        return None
    return run_pretraining(argv)


def main() -> None:
    trainer = run(sys.argv[1:])
    if trainer and trainer.stop_signal:
        sys.exit(128 + trainer.stop_signal)  # as shells report the end by a signal
