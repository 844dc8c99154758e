"""What ends a process of a run, or one of several, and what the next run makes of it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from children import child, in_two_processes, two_processes
from faulty import run_all
from runs import assert_same_checkpoint
from videos import write_video

from transformers_vjepa.command_line.parsing import LAUNCH_CONFIGS
from transformers_vjepa.commands import pretrain
from transformers_vjepa.training.checkpoints import resolve_checkpoint, trained_steps

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE.parents[1] / "scripts"

TINY = """
    --preset vitt16 --crop_size 32 --patch_size 8 --frames_per_clip 4 --frame_step 2 --hidden_size 24
    --num_hidden_layers 2 --num_attention_heads 2 --pred_hidden_size 12 --pred_num_hidden_layers 1
    --pred_num_attention_heads 2 --per_device_train_batch_size 2 --logging_steps 1 --save_total_limit 10
    --gradient_accumulation_steps 2 --disable_tqdm true --resume_from_checkpoint auto --use_cpu true
""".split()
# At a free port, not at a fixed one: launches may run side by side.
LAUNCHER = "-m accelerate.commands.launch --main_process_port 0 --config_file".split()
LAUNCHER.append(str(LAUNCH_CONFIGS / "two_cpu_processes.yaml"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for number in range(10):
        write_video(root / f"{number}.mp4", level=20 * number + 20)
    return root


def command(folder, output, **settings):
    settings = {"dataset": folder, "output_dir": output, "max_steps": 6, "save_steps": 2} | settings
    return TINY + [part for name, value in settings.items() for part in (f"--{name}", str(value))]


@contextmanager
def launched(*words, output):
    """The launcher of two processes, which print into a file. All of them end with the block."""
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *LAUNCHER, *map(str, words)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "run"
    pretrain.run(command(folder, output))
    return output


def test_killed_and_resumed(folder, whole, tmp_path):
    """At the worst moment: all of a checkpoint is written, and it has no name yet."""
    runs = [{"argv": command(folder, tmp_path), "step": 5, "fault": "kill_saving"}]
    threads = torch.get_num_threads()  # of the other runs
    with child(run_all, runs, output=tmp_path / "printed.txt", num_threads=threads) as process:
        assert process.wait() == -signal.SIGKILL, process.output
    unfinished = tmp_path / "_unfinished" / "checkpoint-6"
    assert (unfinished / "trainer_state.json").is_file()
    assert resolve_checkpoint(tmp_path, "auto") == str(tmp_path / "checkpoint-4")
    with pytest.raises(SystemExit, match="not a complete checkpoint"):
        pretrain.run(command(folder, tmp_path, resume_from_checkpoint=unfinished))
    pretrain.run(command(folder, tmp_path))
    assert_same_checkpoint(tmp_path / "checkpoint-6", whole / "checkpoint-6")
    assert not unfinished.exists()


def test_killed_while_the_model_is_saved(folder, whole, tmp_path):
    """The last checkpoint is there before the model: the same command writes it again."""
    shutil.copytree(whole, tmp_path / "run")
    file = tmp_path / "run" / "model.safetensors"
    expected = file.read_bytes()
    for left in (expected[:1000], b""):
        file.write_bytes(left)
        pretrain.run(command(folder, tmp_path / "run"))
        assert file.read_bytes() == expected


def test_one_signal_stops_two_processes_and_both_resume(folder, tmp_path):
    whole, stopped = command(folder, tmp_path / "whole"), command(folder, tmp_path / "stopped")
    runs = [{"argv": whole}, {"argv": stopped, "rank": 1, "step": 2, "fault": "terminate"}, {"argv": stopped}]
    in_two_processes(run_all, runs, folder=tmp_path / "printed")
    saved = sorted(path.name for path in (tmp_path / "stopped").glob("checkpoint-*"))
    assert saved == [f"checkpoint-{step}" for step in (2, 3, 4, 6)]  # 3: where the signal came
    folders = [tmp_path / name / "checkpoint-6" for name in ("stopped", "whole")]
    assert_same_checkpoint(*folders, rngs=("rng_state_0.pth", "rng_state_1.pth"))
    # One process resumes where the two stopped.
    alone = pretrain.run(command(folder, tmp_path / "stopped", max_steps=7))
    place = json.loads((tmp_path / "stopped" / "checkpoint-7" / "position.json").read_text())
    assert alone.position.start_clip == 6 * 2 * 2 * 2
    assert place["clips"] == 6 * 2 * 2 * 2 + 2 * 2


def lines_with(message, output):
    return [line for line in output.splitlines() if re.match(message, line)]


def test_one_failing_process_ends_both(folder, tmp_path):
    argv = command(folder, tmp_path / "run", max_steps=100_000, save_steps=2)
    runs = [{"argv": argv, "rank": 1, "step": 1, "fault": "diverge"}]
    output = tmp_path / "printed.txt"
    with launched(HERE / "faulty.py", json.dumps(runs), output=output) as process:
        assert process.wait(timeout=300) == 1, output.read_text()
    assert lines_with("error: the loss is nan at step 2 on the videos", output.read_text()), output.read_text()


def test_a_full_disk_ends_the_process_that_writes(folder, tmp_path):
    argv = command(folder, tmp_path / "run", max_steps=100_000, save_steps=2)
    runs = [{"argv": argv, "rank": 0, "step": 1, "fault": "fill_disk"}]
    codes, output = two_processes(run_all, runs, folder=tmp_path / "printed")
    assert codes[0] == 1, output
    assert lines_with("error: cannot write .*checkpoint-2", output), output


def test_a_signal_to_the_whole_group_of_a_launcher(folder, tmp_path):
    """The launcher passes on to its processes what they have received already."""
    argv = command(folder, tmp_path, max_steps=100_000, save_steps=100_000)
    output = tmp_path / "printed.txt"
    with launched(SCRIPTS / "pretrain.py", *argv, output=output) as process:
        deadline = time.monotonic() + 300
        while ": loss " not in output.read_text():  # the first step is done
            assert process.poll() is None and time.monotonic() < deadline, output.read_text()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=300)
    assert output.read_text().count("stopped by a signal; continue with the same command") == 1
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert trained_steps(checkpoint) > 0
