import math

import pytest

from vit_jax.training.ranking import Ranking


def ranking(mode="max", keep=2, **values):
    result = Ranking("top1", mode, keep)
    for step, value in values.items():
        result.add(int(step[1:]), {"top1": value})
    return result


def test_best_first_and_the_earlier_of_equals():
    assert ranking(s1=0.1, s2=0.9, s3=0.5, s4=0.9, keep=4).best([1, 2, 3, 4]) == [2, 4, 3, 1]
    assert ranking(s1=0.1, s2=0.9, s3=0.5, mode="min").best([1, 2, 3]) == [1, 3]


def test_steps_without_a_finite_metric_have_no_rank():
    r = ranking(s1=0.1, s2=math.nan, s3=math.inf)
    r.add(4, None)
    r.add(5, {"loss": 1.0})
    assert r.best([1, 2, 3, 4, 5]) == [1]


def test_would_take():
    r = ranking(s1=0.3, s2=0.5)
    assert r.would_take({"top1": 0.4})
    assert not r.would_take({"top1": 0.3})  # no better than what is there
    assert not r.would_take({"top1": math.nan})
    assert not ranking(keep=0).would_take({"top1": 1.0})


def test_errors_name_what_there_is():
    with pytest.raises(ValueError, match=r"'top1'.*did you mean 'top5'"):
        ranking().would_take({"top5": 1.0})
    with pytest.raises(ValueError, match=r"expected 'max' or 'min'"):
        Ranking("top1", "biggest", 1)
