"""What the README shows works as it stands; only paths and sizes are replaced."""

import re
import sys
from pathlib import Path

import pytest

from transformers_vjepa.synthetic import CorpusConfig, build_corpus

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def block_with(text):
    (block,) = [block for block in BLOCKS if text in block]
    return block


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("readme") / "synthetic"
    return build_corpus(root, config=CorpusConfig(num_train=8, num_test=1, size=32), num_processes=1)


def run_block(block, replacements):
    for old, new in replacements.items():
        assert old in block
        block = block.replace(old, new)
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    return names


def test_training_in_python_then_features_in_five_lines(corpus, tmp_path):
    small = '"vitt16", crop_size=32, patch_size=8, frames_per_clip=8, hidden_size=24, num_hidden_layers=1'
    training = {
        '"vits16"': small,
        '"outputs/mine"': f'"{tmp_path}"',
        "max_steps=20000": "max_steps=1, use_cpu=True",
        '"path/to/videos"': f'"{corpus / "train"}"',
        "ClipSampling(num_frames=16, frame_step=4)": "ClipSampling(num_frames=8, frame_step=2)",
        ".train()": ".train()\nVJEPAForPreTraining(config).save_pretrained(args.output_dir)\n"
        "from transformers_vjepa import VJEPAVideoProcessor\n"
        "VJEPAVideoProcessor(crop_size=32).save_pretrained(args.output_dir)",
    }
    run_block(block_with("clip_stream"), training)
    video = next((corpus / "train").glob("*.mp4"))
    features = {'"outputs/demo"': f'"{tmp_path}"', '"video.mp4"': f'"{video}"'}
    names = run_block(block_with("last_hidden_state"), features)
    assert names["features"].shape == (1, 64, 24)


def test_plain_lines_install_what_make_does():
    extras = set(re.findall(r"\$\(VENV\)/installed-([\w,]+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert extras == {"viz,probe", "test"}
    assert all(f"'.[{names}]'" in README for names in extras)


def test_every_python_block_is_run():
    assert len(BLOCKS) == 2


def test_file_tree_is_complete():
    for folder in ("src/transformers_vjepa", "scripts"):
        for file in (ROOT / folder).glob("*.py"):
            assert file.name in README, file
    for name in re.findall(r"^ {2}(\w+\.py)", README, flags=re.MULTILINE):
        assert list(ROOT.glob(f"*/**/{name}")), name


def test_commands_name_existing_files_and_arguments():
    sys.path.insert(0, str(ROOT / "scripts"))
    import pretrain

    for path in re.findall(r"scripts/[\w./]+\.(?:py|yaml)", README):
        assert (ROOT / path).is_file(), path
    known = {name for part in (pretrain.ModelArguments, pretrain.DataArguments) for name in part.__annotations__}
    known |= set(pretrain.VJEPATrainingArguments.__dataclass_fields__) | {"config"}
    launcher = {"editable", "cpu", "multi_gpu", "num_processes", "config_file", "help", "num_cpu_threads_per_process"}
    for name in set(re.findall(r"--(\w+)", README)) - launcher:
        assert name in known, name
