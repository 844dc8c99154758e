"""The Hugging Face Hub: download, upload, remote code and model cards."""
