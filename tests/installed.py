"""
Uses the installed package without the repository: `python tests/installed.py` runs commands of this environment in a
new folder. `make test-wheel` runs this file.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import transformers_vjepa
from transformers_vjepa.data.synthetic import CorpusConfig, build_corpus

ROOT = Path(__file__).resolve().parents[1]
SMALL = "--preset vitt16 --crop_size 32 --patch_size 8 --frames_per_clip 4 --hidden_size 24 --num_hidden_layers 1"
STEPS = "--per_device_train_batch_size 2 --max_steps 2 --use_cpu true --dataloader_num_workers 0 --disable_tqdm true"
COMMANDS = [
    "--version",
    "--help",
    "recipes",
    "recipes vitl16 multi_node",
    f"pretrain --dataset corpus/train --output_dir out {SMALL} --frame_step 2 {STEPS}",
    "extract_features --model out --dataset corpus/test --output_dir features --dtype float32 --num_workers 0",
]


def main() -> None:
    package = Path(transformers_vjepa.__file__).resolve().parent
    if package.is_relative_to(ROOT / "src"):
        sys.exit(f"error: {package} is the source folder: install the wheel first")
    vjepa = Path(sys.executable).with_name("vjepa")
    with tempfile.TemporaryDirectory() as folder:
        build_corpus(Path(folder) / "corpus", config=CorpusConfig(num_train=4, num_test=1, size=32), num_processes=1)
        for command in COMMANDS:
            print(f"$ vjepa {command}", flush=True)
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            subprocess.run([vjepa, *command.split()], cwd=folder, env=environment, check=True)
        left = sorted(path.name for path in Path(folder).iterdir())
    print(f"installed in {package}; files in the folder: {', '.join(left)}")


if __name__ == "__main__":
    main()
