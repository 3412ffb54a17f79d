"""Requests say what a network needs, and what its operators weigh."""

import pytest

from lut.request import GridRequest, merge_requests, num_macs, num_weights, output_size
from lut.signature import OpSignature

CONV = OpSignature(kind="conv", height=8, width=6, kernel=(3, 3), stride=(2, 2), padding=(1, 1))
DEPTHWISE = OpSignature(kind="depthwise", height=8, width=6, kernel=(3, 3), padding=(1, 1))


def test_a_grid_asks_for_every_pair_and_a_diagonal_for_equal_ones() -> None:
    assert GridRequest(signature=CONV, c_ins=(2, 1), c_outs=(4,)).pairs() == [(1, 4), (2, 4)]
    assert GridRequest(signature=DEPTHWISE, c_ins=(2, 4), c_outs=(2, 4), paired=True).pairs() == [(2, 2), (4, 4)]


@pytest.mark.parametrize(("c_ins", "c_outs", "paired"), [((), (1,), False), ((1,), (0,), False), ((1, 2), (1,), True)])
def test_impossible_requests_are_refused(c_ins: tuple[int, ...], c_outs: tuple[int, ...], paired: bool) -> None:
    with pytest.raises(ValueError, match="request"):
        GridRequest(signature=CONV, c_ins=c_ins, c_outs=c_outs, paired=paired)


def test_operators_of_one_signature_become_one_request() -> None:
    merged = merge_requests(
        [
            GridRequest(signature=CONV, c_ins=(1, 3), c_outs=(8,)),
            GridRequest(signature=DEPTHWISE, c_ins=(4,), c_outs=(4,), paired=True),
            GridRequest(signature=CONV, c_ins=(2,), c_outs=(4, 8), count=2),
        ]
    )
    assert [(r.signature, r.c_ins, r.c_outs, r.count) for r in merged] == [
        (CONV, (1, 2, 3), (4, 8), 3),
        (DEPTHWISE, (4,), (4,), 1),
    ]


def test_sizes_and_costs_are_those_of_the_textbook() -> None:
    assert output_size(CONV) == (4, 3)
    assert num_macs(CONV, 5, 7) == 4 * 3 * 5 * 7 * 9
    assert num_macs(DEPTHWISE, 5, 5) == 8 * 6 * 5 * 9
    assert num_macs(OpSignature(kind="linear", height=1, width=1), 5, 7) == 35
    assert output_size(OpSignature(kind="global_pool", height=8, width=6)) == (1, 1)
    assert output_size(OpSignature(kind="gather", height=7, width=6, stride=(2, 2))) == (4, 3)
    assert (num_weights(CONV, 4, 2), num_weights(DEPTHWISE, 4, 4)) == (72, 36)
    assert num_weights(OpSignature(kind="add", height=8, width=6), 4, 4) == 0


def test_a_signature_survives_json() -> None:
    assert OpSignature.from_json(CONV.to_json()) == CONV
    with pytest.raises(TypeError):
        OpSignature.from_json({"surprise": 1})
