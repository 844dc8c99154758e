"""The cards of the published models: one file for each in `model_cards/`."""

from pathlib import Path

from huggingface_hub import ModelCard

from .configuration_vjepa import PRESETS, VJEPAConfig

#: Where the cards are.
CARDS = Path(__file__).parent / "model_cards"
_ENCODERS = ("vitl16", "vith16", "vith16-384")
# The published probes are known by their number of classes.
_PROBES = {400: "k400", 174: "ssv2", 1000: "in1k", 205: "places205", 10_000: "inat21"}


def _has_architecture(config: VJEPAConfig, preset: str) -> bool:
    wanted = VJEPAConfig.from_preset(preset).to_dict()
    names = VJEPAConfig.__dataclass_fields__.keys() & {
        *PRESETS[preset],
        *"patch_size crop_size frames_per_clip tubelet_size hidden_size num_attention_heads num_hidden_layers".split(),
        *"mlp_ratio uniform_power pred_hidden_size pred_num_hidden_layers pred_num_attention_heads".split(),
    }
    return all(getattr(config, name) == wanted[name] for name in names)


def is_released(config: VJEPAConfig) -> bool:
    """Whether the published V-JEPA or I-JEPA weights have this architecture."""
    return any(_has_architecture(config, name) for name in PRESETS if name in _ENCODERS or name.startswith("ijepa"))


def released_card(config: VJEPAConfig, *, is_classifier: bool) -> ModelCard | None:
    """The card of the published V-JEPA model with this architecture; None where there is none."""
    for preset in _ENCODERS:
        if _has_architecture(config, preset):
            probe = _PROBES.get(config.num_labels) if is_classifier else None
            if is_classifier and probe is None:
                return None
            return ModelCard.load(CARDS / f"vjepa-{preset}{f'-{probe}' if probe else ''}.md")
    return None


__all__ = ["CARDS", "is_released", "released_card"]
