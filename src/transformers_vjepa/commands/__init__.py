"""The commands of `vjepa`, one module each: parse the command line, call, print. No algorithm lives here."""

#: Commands in the order in which a new user needs them, and their purposes.
COMMANDS = {
    "demo": "watch V-JEPA learn: render a corpus, pretrain on it in minutes, measure what the features know",
    "pretrain": "pretrain on your videos, from new weights or from a checkpoint",
    "train_classifier": "train a probe on a frozen encoder, or fine-tune",
    "evaluate": "evaluate a classifier by a published protocol",
    "index_clevr": "write index files for Clevr/Count and Clevr/Dist, two evaluations of I-JEPA",
    "extract_features": "write the features of a data set to files",
    "convert_checkpoint": "convert published checkpoints and probes to folders of transformers, and back",
    "publish": "upload a finished folder to the Hub, with its model card",
    "study": "reproduce the paper's findings in miniature: many runs, one report",
    "app": "look into a model in the browser: masks, prediction errors, surprise, features, nearest clips",
    "recipes": "list recipes and launch configurations; copy them to edit",
}
