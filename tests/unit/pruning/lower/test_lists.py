"""Block-rows are found where they are, as coarse as they come."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.lower.lists import lists_of


def test_two_lists_of_four_rows_are_found_whatever_the_kernel() -> None:
    mask = torch.zeros(8, 6, 3, 3, dtype=torch.bool)
    mask[:4, [0, 5]] = True
    mask[4:, [1, 2, 5]] = True
    rows = lists_of(mask)
    assert rows is not None
    assert rows.tile_out == 4
    assert [channels.tolist() for channels in rows.lists] == [[0, 5], [1, 2, 5]]
    assert rows.longest == 3


def test_a_channel_counts_as_read_when_any_tap_of_it_is() -> None:
    mask = torch.zeros(4, 3, 3, 3, dtype=torch.bool)
    mask[0, 1, 0, 0] = mask[1, 1, 2, 2] = mask[2:, 1] = True
    rows = lists_of(mask)
    assert rows is not None
    assert [channels.tolist() for channels in rows.lists] == [[1]]


def test_an_empty_output_channel_joins_its_neighbours() -> None:
    mask = torch.zeros(6, 4, dtype=torch.bool)
    mask[[0, 2], 0] = True
    mask[[3, 5], 3] = True
    rows = lists_of(mask)
    assert rows is not None
    assert rows.tile_out == 3
    assert [channels.tolist() for channels in rows.lists] == [[0], [3]]


def test_a_last_block_row_may_be_smaller() -> None:
    mask = torch.zeros(10, 4, dtype=torch.bool)
    mask[:4, 0] = mask[4:8, 1] = mask[8:, 2] = True
    rows = lists_of(mask)
    assert rows is not None
    assert (rows.tile_out, len(rows.lists)) == (4, 3)


def test_rows_with_nothing_in_common_and_masks_that_keep_nothing_have_no_lists() -> None:
    assert lists_of(torch.eye(4, dtype=torch.bool)) is None
    assert lists_of(torch.zeros(4, 4, dtype=torch.bool)) is None


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.data())
def test_no_coarser_tile_would_do(c_out: int, c_in: int, data: st.DataObject) -> None:
    tile = data.draw(st.integers(1, c_out))
    choices = st.lists(st.booleans(), min_size=c_in, max_size=c_in)
    blocks = [data.draw(choices) for _ in range(-(-c_out // tile))]
    mask = torch.tensor([blocks[row // tile] for row in range(c_out)])

    def holds(size: int) -> bool:
        return all(
            len({tuple(row) for row in block.tolist() if any(row)}) <= 1 for block in torch.split(mask, size)
        )  # fmt: skip

    best = max(size for size in range(1, c_out + 1) if holds(size))
    rows = lists_of(mask)
    if not mask.any() or (best == 1 and c_out > 1):
        assert rows is None
    else:
        assert rows is not None
        assert rows.tile_out == best
        for block, channels in zip(torch.split(mask, best), rows.lists, strict=True):
            assert channels.tolist() == block.any(0).nonzero().flatten().tolist()
