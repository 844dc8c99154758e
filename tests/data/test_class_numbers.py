import pytest

from transformers_vjepa.data.class_numbers import as_number, check_distinct, number_labels, same_name


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *[
            ("3", 3),
            ("03", 3),
            ("3.0", 3),
            ("3.", 3),
            (" 3 ", 3),
            ("+3", 3),
            ("-1", -1),
            ("１２", 12),
            ("2000000000", 2 * 10**9),
        ],
        *[("3.5", None), ("1e3", None), ("1_000", None), ("0x3", None), ("nan", None), ("inf", None), ("", None)],
        *[("True", None), ("3a", None), ("1,0", None), ("- 1", None), ("²", None), ("9" * 19, None)],
    ],
)
def test_names_that_are_numbers(name, number):
    assert as_number(name) == number


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        ([0, 2, 1], [0, 2, 1], ()),
        (["10", "9", "2.0", 3.0, "03"], [10, 9, 2, 3, 3], ()),
        ([0, 2_000_000_000], [0, 2_000_000_000], ()),
        ([0, None, float("nan"), "", -1, -100, "-1"], [0, -1, -1, -1, -1, -1, -1], ()),
        (["walk", " run ", "walk", None, -1], [1, 0, 1, -1, -1], ("run", "walk")),
        (["none", "2", "10", "02"], [2, 1, 0, 1], ("10", "2", "none")),
        ([True, False, None], [1, 0, -1], ("False", "True")),
        (["True", "False"], [1, 0], ("False", "True")),
        ([0.5, 1.5], [0, 1], ("0.5", "1.5")),
        (["caf\udce9", "bar"], [1, 0], ("bar", r"caf\xe9")),
        (["a\x1b[1m\nb", "\ud800"], [1, 0], (r"\ud800", r"a\x1b[1m\nb")),
        ([], [], ()),
    ],
)
def test_labels_are_numbers_or_names(labels, numbers, names):
    found = number_labels(iter(labels), source="x")
    assert (found[0].tolist(), found[1]) == (numbers, names)
    assert found[0].dtype == "int64"


def test_numbers_beside_names_are_refused():
    with pytest.raises(ValueError, match=r"x.csv has numbers \(1\) and names \('walk'\) as labels: use one of them"):
        number_labels(["walk", 1], source="x.csv")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("walk", "Walk"),
        ("air_drumming", "Air  drumming"),
        ("café", "cafe\u0301"),
        ("Straße", "STRASSE"),
        ("3", "03.0"),
    ],
)
def test_two_spellings_of_one_name(one, other):
    assert same_name(one) == same_name(other)
    with pytest.raises(ValueError, match="x has the classes .* and .*, which are one name in two spellings: write"):
        check_distinct([one, "run", other], source="x")


def test_different_names():
    names = ["C", "C++", "C#", "walk", "walks", "1", "1.5", "level 1", "level-1", ""]
    assert len({same_name(name) for name in names}) == len(names)
    check_distinct(names, source="x")


@pytest.mark.parametrize(
    ("labels", "named"), [([-2, 0, 1], "-2"), (["-7", "-3.0", "walk"], "-7, -3"), ([-1, -100, 0], "")]
)
def test_negative_numbers_are_noted(labels, named, caplog):
    number_labels(labels, source=f"of {named}")
    assert caplog.text.count("numbers below 0 are no classes") == bool(named)
    assert f"has the labels {named}: " in caplog.text or not named
