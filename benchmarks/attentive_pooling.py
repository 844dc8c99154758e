#!/usr/bin/env python
"""
Times our attentive pooler and the pooler of transformers' V-JEPA 2, in interleaved pairs on the same tokens. Both have
the same cross-attention and MLP; the pooler of V-JEPA 2 computes keys and values of every token.

    python benchmarks/attentive_pooling.py                        # one view of 8 segments, ViT-L: 12,544 tokens
    python benchmarks/attentive_pooling.py --tokens 1568 --batch_size 8
"""

import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from statistics import median

import torch
from transformers import VJEPA2Config
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2AttentivePooler

from transformers_vjepa import VJEPAConfig
from transformers_vjepa.models.vjepa.modeling_vjepa import VJEPAAttentivePooler


def seconds(pooler: torch.nn.Module, tokens: torch.Tensor, *, backward: bool) -> float:
    """Seconds of one pass over the tokens; with `backward` also of the gradients that training a probe needs."""
    pooler.zero_grad()
    started = time.perf_counter()
    with torch.set_grad_enabled(backward):
        pooled = pooler(tokens)
    if backward:
        pooled.square().mean().backward()
    return time.perf_counter() - started


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--hidden_size", type=int, default=1024, help="width of the encoder")
    parser.add_argument("--heads", type=int, default=16, help="attention heads")
    parser.add_argument("--tokens", type=int, default=8 * 1568, help="tokens of one view")
    parser.add_argument("--batch_size", type=int, default=1, help="views")
    parser.add_argument("--pairs", type=int, default=7, help="interleaved pairs of runs")
    arguments = parser.parse_args()
    shape = {"hidden_size": arguments.hidden_size, "num_attention_heads": arguments.heads}
    poolers = {
        "ours": VJEPAAttentivePooler(VJEPAConfig(**shape)),
        "VJEPA2": VJEPA2AttentivePooler(VJEPA2Config(**shape, num_pooler_layers=0, attn_implementation="sdpa")),
    }
    tokens = torch.randn(arguments.batch_size, arguments.tokens, arguments.hidden_size)
    for backward in (False, True):
        times: dict[str, list[float]] = {name: [] for name in poolers}
        for pair in range(arguments.pairs + 1):
            for name in sorted(poolers, reverse=bool(pair % 2)):
                elapsed = seconds(poolers[name], tokens, backward=backward)
                if pair:  # the first pair warms up
                    times[name].append(elapsed)
        ratios = sorted(peer / ours for ours, peer in zip(times["ours"], times["VJEPA2"], strict=True))
        print(
            f"{'forward and backward' if backward else 'forward':20}"
            + "".join(f"  {name} {1000 * median(values):.0f} ms" for name, values in times.items())
            + f"  ratio {median(ratios):.1f} [{ratios[0]:.1f}-{ratios[-1]:.1f}]"
        )


if __name__ == "__main__":
    main()
