import torch

from transformers_vjepa.pretraining.mask_geometry import fit_area, place_blocks, to_indices, union_of_blocks


def test_published_masks_cut_by_hand():
    tokens = torch.tensor([[1, 0, 1, 0, 1, 1], [0, 1, 0, 0, 1, 0], [1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    assert to_indices(tokens).tolist() == [[0, 2], [1, 4], [0, 1]]
    assert to_indices(tokens[:1]).tolist() == [[0, 2, 4, 5]]


def test_fit_area_grows_nooks_and_shrinks_corners():
    corner = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)[None]
    ranks = torch.zeros(1, 9)
    assert fit_area(corner, 4, ranks)[0].int().tolist() == [1, 1, 0, 1, 1, 0, 0, 0, 0]
    assert fit_area(corner, 1, ranks)[0].int().tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert fit_area(corner, 3, ranks)[0].equal(corner[0].flatten())


def test_union_of_blocks_by_hand():
    # 2 x 3 blocks on a side of 4: rows can start at 0..2, columns at 0..1.
    positions = torch.tensor([[[0.0, 0.0], [0.99, 0.6]]])
    cells = union_of_blocks(place_blocks(torch.tensor([[2, 3]], dtype=torch.short), positions, 4))
    assert cells[0].int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 1, 1, 1]]
