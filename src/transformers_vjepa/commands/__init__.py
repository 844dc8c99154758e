"""What `vjepa NAME` runs, one module a command: parse, build, run, report; no algorithm lives here."""

#: Commands in the order of a user's way, and what they are for.
COMMANDS = {
    "demo": "watch it learn: render a corpus, pretrain on it in minutes, read out what was learnt",
    "pretrain": "pretrain, or continue from weights, on your videos",
    "train_classifier": "train a probe on a frozen encoder, or fine-tune",
    "evaluate": "evaluate a classifier by a published protocol",
    "extract_features": "write the features of a data set to files",
    "convert_checkpoint": "convert published checkpoints and probes, there and back",
    "publish": "upload a finished folder to the Hub, with its card",
    "study": "the paper's findings in miniature: many runs, one report",
    "app": "look into a model in the browser: masks, prediction errors, surprise, features, nearest clips",
    "recipes": "list recipes and launch configurations; copy them to edit",
}

__all__ = ["COMMANDS"]
