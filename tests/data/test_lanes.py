import json
from itertools import islice

import pytest
from datasets import Dataset, Features, Value

from transformers_vjepa.data import lanes
from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.lanes import LaneReader, StreamError, read_cursor, record_cursors


def corpus_of(number):
    """A streamed corpus of `number` clips; each holds its number as text."""
    features = Features({"video": Value("binary")})
    rows = [b"%03d" % index for index in range(number)]
    return open_corpus(Dataset.from_dict({"video": rows}, features=features).to_iterable_dataset())


def reader_of(number=10, *, lane=0, lanes=1, shuffle_buffer=4, state=None):
    return LaneReader(
        corpus_of(number),
        lane=lane,
        lanes=lanes,
        seed=3,
        shuffle_buffer=shuffle_buffer,
        state=state,
        failed=lambda path, error: pytest.fail(f"{path}: {error}"),
    )


def numbers(reader, count):
    return [int(next(reader).data) for _ in range(count)]


def test_a_lane_gives_each_clip_once_in_an_epoch_and_shuffles_within_chunks():
    reader = reader_of()
    first, second = numbers(reader, 10), numbers(reader, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert [sorted(first[start : start + 4]) for start in (0, 4, 8)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert first != second != list(range(10))
    assert numbers(reader_of(shuffle_buffer=1), 12) == [*range(10), 0, 1]


def test_lanes_share_a_shard_and_change_places_after_an_epoch():
    readers = [reader_of(5, lane=lane, lanes=2, shuffle_buffer=1) for lane in range(2)]
    assert numbers(readers[0], 5) == [0, 2, 4, 1, 3]
    assert numbers(readers[1], 5) == [1, 3, 0, 2, 4]


@pytest.mark.parametrize("stop", range(14))
def test_a_lane_resumes_anywhere(stop):
    whole = numbers(reader_of(), 20)
    reader = reader_of()
    assert numbers(reader, stop) == whole[:stop]
    state = json.loads(json.dumps(reader.state))
    assert numbers(reader_of(state=state), 20 - stop) == whole[stop:]


@pytest.mark.parametrize("limit, done", [(1, [0, 0, 0, 0]), (6, [1, 0, 1, 0]), (7, [1, 2, 0, 1])])
def test_chunks_are_bounded_in_bytes(monkeypatch, limit, done):
    # Clips of three bytes: a chunk ends with the clip that reaches the limit.
    monkeypatch.setattr(lanes, "_MAX_CHUNK_BYTES", limit)
    reader = reader_of(shuffle_buffer=100)
    assert [reader.state["done"] for _ in islice(iter(reader.__next__, None), 4)] == done


def test_a_lane_without_rows_is_refused():
    with pytest.raises(StreamError, match="the data set has no rows for reader 1 of 2: use fewer DataLoader workers"):
        next(reader_of(1, lane=1, lanes=2))


@pytest.mark.parametrize("damage", [lambda place: {"nonsense": 1}, lambda place: {**place, "examples_iterable": "x"}])
def test_a_state_that_does_not_fit_is_refused(damage):
    reader = reader_of()
    numbers(reader, 5)
    state = {**reader.state, "dataset": damage(reader.state["dataset"])}
    with pytest.raises(StreamError, match="the data set has no place {.*: resume from another checkpoint"):
        next(reader_of(state=state))


def test_cursors_of_lanes_are_kept_apart_and_read_back():
    def cursor(rank, lane, row):
        reader = {"epoch": 0, "row": row, "dataset": None, "done": 0}
        return json.dumps({"rank": rank, "world_size": 2, "lane": lane, "lanes": 2, "readers": {"0": reader}})

    cursors = {}
    record_cursors(cursors, [cursor(0, 0, 1), cursor(0, 0, 2)])
    record_cursors(cursors, [cursor(0, 1, 5), cursor(1, 0, 7)])
    rows = {name: read_cursor(text)["readers"]["0"]["row"] for name, text in cursors.items()}
    assert rows == {"0/0": 2, "0/1": 5, "1/0": 7}


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "[]",
        "{}",
        '{"rank": 0, "world_size": 1, "lane": 0, "lanes": 0, "readers": {}}',
        '{"rank": -1, "world_size": 1, "lane": 0, "lanes": 1, "readers": {}}',
        '{"rank": 0, "world_size": 1, "lane": 0, "lanes": 1, "readers": {"0": {"epoch": 0, "row": 0, "done": 0}}}',
    ],
)
def test_damaged_cursors_are_refused(cursor):
    with pytest.raises(StreamError, match="is not a place in a streamed corpus: resume from another checkpoint"):
        read_cursor(cursor)
