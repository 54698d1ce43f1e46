"""What the small recipes are for: they learn. Shortened where a whole one takes minutes."""

import pytest

from tests.docs import markdown
from tests.training import processes

# Nothing is saved or evaluated on the way; the last evaluation is what counts.
QUIET = ("checkpoint.every_epochs=None", "eval_every_epochs=None", "checkpoint.keep_best=0")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("optimized")]


def trained(recipe, workdir, *changes):
    """Results of the evaluation that a recipe with a few changes ends with, on one device."""
    config = markdown.ROOT / "configs" / recipe
    run = processes.start_train(workdir, *QUIET, *changes, config=config, devices=1)
    processes.finish(run, timeout=600)
    return processes.lines(workdir, "test")[-1]


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """The whole recipe, 150 epochs: what is learned in 30 is worth nothing to a linear probe."""
    workdir = tmp_path_factory.mktemp("mae")
    return workdir, trained("mae_digits.py", workdir)


def test_a_masked_autoencoder_paints_better_than_one_grey(autoencoder):
    """The error of the best single number is the variance of what is masked, 0.53; 0.20 to 0.22
    was measured with three seeds.
    """
    _, metrics = autoencoder
    assert metrics["loss"] < 0.5 * metrics["target_variance"]


def test_what_it_learned_is_worth_something_to_a_linear_probe(autoencoder, tmp_path):
    """95.3 to 95.8 % was measured with three seeds, and 86.7 to 89.2 % on a random encoder."""
    probe = "mae_digits_linear_probe.py"
    learned = trained(probe, tmp_path / "learned", f"init_from={autoencoder[0]}")
    nothing = ("init_from=None", "init_changes.left_out=()", "init_changes.drawn=()")
    random = trained(probe, tmp_path / "random", *nothing)
    assert learned["top1"] > random["top1"] + 0.04


def test_a_swin_learns_the_digits(tmp_path):
    """The whole recipe ends at 98 %."""
    short = ("total_epochs=30", "schedule.warmup_epochs=4")
    assert trained("swin_digits.py", tmp_path / "swin", *short)["top1"] > 0.9


def test_a_student_learns_from_a_teacher_and_labels(tmp_path):
    """Whole recipes end at 98 to 99 %. Both heads count, and the teacher is better than chance."""
    short = ("total_epochs=8", "schedule.warmup_epochs=1")
    trained("resnet_digits.py", tmp_path / "teacher", *short)
    longer = ("total_epochs=30", "schedule.warmup_epochs=3")
    teacher = f"objective.teacher={tmp_path / 'teacher'}"
    assert trained("deit_digits.py", tmp_path / "student", *longer, teacher)["top1"] > 0.7
