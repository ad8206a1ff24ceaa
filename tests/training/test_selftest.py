"""The self-test passes where operators are right, and names one that is not."""

import pytest
import torch
from torch import Tensor

from training import selftest


def test_this_device_computes_what_the_model_needs() -> None:
    rows = selftest.run(torch.device("cpu"))
    assert {row.operator for row in rows} == set(selftest.OPERATORS)
    assert {row.precision for row in rows} >= {"float32"}
    assert all(row.passed for row in rows), [row for row in rows if not row.passed]


class WrongBackward(torch.autograd.Function):
    """The identity, whose gradient is off by a tenth."""

    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: object, *gradients: Tensor) -> Tensor:
        return 1.1 * gradients[0]


def broken(given: list[Tensor]) -> Tensor:
    plain = torch.nn.functional.hardswish(4 * given[0])
    return plain if plain.dtype is torch.float64 else WrongBackward.apply(plain)


def refused(given: list[Tensor]) -> Tensor:
    if given[0].dtype is not torch.float64:
        raise RuntimeError("no kernel for this device\nand pages more")
    return given[0]


def nothing(given: list[Tensor]) -> Tensor:
    plain = torch.nn.functional.hardswish(4 * given[0])
    return plain if plain.dtype is torch.float64 else plain * float("nan")


@pytest.mark.parametrize(
    ("operator", "said"), [(broken, None), (refused, "no kernel for this device"), (nothing, None)]
)
def test_a_wrong_operator_is_found(
    operator: selftest.Operator, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(selftest.OPERATORS, "Hardswish", (operator, [(2, 32, 16, 16)]))
    rows = selftest.run(torch.device("cpu"))
    failed = [row for row in rows if not row.passed]
    assert {row.operator for row in failed} == {"Hardswish"}
    assert {row.error for row in failed} == {said}
    if operator is broken:
        assert all(row.forward < 0.05 and row.backward > 0.05 for row in failed)
