import numpy as np
import pytest
import torch

from pruning.data import DataError
from pruning.evaluate import accuracy, accuracy_of, class_rows
from tests.unit.pruning.pictures import digits, trained


def test_accuracy_is_counted_by_hand() -> None:
    outputs = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 0.0], [0.0, 1.0]])
    result = accuracy_of(outputs, np.array([0, 0, 0, 1]))
    assert result.overall == 0.75
    assert result.per_class == (pytest.approx(2 / 3), 1.0)
    assert result.num_images == 4


def test_a_whole_head_must_name_the_row_itself() -> None:
    outputs = torch.tensor([[9.0, 1.0, 0.0, 2.0], [0.0, 1.0, 0.0, 2.0]])
    assert accuracy_of(outputs, np.array([1, 1]), rows=(1, 3)).per_class[1] == 0.5


def test_a_trained_network_knows_the_held_back_digits() -> None:
    train, held = digits()
    result = accuracy(trained(train), held)
    assert result.overall > 0.9
    assert len(result.per_class) == 3


def code_of(**arguments: object) -> str:
    with pytest.raises(DataError, match=r"class map|class_map") as refusal:
        class_rows(("a", "b"), ("a", "b"), 4, **arguments)  # type: ignore[arg-type]
    return refusal.value.code


def test_a_given_map_comes_first_and_is_checked() -> None:
    found = class_rows(("a", "b"), ("b",), 2, class_map={"b": 0}, class_names=("a", "b"))
    assert (found.rows, found.source) == ({"b": 0}, "given")
    assert code_of(class_map={"a": 1}) == "bad_class_map"
    assert code_of(class_map={"a": 1, "b": 1}) == "bad_class_map"
    with pytest.raises(DataError, match="rows 0 to 3"):
        class_rows(("a",), ("a",), 4, class_map={"a": 4})


def test_names_match_whatever_their_case_and_dashes() -> None:
    found = class_rows(("Golden_Retriever", "cat"), ("Golden_Retriever",), 9, class_names=("cat", "golden-retriever"))
    assert (found.rows, found.source) == ({"Golden_Retriever": 1}, "names")


def test_as_many_outputs_as_folders_are_taken_in_order() -> None:
    found = class_rows(("a", "b", "c"), ("c", "a"), 3)
    assert (found.rows, found.source) == ({"c": 2, "a": 0}, "order")


def test_else_the_predictions_decide_and_their_agreement_is_told() -> None:
    predictions = {"a": np.array([3, 3, 3, 1]), "b": np.array([1, 1])}
    found = class_rows(("a", "b"), ("a", "b"), 4, predictions=predictions)
    assert (found.rows, found.source) == ({"a": 3, "b": 1}, "predictions")
    assert found.agreement == {"a": 0.75, "b": 1.0}


def test_an_unclear_map_is_asked_for() -> None:
    assert code_of() == "no_class_map"
    assert code_of(predictions={"a": np.array([0, 1, 2]), "b": np.array([1])}) == "no_class_map"
    assert code_of(predictions={"a": np.array([1]), "b": np.array([1])}) == "no_class_map"
    assert code_of(class_names=("x", "y", "z", "w")) == "no_class_map"
