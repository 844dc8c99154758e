import pytest

from transformers_vjepa.hub.names import is_hub_id


@pytest.mark.parametrize(
    "name, expected",
    [
        ("user/name", True),
        ("user/name-1.0_b", True),
        ("name", False),
        ("user/name/more", False),
        ("/user", False),
        ("user/name@revision", False),
        ("outputs/demo", False),  # exists here
    ],
)
def test_names_of_the_hub(tmp_path, monkeypatch, name, expected):
    (tmp_path / "outputs" / "demo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(name) is expected
