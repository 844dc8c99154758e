"""A trainer that trains on numbers: tests the stream and the checkpoints without a real network."""

import json

import torch
from torch import nn
from torch.utils.data import IterableDataset
from transformers import TrainingArguments

from transformers_vjepa import StreamPosition
from transformers_vjepa.training.stream_trainer import StreamTrainer


class Numbers(IterableDataset):
    """Endless numbers, starting at the position, with cursors like those of streamed corpora."""

    def __init__(self, position):
        self.position = position

    def __iter__(self):
        number = 2 * self.position.start_batch
        while True:
            cursor = json.dumps({"rank": 0, "lane": number % 2, "row": number})
            yield {"value": torch.tensor([float(number)]), "cursor": cursor, "num_skipped": int(number == 3)}
            number += 1


def collate(items):
    batch = {"value": torch.stack([item["value"] for item in items])}
    if "cursor" in items[0]:
        batch["cursor"] = [item["cursor"] for item in items]
        batch["num_skipped"] = torch.tensor([item["num_skipped"] for item in items])
    return batch


class Recorder(StreamTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.seen += inputs["value"].flatten().tolist()
        self.count_clips(inputs, len(inputs["value"]))
        loss = model(inputs["value"]).mean() * 0
        self.check_loss(loss, inputs)
        return loss


def recorder(
    tmp_path,
    dataset=None,
    *,
    eval_dataset=None,
    network=None,
    position=None,
    seekable=True,
    callbacks=(),
    **changes,
):
    position = StreamPosition() if position is None else position
    settings = {"max_steps": 4, "save_steps": 2, "save_strategy": "steps", "logging_steps": 2, "seed": 1} | changes
    args = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=2,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        **settings,
    )
    return Recorder(
        model=nn.Linear(1, 1) if network is None else network,
        args=args,
        train_dataset=Numbers(position) if dataset is None else dataset,
        eval_dataset=eval_dataset,
        data_collator=collate,
        position=position if seekable else None,
        callbacks=list(callbacks),
    )
