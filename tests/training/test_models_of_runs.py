"""Two processes read the models of other runs: one to start from, one to learn from."""

import pytest

from tests.training import processes

OPTIONS = [
    "total_steps=2",
    "schedule.warmup_steps=1",
    "checkpoint.every_steps=None",
    "eval_every_steps=None",
    "ema_decay=0.5",
]
START = ["init_from={0}", "objective.name=distillation", "objective.teacher={0}"]


@pytest.mark.slow
def test_a_start_from_a_run_with_a_run_as_teacher(tmp_path):
    """It is what one process makes of them, to the rounding of two shares of a batch."""
    processes.train(tmp_path / "first", *OPTIONS)
    options = [*OPTIONS, *(text.format(tmp_path / "first") for text in START)]

    def start(workdir, *more, **environment):
        return processes.start_train(tmp_path / workdir, *options, *more, **environment)

    processes.finish(start("one"))
    for process in processes.start_two(start, "two"):
        processes.finish(process)
    one, two = (processes.losses(tmp_path / name) for name in ("one", "two"))
    assert one == pytest.approx(two, rel=1e-5)
    assert one[0] != pytest.approx(processes.losses(tmp_path / "first")[0], rel=1e-2)
