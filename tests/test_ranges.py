from typing import Any, Literal

import numpy as np
import pytest

from vit_jax import naming, ranges
from vit_jax.errors import UserError

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "annotation, right, wrong, expected",
    [
        (int, [0, -3, np.int64(2)], [1.0, True, "1", None, NAN], "a whole number"),
        (float, [0.5, 1, np.float32(2)], [True, "1", None, NAN, INF, 10**400, 1j], "a number"),
        (bool, [True, False], [0, 1, None, "True"], "True or False"),
        (str, ["", "a"], [None, b"a", 1], "text"),
        (int | None, [1, None], [1.5, "None"], "a whole number, or None"),
        (tuple[int, int], [(1, 2), [1, 2]], [(), (1,), (1, 2, 3), (1, "2"), 12, "12"],
         "a tuple of 2 entries, each a whole number"),
        (tuple[float, ...], [(), (1, 0.5)], [("a",), 1, {1: 2}],
         "a tuple of entries, each a number"),
        (int | tuple[int, int], [1, (1, 2)], [(1,), 1.5],
         "a whole number, or a tuple of 2 entries, each a whole number"),
        (Literal["mean", "sum"], ["mean", "sum"], ["max", None, ("mean",), {}],
         "one of 'mean', 'sum'"),
        (Any, [None, {}, 1], [], "anything"),
    ],
)  # fmt: skip
def test_what_an_annotation_allows(annotation, right, wrong, expected):
    range = ranges.of_type(annotation)
    assert range.expected == expected
    assert all(map(range.fits, right))
    assert not any(map(range.fits, wrong))


def test_bounds():
    assert ranges.whole(1).fits(1) and not ranges.whole(1).fits(0)
    assert ranges.RATE.fits(0) and not ranges.RATE.fits(1)
    assert ranges.POSITIVE.fits(1e-9) and not ranges.POSITIVE.fits(0)
    for wrong in ("bf16", "int8", None, 5, (), {}, "{1,2}"):
        assert not ranges.FLOAT_DTYPE.fits(wrong)
    assert ranges.FLOAT_DTYPE.fits("bfloat16") and ranges.FLOAT_DTYPE.fits(np.float64)


def test_the_error_names_the_first_wrong_value():
    given = {"a": 1, "free": "x", "b": "two", "c": "three"}
    with pytest.raises(UserError, match=r"^optim\.b is 'two'; expected a whole number$"):
        ranges.check(given, dict.fromkeys("abc", ranges.whole()), "optim.")


def test_what_is_no_name_at_all():
    for wrong in (None, 3, (0,), {}, []):
        with pytest.raises(UserError, match=r"^unknown thing .*: expected one of 'one', 'two'$"):
            naming.check_known("thing", [wrong], {"one": 1, "two": 2})
