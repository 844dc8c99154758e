"""The command line of a pretraining that takes seconds."""

TINY = """
    --preset vitt16 --crop_size 32 --patch_size 8 --frames_per_clip 4 --frame_step 2 --hidden_size 24
    --num_hidden_layers 2 --num_attention_heads 2 --pred_hidden_size 12 --pred_num_hidden_layers 1
    --pred_num_attention_heads 2 --per_device_train_batch_size 4 --logging_steps 1
""".split()


def command(corpus, output_dir, **settings):
    settings = {"dataset": corpus / "train", "output_dir": output_dir, "max_steps": 4, "save_steps": 2} | settings
    return TINY + [part for name, value in settings.items() for part in (f"--{name}", str(value))]
