import pytest

from vit_jax.errors import UserError
from vit_jax.training.classes import check_same

DIGITS = tuple("0123456789")


def test_the_same_names():
    check_same("a", DIGITS, "b", list(DIGITS))  # JSON has lists


@pytest.mark.parametrize(
    "names, message",
    [
        (
            ("cat", "dog"),
            "the data has 2 classes (cat, dog), the run 10 classes (0, 1, 2 ...); exp",
        ),
        ((), "the data has 0 classes (), the run 10 classes"),
        (
            (*DIGITS[:7], "8", "7", "9"),
            "; label 7 is '8' in the one and '7' in the other; expected",
        ),
        (tuple(f"class {i}" for i in range(1000)), "1,000 classes (class 0, class 1, class 2 ...)"),
    ],
)
def test_other_names(names, message):
    with pytest.raises(UserError) as error:
        check_same("the data", names, "the run", DIGITS)
    assert message in str(error.value)
