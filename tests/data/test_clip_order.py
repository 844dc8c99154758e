import pytest

from transformers_vjepa.data.clip_order import MIX_BLOCK, ClipOrder


def test_each_epoch_holds_each_video_once_in_another_order():
    order = ClipOrder([7], weights=[None], seed=3, shuffle=True)
    epochs = [[order.index(*order.locate(i)) for i in range(e * 7, e * 7 + 7)] for e in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    # A pure function of the position: no need to pass by the others.
    fresh = ClipOrder([7], weights=[None], seed=3, shuffle=True)
    assert [fresh.index(*fresh.locate(i)) for i in (20, 3, 9)] == [epochs[2][6], epochs[0][3], epochs[1][2]]


def test_without_shuffle_the_corpus_order_repeats():
    order = ClipOrder([3], weights=[None], seed=0, shuffle=False)
    assert [order.index(*order.locate(i)) for i in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_mix_has_exact_shares_in_every_block_and_counts_each_corpus_through():
    order = ClipOrder([5, None, 9], weights=[1, 1, 1], seed=0, shuffle=True)
    # 333 1/3 each: the rounding goes to the first of equal remainders.
    assert order.shares == (334, 333, 333)
    seen = [[], [], []]
    for position in range(3 * MIX_BLOCK):
        corpus, n = order.locate(position)
        seen[corpus].append(n)
        if (position + 1) % MIX_BLOCK == 0:
            assert tuple(len(numbers) for numbers in seen) == tuple(
                share * ((position + 1) // MIX_BLOCK) for share in order.shares
            )
    assert [numbers == list(range(len(numbers))) for numbers in seen] == [True] * 3


def test_mix_without_weights_is_in_proportion_to_size():
    assert ClipOrder([300, 100], weights=[None, None], seed=0, shuffle=True).shares == (750, 250)


def test_replacements_differ_by_position_and_attempt():
    order = ClipOrder([10**6], weights=[None], seed=0, shuffle=True)
    drawn = {order.replacement(0, position, attempt) for position in range(10) for attempt in range(1, 4)}
    assert len(drawn) == 30


@pytest.mark.parametrize(
    ("sizes", "weights", "message"),
    [
        ([3, None], [None, None], "whose size is unknown, needs weights"),
        ([3, 3], [0.5, None], "weight None .* give all or none"),
        ([3, 3], [0.5, 0.0], "weight 0.0 .* must be a finite number above 0"),
        ([3, 3], [0.5, float("nan")], "weight nan .* must be a finite number above 0"),
        ([3, 3], [0.5, float("inf")], "weight inf .* must be a finite number above 0"),
        ([3, 3], [1, 0.0001], "below one position in 1000"),
    ],
)
def test_refuses_weights(sizes, weights, message):
    with pytest.raises(ValueError, match=message):
        ClipOrder(sizes, weights=weights, seed=0, shuffle=True)
