"""Random clips for tests of transforms and processors, and the published results of these steps."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_clip(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(seed))


def grey_levels(normalized: torch.Tensor) -> torch.Tensor:
    return (normalized * STD + MEAN) * 255


def published_transforms(shared: Path) -> dict:
    """Inputs and outputs of the published transforms; tensors as (frames, channels, height, width)."""
    folder = shared / "reference" / "vjepa_transforms"
    tensors = load_file(folder / "transforms.safetensors")
    frames = tensors.pop("frames").permute(0, 3, 1, 2)
    outputs = {name: tensor.transpose(0, 1) for name, tensor in tensors.items()}
    return {"frames": frames, **outputs, **json.loads((folder / "transforms.json").read_text())}
