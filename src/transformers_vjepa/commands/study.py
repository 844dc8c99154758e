"""
The paper's findings in miniature, with confidence intervals: V-JEPA (I-JEPA with --images) against an untrained
network, against the same network that predicts pixels in equal time, against other masks and hand-crafted descriptors,
for several seeds.

    vjepa study                                           # more than an hour on two CPU cores
    vjepa study --arms vjepa untrained --seeds 0
    vjepa study --images                                  # the same for I-JEPA, on images
    vjepa study --dataset videos/ --output_dir outputs/mine/study -- --frame_step 8

Arguments after "--" go to every run of vjepa pretrain. The output folder gets study.json and the report. Ctrl-C stops
the study; the same command resumes it, and runs only what is missing.
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from ..command_line.parsing import MISTAKES, parse_with_recipe, user_errors
from ..evaluation.metrics import check_scikit_learn
from ..safety.atomic_files import write_text_atomically
from ..safety.output_lock import output_lock
from ..safety.sanitizing import json_text
from ..study.arguments import CorpusArguments, StudyArguments
from ..study.report import write_report
from ..study.results import STUDY_FILE, describe
from ..study.runs import VJEPA, StudyError, StudyRunner, run_side_by_side


def parse_arguments(argv: Sequence[str]) -> StudyRunner:
    """The study of a command line."""
    place = argv.index("--") if "--" in argv else len(argv)
    arguments, data = parse_with_recipe(argv[:place], (StudyArguments, CorpusArguments), description=__doc__)
    return StudyRunner(arguments, data, extra=list(argv[place + 1 :]))


def run(argv: Sequence[str]) -> dict[str, Any] | None:
    """One study from its command line; `None` for a single job of a study."""
    with ExitStack() as stack:
        return _run(argv, stack)


def _run(argv: Sequence[str], stack: ExitStack) -> dict[str, Any] | None:
    with user_errors(*MISTAKES, ImportError, StudyError):
        check_scikit_learn()  # before an hour of computation
        study = parse_arguments(argv)
        if not study.arguments.job:  # jobs are processes of the study
            stack.enter_context(output_lock(study.folder))
        study.prepare()
        names = {job.name: job for job in study.jobs}
        if study.arguments.job and study.arguments.job not in names:
            raise ValueError(f"--job {study.arguments.job} is not in this study: choose from {', '.join(names)}")
    if study.arguments.job:
        with user_errors(StudyError):
            study.do(names[study.arguments.job])
        return None
    commands = {name: [*VJEPA, "study", "--job", name, *argv] for name in names}
    with user_errors(StudyError):
        run_side_by_side(commands, logs=study.folder / "logs", num_processes=study.arguments.num_processes)
    results = study.collect()
    file = study.folder / STUDY_FILE
    write_text_atomically(file, json_text(results, indent=1))
    print(f"\n{describe(results)}\n\nresults: {file}")
    return results


def main() -> None:
    if run(sys.argv[1:]) is not None:
        print(f"report:  {write_report(parse_arguments(sys.argv[1:]).folder)}")
