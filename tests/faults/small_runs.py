"""The pretraining script on videos of a few pixels."""

from transformers_vjepa import ClipSampling
from transformers_vjepa.commands import pretrain

SAMPLING = ClipSampling(num_frames=4, frame_step=1)
SMALL = """
    --preset vitt16 --crop_size 32 --patch_size 8 --frames_per_clip 4 --frame_step 2 --hidden_size 24
    --num_hidden_layers 1 --num_attention_heads 2 --pred_hidden_size 12 --pred_num_hidden_layers 1
    --pred_num_attention_heads 2 --per_device_train_batch_size 2 --logging_steps 1 --max_steps 2 --save_steps 1
    --use_cpu true --report_to tensorboard
""".split()

__all__ = ["SAMPLING", "SMALL", "pretrain"]
