"""Small corpora for tests, and what is in them."""

from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Video

from transformers_vjepa.data.corpus import EncodedClip, IndexedCorpus


def contents(corpus: IndexedCorpus) -> list[EncodedClip]:
    """All clips of a corpus, in order."""
    return [corpus.read(index) for index in range(len(corpus))]


def write_parquet(path: Path, rows: list[tuple[bytes, int]], *, row_group_size: int = 2) -> Path:
    """Writes rows of (bytes, label) as `datasets` writes them; the classes are a, b and c."""
    features = Features({"video": Video(), "label": ClassLabel(names=["a", "b", "c"])})
    cells = [{"bytes": data, "path": f"{data.decode()}.mp4"} for data, _ in rows]
    dataset = Dataset.from_dict({"video": cells, "label": [label for _, label in rows]}, features=features)
    dataset.to_parquet(path, batch_size=row_group_size)
    return path
