import hashlib

import numpy as np
import pytest

from transformers_vjepa.data.corpora import FileCorpus, SubsetCorpus, open_corpus
from transformers_vjepa.data.splits import (
    SplitError,
    group_folds,
    groups_from_names,
    manifest_hash,
    stratified_fraction,
    stratified_split,
    write_manifest,
)

LABELS = np.repeat([0, 1, 2], [10, 4, 6])


def test_fraction_keeps_a_rounded_share_of_every_class():
    chosen = stratified_fraction(LABELS, fraction=0.5, seed=0)
    assert np.bincount(LABELS[chosen]).tolist() == [5, 2, 3]
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    # Half up: 0.25 of 10 and 6 are 2.5 and 1.5.
    assert np.bincount(LABELS[stratified_fraction(LABELS, fraction=0.25, seed=0)]).tolist() == [3, 1, 2]
    assert stratified_fraction(LABELS, fraction=1, seed=0).tolist() == list(range(20))


def test_smaller_fractions_are_part_of_larger_ones_and_seeds_differ():
    small, large = (set(stratified_fraction(LABELS, fraction=share, seed=1).tolist()) for share in (0.25, 0.75))
    assert small < large
    assert small != set(stratified_fraction(LABELS, fraction=0.25, seed=2).tolist())
    assert small == set(stratified_fraction(LABELS, fraction=0.25, seed=1).tolist())


def test_choice_within_a_class_does_not_depend_on_other_classes():
    alone = stratified_fraction(np.where(LABELS == 0, 0, 1), fraction=0.5, seed=0)
    together = stratified_fraction(LABELS, fraction=0.5, seed=0)
    assert alone[alone < 10].tolist() == together[together < 10].tolist()


def test_class_without_a_clip_at_a_small_fraction_is_named():
    names = ["hug", "kick", "push"]
    message = r"class 'kick' has 4 clips and would keep none at fraction=0.1: use at least 0.125, or add clips"
    with pytest.raises(SplitError, match=message):
        stratified_fraction(LABELS, fraction=0.1, seed=0, class_names=names)
    assert len(stratified_fraction(LABELS, fraction=0.125, seed=0)) == 1 + 1 + 1


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1, float("nan")])
def test_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(SplitError, match=r"fraction=.* must lie in \(0, 1\]"):
        stratified_fraction(LABELS, fraction=fraction, seed=0)


@pytest.mark.parametrize("split", [stratified_fraction, stratified_split])
def test_empty_and_unlabelled_data_are_refused(split):
    with pytest.raises(SplitError, match="there are no clips to split"):
        split([], fraction=0.5, seed=0)
    with pytest.raises(SplitError, match="2 of 4 clips have no label"):
        split([0, -1, 1, -1], fraction=0.5, seed=0)


def test_split_holds_out_some_of_every_class_and_never_all():
    rest, held_out = stratified_split(LABELS, fraction=0.25, seed=0)
    assert np.bincount(LABELS[held_out]).tolist() == [3, 1, 2]
    assert sorted([*rest, *held_out]) == list(range(20))
    for fraction, expected in ((0.01, [1, 1, 1]), (0.99, [9, 3, 5])):
        _, held_out = stratified_split(LABELS, fraction=fraction, seed=0)
        assert np.bincount(LABELS[held_out]).tolist() == expected


def test_split_needs_two_clips_of_a_class():
    with pytest.raises(SplitError, match="class 1 has 1 clip, which cannot be on both sides"):
        stratified_split([0, 0, 1], fraction=0.5, seed=0)
    with pytest.raises(SplitError, match=r"fraction=1 must lie in \(0, 1\)"):
        stratified_split([0, 0], fraction=1, seed=0)


def test_folds_are_whole_groups_in_natural_order():
    groups = [str(1 + number % 10) for number in range(20)]  # 1 ... 10, twice
    folds = group_folds(groups, num_folds=3)
    assert [sorted({int(groups[index]) for index in fold}) for fold in folds] == [[1, 2, 3, 4], [5, 6, 7], [8, 9, 10]]
    assert sorted(index for fold in folds for index in fold) == list(range(20))
    assert [fold.tolist() for fold in group_folds(["b10", "b9", "a"], num_folds=3)] == [[2], [1], [0]]


def test_folds_need_groups():
    with pytest.raises(SplitError, match="2 groups do not make 3 folds: use at most 2"):
        group_folds(["a", "b", "a"], num_folds=3)
    with pytest.raises(SplitError, match="num_folds=1 must be at least 2"):
        group_folds(["a", "b"], num_folds=1)


def test_groups_from_names():
    names = ["/data/kick/set1_26_5_2.avi", "/data/push/set1_9_10_4.avi"]
    assert groups_from_names(names, pattern=r"set1_\d+_(\d+)_\d+\.avi$") == ["5", "10"]
    with pytest.raises(SplitError, match="'_\\(9\\)_' does not match '/data/kick/set1_26_5_2.avi'"):
        groups_from_names(names, pattern="_(9)_")
    with pytest.raises(SplitError, match="has 0 brackets: put exactly one"):
        groups_from_names(names, pattern=r"\d+")
    with pytest.raises(SplitError, match="'\\(' is no regular expression"):
        groups_from_names(names, pattern="(")


def test_manifest_is_a_data_set(tmp_path):
    for name in ("b/2 x.mp4", "a/1.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    corpus = open_corpus(tmp_path)
    path = tmp_path / "lists" / "train.csv"
    digest = write_manifest(corpus, path)
    assert path.read_text() == f"{tmp_path}/a/1.mp4 0\n{tmp_path}/b/2 x.mp4 1\n"
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest() == manifest_hash(corpus)
    again = open_corpus(path)
    assert [again.read(index)[:2] for index in range(2)] == [corpus.read(index)[:2] for index in range(2)]
    assert manifest_hash(again) == digest
    assert manifest_hash(SubsetCorpus(corpus, [1])) != digest


def test_manifest_of_awkward_names(tmp_path):
    corpus = FileCorpus(["https://host/x.mp4", "bad\udcff.mp4"], labels=[0, -1], root=str(tmp_path))
    write_manifest(corpus, tmp_path / "list.csv")
    lines = (tmp_path / "list.csv").read_bytes().splitlines()
    assert lines == [b"https://host/x.mp4 0", str(tmp_path).encode() + b"/bad\xff.mp4 -1"]
    with pytest.raises(SplitError, match="has a line break"):
        manifest_hash(FileCorpus(["a\nb.mp4"], labels=[0]))
