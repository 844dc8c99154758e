"""What the README shows works as it stands; only paths and sizes are replaced."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from transformers_vjepa import VJEPAConfig, VJEPAForVideoClassification, VJEPAImageProcessor, VJEPAVideoProcessor
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


def test_pipeline_and_several_segments_and_views(corpus, tmp_path):
    config = VJEPAConfig(
        crop_size=32,
        patch_size=8,
        frames_per_clip=4,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=5,
    )
    VJEPAForVideoClassification(config).save_pretrained(tmp_path)
    for processor in (VJEPAVideoProcessor(crop_size=32, num_frames=4), VJEPAImageProcessor(crop_size=32)):
        processor.save_pretrained(tmp_path)
    video = next((corpus / "train").glob("*.mp4"))
    replacements = {'"models/vitl16-k400"': f'"{tmp_path}"', '"video.mp4"': f'"{video}"'}
    best = run_block(block_with("pipeline("), replacements)["best"]
    assert [sorted(entry) for entry in best] == [["label", "score"]] * 3
    names = run_block(block_with("num_segments=8"), replacements)
    assert names["inputs"]["pixel_values_videos"].shape == (1, 3, 8, 4, 3, 32, 32)
    assert abs(names["probabilities"].sum().item() - 1) < 1e-5


def test_plain_lines_install_what_make_does():
    extras = set(re.findall(r"\$\(VENV\)/installed-([\w,]+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert extras == {"viz,probe", "test"}
    assert all(f"'.[{names}]'" in README for names in extras)


def test_every_python_block_is_run():
    assert len(BLOCKS) == 4


def test_file_tree_is_complete():
    for folder in ("src/transformers_vjepa", "scripts"):
        for file in (ROOT / folder).glob("*.py"):
            assert file.name in README, file
    for name in re.findall(r"^ {2}(\w+\.py)", README, flags=re.MULTILINE):
        assert list(ROOT.glob(f"*/**/{name}")), name


LAUNCHER = {"editable", "cpu", "multi_gpu", "num_processes", "config_file", "help", "num_cpu_threads_per_process"}


@pytest.fixture
def help_of(capsys, monkeypatch):
    """What a script prints for `--help`, without the seconds of an interpreter of its own."""

    def printed(script, folder="scripts"):
        path = ROOT / folder / f"{script}.py"
        monkeypatch.setattr(sys, "argv", [str(path), "--help"])
        monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(path), run_name="__main__")
        assert not ended.value.code
        return capsys.readouterr().out

    return printed


def test_commands_name_existing_files_and_arguments(help_of):
    for path in re.findall(r"(?:scripts|tests|benchmarks)/[\w./]+\.py", README):
        assert (ROOT / path).is_file(), path
    known = set(re.findall(r"--(\w+)", help_of("small_data", "benchmarks") + help_of("soak", "benchmarks")))
    for script in ("pretrain", "study", "train_classifier", "evaluate", "extract_features", "convert_checkpoint"):
        options = set(re.findall(r"--(\w+)", help_of(script)))
        known |= options
        # Whole commands: a script takes every option that stands behind it.
        for command in re.findall(rf"^.*scripts/{script}\.py(?:[^\n]*\\\n)*[^\n]*$", README, flags=re.MULTILINE):
            given = set(re.findall(r"--(\w+)", command.partition(f"scripts/{script}.py")[2].partition("`")[0]))
            assert given <= options, command
    for name in set(re.findall(r"--(\w+)", README)) - LAUNCHER - {"optimizer"}:
        assert name in known, name
