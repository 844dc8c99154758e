import hashlib
import os
import re

import numpy as np
import pytest
from videos import write_video

from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.corpus import RelabelledCorpus, SubsetCorpus
from transformers_vjepa.data.file_corpus import FileCorpus
from transformers_vjepa.data.splits import (
    SplitError,
    SplitPlan,
    class_names_of,
    group_folds,
    groups_from_names,
    labelled_splits,
    manifest_hash,
    open_labelled_corpus,
    split_corpus,
    stratified_fraction,
    stratified_split,
    with_classes,
    write_manifest,
    write_manifests,
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


def test_class_that_would_keep_no_clip_is_named():
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
    with pytest.raises(SplitError, match="'\\(' is not a regular expression"):
        groups_from_names(names, pattern="(")


def test_manifest_is_a_data_set(tmp_path):
    for name in ("b/2 x.mp4", "a/1.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    corpus = open_corpus(tmp_path)
    path = tmp_path / "lists" / "train.csv"
    write_manifest(corpus, path)
    assert path.read_text() == f"{tmp_path}/a/1.mp4 0\n{tmp_path}/b/2 x.mp4 1\n"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest_hash(corpus) == digest
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


# Splits of labelled corpora


def corpus_of(labels, *, groups=None, names=("a", "b", "c")):
    groups = range(len(labels)) if groups is None else groups
    paths = [f"clip{number:03d}_seq{group}.mp4" for number, group in enumerate(groups)]
    return FileCorpus(paths, labels=labels, root="/videos", class_names=names)


def parts_of(corpus, *, has_validation=False, has_test=False, **plan):
    return split_corpus(corpus, SplitPlan(**plan), has_validation=has_validation, has_test=has_test)


def folder_of(root, **counts):
    """A folder with `counts[name]` empty files in each class folder: names are enough to split."""
    for name, number in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(number):
            (root / name / f"{name}{index}.mp4").touch()
    return root


def test_parts_share_nothing_and_are_stratified():
    corpus = corpus_of([0] * 10 + [1] * 20 + [2] * 5)
    parts = parts_of(corpus, validation_fraction=0.2)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(35))
    assert np.bincount(corpus.labels[parts["validation"]]).tolist() == [2, 4, 1]


def test_a_fraction_of_the_training_clips_leaves_the_validation_clips_as_they_are():
    corpus = corpus_of([0] * 20 + [1] * 40)
    whole, part = (parts_of(corpus, validation_fraction=0.5, train_fraction=share) for share in (1.0, 0.1))
    assert part["validation"].tolist() == whole["validation"].tolist()
    assert np.bincount(corpus.labels[part["train"]]).tolist() == [1, 2]
    assert set(part["train"]) < set(whole["train"])
    other = parts_of(corpus, validation_fraction=0.5, train_fraction=0.1, seed=1)
    assert other["train"].tolist() != part["train"].tolist()


def test_groups_are_never_divided():
    groups = [number % 10 + 1 for number in range(60)]
    corpus = corpus_of([0, 1, 2] * 20, groups=groups)
    plan = {"group_pattern": r"_seq(\d+)\.", "num_folds": 3, "validation_fraction": 0.25}
    tested = []
    for fold in range(3):
        parts = parts_of(corpus, fold=fold, **plan)
        seen = {name: {groups[index] for index in indices} for name, indices in parts.items()}
        assert not seen["train"] & seen["test"] and not seen["train"] & seen["validation"]
        assert not seen["test"] & seen["validation"]
        assert sum(map(len, parts.values())) == 60
        tested.append(seen["test"])
    assert tested == [{1, 2, 3, 4}, {5, 6, 7}, {8, 9, 10}]
    # The seed numbers the part of the groups that validates: 6 groups, 4 parts.
    chosen = [parts_of(corpus, fold=0, seed=seed, **plan)["validation"] for seed in range(4)]
    assert [sorted({groups[index] for index in part}) for part in chosen] == [[5, 6], [7, 8], [9], [10]]


def test_few_groups_validate_one_at_a_time():
    corpus = corpus_of([0, 1] * 6, groups=[number // 4 for number in range(12)])
    parts = parts_of(corpus, group_pattern=r"_seq(\d)", validation_fraction=0.1)
    assert parts["validation"].tolist() == [0, 1, 2, 3]
    with pytest.raises(SplitError, match="1 groups do not make 2 folds"):
        parts_of(corpus_of([0, 1], groups=[7, 7]), group_pattern=r"_seq(\d)")


def test_parts_that_come_from_elsewhere_are_not_cut_off():
    corpus = corpus_of([0] * 4 + [1] * 4)
    assert list(parts_of(corpus, has_validation=True)) == ["train"]
    assert list(parts_of(corpus, validation_fraction=0.0)) == ["train"]
    assert len(parts_of(corpus, has_test=True)["train"]) == 6


def test_manifests_are_data_sets(tmp_path):
    folder = folder_of(tmp_path / "videos", run=5, walk=5)
    corpora = labelled_splits(str(folder), SplitPlan())
    write_manifests(corpora, tmp_path)
    assert {file.name for file in tmp_path.glob("*.csv")} == {"train.csv", "validation.csv"}
    for name, corpus in corpora.items():
        again = open_corpus(tmp_path / f"{name}.csv")
        assert again.labels.tolist() == corpus.labels.tolist()
        assert [again.describe(index) for index in range(len(again))] == [
            corpus.describe(index) for index in range(len(corpus))
        ]
    assert len(corpora["validation"]) == 2


def test_other_data_sets_validate_and_test(tmp_path):
    folders = {name: str(folder_of(tmp_path / name, run=3, walk=2)) for name in ("train", "validation", "test")}
    corpora = labelled_splits(
        folders["train"], SplitPlan(), validation_dataset=folders["validation"], test_dataset=folders["test"]
    )
    assert {name: len(corpus) for name, corpus in corpora.items()} == {"train": 5, "validation": 5, "test": 5}


def test_clips_on_both_sides_are_named(tmp_path, caplog):
    dataset, other = folder_of(tmp_path / "train", a=4, b=4), folder_of(tmp_path / "other", a=1, b=1)
    index = tmp_path / "test.csv"
    index.write_text(f"{dataset}/a/a0.mp4 0\n{other}/b/b0.mp4 1\n")
    labelled_splits(str(dataset), SplitPlan(validation_fraction=0), test_dataset=str(other))
    assert caplog.text == ""
    labelled_splits(str(dataset), SplitPlan(validation_fraction=0), test_dataset=str(index))
    assert f"1 clips are both in the train and in the test split, such as {dataset}/a/a0.mp4" in caplog.text


def test_labels_become_those_of_the_model():
    splits = with_classes({"train": corpus_of([0, 1, 2, 2])}, ["c", "a", "b"])
    assert splits["train"].labels.tolist() == [1, 2, 0, 0]
    assert splits["train"].read(3).label == 0
    assert splits["train"].class_names == ("c", "a", "b")


def test_relabelled_clips_are_the_same_files(tmp_path):
    write_video(tmp_path / "walk" / "0.mp4", level=10)
    corpus = open_corpus(tmp_path)
    other = RelabelledCorpus(corpus, {0: 4}, class_names=["?"] * 5)
    assert other.read(0) == corpus.read(0)._replace(label=4)
    assert (len(other), other.describe(0)) == (1, corpus.describe(0))


def test_classes_that_are_not_trained_are_refused():
    with pytest.raises(SplitError, match=r"1 classes of the test split have no training clip \(c\)"):
        with_classes({"train": corpus_of([0, 1]), "test": corpus_of([0, 2])}, "abc")


def test_a_class_without_a_clip_at_a_small_fraction_is_named():
    with pytest.raises(SplitError, match="class 'b' has 2 clips and would keep none at fraction=0.05"):
        parts_of(corpus_of([0] * 40 + [1] * 2), has_validation=True, train_fraction=0.05)


def test_unlabelled_clips_are_refused(tmp_path):
    (tmp_path / "videos").mkdir()
    for number in range(3):
        (tmp_path / "videos" / f"{number}.mp4").touch()
    first = re.escape(str(tmp_path / "videos" / "0.mp4"))
    with pytest.raises(ValueError, match=f"3 of 3 clips of .* no label, the first is {first}: put the clips of each"):
        open_labelled_corpus(str(tmp_path / "videos"))
    index = tmp_path / "index.csv"
    index.write_text("0.mp4 0\n1.mp4 -1\n")
    with pytest.raises(ValueError, match="1 of 2 clips of .*index.csv have no label"):
        open_labelled_corpus(str(index))


@pytest.mark.parametrize(
    "plan, message",
    [
        ({"validation_fraction": 1.0}, r"validation_fraction=1.0 must lie in \[0, 1\)"),
        ({"train_fraction": 0.0}, r"train_fraction=0.0 must lie in \(0, 1\]"),
        ({"num_folds": 3}, "num_folds=3 and fold=None go together"),
        ({"num_folds": 3, "fold": 0}, "folds consist of groups: give a group_pattern"),
        ({"num_folds": 3, "fold": 3, "group_pattern": "(a)"}, r"fold=3 must lie in \[0, num_folds=3\)"),
    ],
)
def test_plans_that_make_no_sense_are_refused(plan, message):
    with pytest.raises(SplitError, match=message):
        SplitPlan(**plan)


def test_groups_that_cannot_be_found_are_refused():
    with pytest.raises(SplitError, match=r"'_take\(.*does not match '/videos/clip000_seq0.mp4'"):
        parts_of(corpus_of([0, 1]), group_pattern=r"_take(\d+)")
    with pytest.raises(SplitError, match="a test data set and num_folds=2 were given: choose one"):
        parts_of(corpus_of([0, 1]), has_test=True, group_pattern=r"_seq(\d+)", num_folds=2, fold=0)


@pytest.mark.parametrize(
    ("labels", "names"),
    [([0, 1, 2], ["0", "1", "2"]), ([11, 0, 5], ["0", "5", "11"]), ([2 * 10**9, 7], ["7", "2000000000"])],
)
def test_numbers_are_the_names_of_their_classes(tmp_path, labels, names):
    corpora = {"train": corpus_of(labels, names=()), "test": corpus_of(labels[::-1], names=())}
    assert class_names_of(corpora) == names
    splits = with_classes(corpora, names)
    assert [names[label] for label in splits["train"].labels] == [str(label) for label in labels]
    # A manifest has the numbers, so that it means the same classes wherever it is read.
    write_manifests(splits, tmp_path)
    assert open_corpus(tmp_path / "train.csv").labels.tolist() == labels
    assert class_names_of({"train": corpus_of([0, 1, 2])}) == ["a", "b", "c"]


def test_a_number_that_only_test_clips_have_is_named():
    corpora = {"train": corpus_of([0, 2], names=()), "test": corpus_of([0, 7], names=())}
    with pytest.raises(SplitError, match=r"1 classes of the test split have no training clip \(7\)"):
        with_classes(corpora, class_names_of(corpora))


def test_two_spellings_of_a_class_are_refused(tmp_path):
    index = tmp_path / "index.csv"
    index.write_text("a.mp4,walk\nb.mp4,Walk\n")
    with pytest.raises(ValueError, match="index.csv has the classes 'Walk' and 'walk', which are one name in two"):
        open_labelled_corpus(str(index))
    folder = folder_of(tmp_path / "videos", walk=1, Walk=1)
    with pytest.raises(ValueError, match="videos has the classes 'Walk' and 'walk', which are one name in two"):
        open_labelled_corpus(str(folder))
    assert len(open_corpus(folder)) == 2  # for pretraining


def test_frames_of_a_video_are_not_divided(tmp_path):
    for place in ("walk/c0", "walk/c1", "run/c0", "run/c1"):
        (tmp_path / place).mkdir(parents=True)
        for number in range(12):
            (tmp_path / place / f"{number}.jpg").touch()
    message = r"4 folders of .*, such as .*/run/c0, hold numbered images.*list the folders in an index .*\(.\+\)/"
    with pytest.raises(SplitError, match=message):
        labelled_splits(str(tmp_path), SplitPlan())
    splits = labelled_splits(str(tmp_path), SplitPlan(group_pattern="(.+)/", validation_fraction=0.5))
    folders = {
        name: {os.path.dirname(corpus.describe(index)) for index in range(len(corpus))}
        for name, corpus in splits.items()
    }
    assert len(folders["train"]) == len(folders["validation"]) == 2 and not folders["train"] & folders["validation"]
    splits = labelled_splits(str(tmp_path), SplitPlan(group_pattern="(.+)", validation_fraction=0.25))
    assert {name: len(corpus) for name, corpus in splits.items()} == {"train": 36, "validation": 12}
    assert len(labelled_splits(str(tmp_path), SplitPlan(validation_fraction=0))["train"]) == 48
