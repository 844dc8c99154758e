import hashlib

import pytest

from transformers_vjepa.safety import file_hashes
from transformers_vjepa.safety.file_hashes import file_hash


@pytest.mark.parametrize("size", [0, 9, 10, 25])
def test_the_hash_is_that_of_the_whole_file_read_in_parts(tmp_path, monkeypatch, size):
    monkeypatch.setattr(file_hashes, "_PART", 10)
    data = bytes(range(size))
    (tmp_path / "x").write_bytes(data)
    parts = []
    assert file_hash(tmp_path / "x", progress=parts.append) == hashlib.sha256(data).hexdigest()
    assert sum(parts) == size and all(part <= 10 for part in parts)
