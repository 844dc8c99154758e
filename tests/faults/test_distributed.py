"""Several processes: the same training as in one, sharded or not, and an end where one of them fails."""

import functools
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from children import in_two_processes
from launched import run_scenarios
from pretraining_command import command
from safetensors.torch import load_file
from transformers import AutoModel

from transformers_vjepa.command_line.parsing import LAUNCH_CONFIGS
from transformers_vjepa.data.synthetic import CorpusConfig, build_corpus
from transformers_vjepa.pretraining import setup
from transformers_vjepa.pretraining.images import TrainingImages
from transformers_vjepa.training.checkpoints import last_checkpoint

LAUNCHED = Path(__file__).with_name("launched.py")
SCRIPTS = LAUNCHED.parents[2] / "scripts"

# Everything that could depend on how clips are spread over processes. Adam's usual epsilon would turn rounding
# differences of tiny gradients into whole steps.
LEARNING = {
    "gradient_accumulation_steps": 2,
    "context_variance_weight": 0.5,
    "context_covariance_weight": 0.05,
    "variance_weight": 0.1,
    "initializer_range": 0.2,
    "max_grad_norm": 0.1,
    "clip_grad_from_step": 1,
    "adam_epsilon": 0.01,
    "start_learning_rate": 0.05,
    "learning_rate": 0.05,
    "ema_momentum": 0.9,
}
# What is logged of speed.
SPEED = {"clips_per_second", "data_wait_share", "epoch", "step"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def corpus(folder):
    config = CorpusConfig(num_train=16, num_test=1, size=32, num_frames=10)
    return build_corpus(folder / "synthetic", config=config, num_processes=1)


@pytest.fixture(scope="module")
def one_shard(corpus):
    """The address of a tar with all videos: it can but be streamed, and is a single shard."""
    root = corpus.parent / "served"
    root.mkdir()
    with tarfile.open(root / "0.tar", "w") as archive:
        for number, video in enumerate(sorted((corpus / "train").rglob("*.mp4"))):
            archive.add(video, arcname=f"{number:03}.mp4")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/0.tar"
        server.shutdown()


def environment():
    """Two threads in each of several processes would fight over the cores."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


def launch_command(config, *arguments, **options):
    # At a free port, not at a fixed one: launches may run side by side.
    options = {"main_process_port": 0} | options
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(LAUNCH_CONFIGS / f"{config}.yaml"),
    ]
    return [*launcher, *given, *map(str, arguments)]


def launched(file, scenarios):
    """The script that runs `scenarios`, pairs of a function and a command line, and its argument."""
    file.write_text(json.dumps(scenarios))
    return LAUNCHED, file


def run(command_line):
    """The timeout is what is asked of every failure here: that it ends."""
    return subprocess.run(command_line, env=environment(), capture_output=True, text=True, timeout=400)


def train_alone(arguments):
    """In this process, without images: drawing takes longer than training here."""
    trainer, checkpoint = setup.build_from_argv(arguments)
    trainer.remove_callback(TrainingImages)
    setup.train(trainer, checkpoint)


def weights(folder):
    return load_file(folder / "model.safetensors")


def facts(folder):
    return [json.loads((folder / f"facts_{process}.json").read_text()) for process in (0, 1)]


def assert_same_run(folder, expected):
    """Everything that is logged but speed, and the weights."""
    logs = [json.loads((run / "trainer_state.json").read_text())["log_history"] for run in (folder, expected)]
    got, wanted = [[entry for entry in log if "loss" in entry] for log in logs]
    assert len(got) == len(wanted) == 4
    for entry, reference in zip(got, wanted, strict=True):
        assert entry.keys() == reference.keys()
        for name in entry.keys() - SPEED:
            assert entry[name] == pytest.approx(reference[name], abs=1e-5), name
    got, wanted = weights(folder), weights(expected)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(got[name], value, rtol=0, atol=1e-5), name


@pytest.fixture(scope="module")
def one(corpus, folder):
    """One process with the batch of two."""
    train_alone(command(corpus, folder / "one", per_device_train_batch_size=8, **LEARNING))
    return folder / "one"


@pytest.fixture(scope="module")
def two(corpus, one_shard, folder):
    """Two processes with the whole model each; the last run of the launch stands still."""
    streamed = command(corpus, folder / "streamed", max_steps=2, save_strategy="no", shuffle_buffer=1)
    streamed[streamed.index("--dataset") + 1] = one_shard
    scenarios = [
        ("runs", command(corpus, folder / "two", ddp_timeout=20, **LEARNING)),
        ("runs", streamed),
        ("ends_unevenly", command(corpus, folder / "uneven", save_strategy="no")),
        ("stands_still", command(corpus, folder / "still")),
    ]
    return run(launch_command("two_cpu_processes", *launched(folder / "two.json", scenarios)))


@pytest.fixture(scope="module")
def sharded(corpus, one, folder):
    """Two processes with half of the model each."""
    pixels = LEARNING | {"prediction_target": "pixels"}
    train_alone(command(corpus, folder / "one_pixels", per_device_train_batch_size=8, **pixels))
    resumed = {"resume_from_checkpoint": folder / "sharded" / "checkpoint-2"}
    scenarios = [
        ("runs_with_images", command(corpus, folder / "sharded", **LEARNING)),
        ("runs", command(corpus, folder / "sharded_resumed", **LEARNING, **resumed)),
        (
            "runs",
            command(corpus, folder / "sharded_from_one", **LEARNING, resume_from_checkpoint=one / "checkpoint-2"),
        ),
        ("runs", command(corpus, folder / "sharded_pixels", **pixels)),
    ]
    in_two_processes(run_scenarios, scenarios, folder=folder / "printed", config="two_cpu_processes_fsdp2")
    return folder / "sharded"


@pytest.mark.slow
def test_two_processes_learn_what_one_does(one, two, folder):
    assert_same_run(folder / "two", one)
    assert [entry["share_held"] for entry in facts(folder / "two")] == [1, 1]


@pytest.mark.slow
def test_two_processes_share_out_a_single_shard(two, folder):
    read = [entry["paths"] for entry in facts(folder / "streamed")]
    assert [len(paths) for paths in read] == [8, 8]
    assert max(Counter(read[0] + read[1]).values()) == 1


@pytest.mark.slow
def test_a_data_set_that_ends_early_in_one_process_is_named(two, folder):
    for entry in facts(folder / "uneven"):
        assert entry["step"] == 2
        assert "at step 2 the 2 processes have [1, 0] batches" in entry["error"]


@pytest.mark.slow
def test_a_process_that_stands_still_ends_the_launch(two, folder):
    assert two.returncode != 0
    assert "imed out" in two.stderr, two.stderr
    assert "FAILED" in two.stderr
    assert last_checkpoint(folder / "still") == folder / "still" / "checkpoint-2"


@pytest.mark.slow
def test_sharded_processes_learn_what_one_does(one, sharded, folder):
    assert_same_run(sharded, one)
    assert [entry["share_held"] for entry in facts(sharded)] == pytest.approx([0.5, 0.5], abs=0.01)
    assert_same_run(folder / "sharded_pixels", folder / "one_pixels")
    assert (sharded / "pictures" / "features.png").is_file()


@pytest.mark.slow
def test_a_sharded_run_resumes_as_if_it_had_not_stopped(one, sharded, folder):
    expected, got = weights(sharded), weights(folder / "sharded_resumed")
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    assert_same_run(folder / "sharded_from_one", one)


@pytest.mark.slow
def test_a_sharded_checkpoint_is_one_of_an_unsharded_run(corpus, one, sharded, folder):
    checkpoint = sharded / "checkpoint-2"
    model = AutoModel.from_pretrained(checkpoint)
    assert model.config.architectures == ["VJEPAForPreTraining"]
    saved = weights(checkpoint)
    assert all(torch.equal(value, saved[f"vjepa.{name}"]) for name, value in model.state_dict().items())
    resumed = LEARNING | {"per_device_train_batch_size": 8, "resume_from_checkpoint": checkpoint}
    train_alone(command(corpus, folder / "one_from_sharded", **resumed))
    assert_same_run(folder / "one_from_sharded", one)


@pytest.mark.slow
def test_two_machines_train_together_and_end_together(corpus, folder):
    scenarios = [("runs", command(corpus, folder / "nodes", max_steps=1)), ("dies", command(corpus, folder / "dying"))]
    script = launched(folder / "nodes.json", scenarios)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"num_processes": 2, "main_process_ip": "127.0.0.1", "main_process_port": port}
    machines = [
        subprocess.Popen(
            launch_command("multi_node", *script, machine_rank=machine, **options),
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for machine in (0, 1)
    ]
    try:
        errors = [machine.communicate(timeout=400)[1] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    read = [set(entry["paths"]) for entry in facts(folder / "nodes")]
    assert len(read[0]) == len(read[1]) == 4 and not read[0] & read[1]
    assert all(machine.returncode != 0 for machine in machines)
    assert "Signal 9 (SIGKILL) received" in errors[1]
    assert re.search("Connection (closed|reset) by peer", errors[0])
    assert last_checkpoint(folder / "dying") == folder / "dying" / "checkpoint-2"


@pytest.mark.slow
def test_one_process_is_launched_on_the_cpu_where_there_is_no_gpu(corpus, folder):
    arguments = command(corpus, folder / "single", max_steps=1, use_cpu="true")
    done = run(launch_command("single_gpu", SCRIPTS / "pretrain.py", *arguments))
    assert done.returncode == 0, done.stderr
    assert "1 of 1 steps" in done.stdout


@pytest.mark.parametrize("config", sorted(LAUNCH_CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_config_parses_and_says_how_to_use_it(config):
    loaded = load_config_from_file(str(config))
    assert loaded.num_processes >= loaded.num_machines >= 1
    comment = [line for line in config.read_text().splitlines() if line.startswith("#")]
    assert f"accelerate launch --config_file {config.name}" in comment[-1]
    assert any("hange" in line for line in comment)
