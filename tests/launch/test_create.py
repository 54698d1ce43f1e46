import io

import pytest

from tests.launch import standin
from vit_jax.launch.gcloud import GcloudError, Kind

V4 = "--accelerator-type=v4-8"
VERBS = ("describe", "create")


def test_create_and_again(cloud, tpu):
    code, text, _ = tpu("create", "mine", V4, "--zone=z", "--project=p")
    assert code == 0
    assert "mine: READY, v4-8, 1 worker\n" in text
    assert cloud.verbs() == ["tpu-vm create"]
    [made] = [call for call in cloud.calls if "create" in call]
    assert made[:6] == ["alpha", "compute", "tpus", "tpu-vm", "create", "mine"]
    assert {"--zone=z", "--project=p", "--version=tpu-ubuntu2204-base"} <= set(made)
    assert tpu("create", "mine", V4, "--zone=z", "--project=p")[0] == 0
    assert cloud.verbs() == ["tpu-vm create"]


def test_every_command_is_printed_before_it_is_run(cloud, tpu, printed):
    _, _, errors = tpu("create", "mine", V4)
    said = [command[1:] for command in printed(errors)]
    distinct = [call for i, call in enumerate(cloud.calls) if call not in cloud.calls[:i]]
    assert said == distinct


def test_a_dry_run_runs_nothing(cloud, tpu, printed):
    code, text, errors = tpu("create", "mine", V4, "--dry-run")
    assert (code, errors, cloud.calls) == (0, "", [])
    verbs = [word for command in printed(text) for word in command if word in VERBS]
    assert verbs == ["describe", "create"]


def test_a_queued_resource_waits_in_line(cloud, tpu):
    code, text, _ = tpu("create", "mine", "--accelerator-type=v5litepod-16", "--queued", "--spot")
    assert code == 0
    words = ["WAITING_FOR_RESOURCES", "PROVISIONING", "READY, v5litepod-16, 2 workers"]
    places = [text.index(f"mine: {word}") for word in words]
    assert places == sorted(places)
    [made] = [call for call in cloud.calls if "create" in call]
    assert {"--node-id=mine", "--spot", "--runtime-version=v2-alpha-tpuv5-lite"} <= set(made)


def test_one_sentence_says_what_to_do(cloud, tpu):
    cloud.play("tpu-vm create", stderr=standin.QUOTA, code=1)
    code, _, errors = tpu("create", "mine", V4)
    assert code == 2
    assert "vit-jax: error: gcloud alpha compute tpus tpu-vm create: HttpError" in errors
    assert "has been exceeded. Limit: 0 in region us-east5" in errors
    assert errors.endswith("or ask for more on the quotas page of the console\n")


@pytest.mark.parametrize(
    "stderr, kind",
    [
        (standin.QUOTA, Kind.QUOTA),
        (standin.STOCKOUT, Kind.NO_CAPACITY),
        ("ERROR: (gcloud.x) Insufficient reserved capacity. Contact support", Kind.NO_CAPACITY),
        ("ERROR: (gcloud.x) You do not currently have an active account", Kind.OTHER),
        ("ERROR: (gcloud.x) PERMISSION_DENIED: Permission 'tpu.create' denied", Kind.FORBIDDEN),
        ("You do not currently have this command group installed.", Kind.NO_ALPHA),
        ("ERROR: (gcloud.x) SSH Key is not present in the SSH agent.", Kind.OTHER),
        ('ERROR: (gcloud.x) This TPU has terminal state "PREEMPTED", so it cannot be used anymore.',
         Kind.UNUSABLE),
        (standin.NO_NETWORK, Kind.NETWORK),
        ("ERROR: (gcloud.x) UNAVAILABLE: The service is currently unavailable.", Kind.NETWORK),
        ("bash: uv: command not found", Kind.OTHER),  # on a worker
        ("ERROR: (gcloud.x) something new\nin two lines", Kind.OTHER),
    ],
)  # fmt: skip
def test_kinds_of_failures(stderr, kind):
    error = GcloudError(["gcloud", "compute", "tpus", "tpu-vm", "create", "mine"], 1, stderr)
    assert error.kind is kind
    assert "\n" not in str(error) and str(error).endswith(kind.value)
    assert "gcloud feedback" not in str(error)
    assert stderr.rpartition(") ")[2].splitlines()[0].removeprefix("ERROR: ") in str(error)
    assert GcloudError(["gcloud"], 255, stderr).kind is Kind.SSH


def test_what_was_preempted_is_made_anew(cloud, tpu):
    cloud.node("mine", state="PREEMPTED")
    code, text, _ = tpu("create", "mine", V4)
    assert code == 0 and "mine: PREEMPTED\n" in text
    assert cloud.verbs() == ["tpu-vm delete", "tpu-vm create"]


@pytest.mark.parametrize("states", [["SUSPENDED"], ["SUSPENDING", "SUSPENDED"], ["FAILED"]])
def test_a_request_that_is_over_is_made_anew(cloud, tpu, states):
    with cloud.change() as content:
        content["queue"]["mine"] = {"states": states, "accelerator_type": "v4-8", "node": "mine"}
    assert tpu("create", "mine", V4, "--queued")[0] == 0
    assert cloud.verbs() == ["queued-resources delete", "queued-resources create"]


def test_what_is_waited_for_is_asked_for_again_where_there_is_no_network(cloud, tpu):
    """Once it waits; at first it says so, and ends."""
    cloud.play("tpu-vm describe", stderr=standin.NO_NETWORK, code=1)
    code, _, errors = tpu("create", "mine", V4, "--queued")
    assert code == 2 and "Google's service cannot be reached from here" in errors
    cloud.play("queued-resources describe", after=1, stderr=standin.NO_NETWORK, code=1)
    code, text, errors = tpu("create", "mine", V4, "--queued")
    assert code == 0, errors
    assert "cannot be reached from here; run the same command again; trying again in 0.1 s" in text
    assert cloud.verbs() == ["queued-resources create"]


def test_a_request_that_fails_says_why(cloud, tpu):
    with cloud.change() as content:
        content["queue_plays"] = ["WAITING_FOR_RESOURCES", "FAILED"]
    code, _, errors = tpu("create", "mine", V4, "--queued")
    assert code == 2
    assert "was lost before it was ready: FAILED: the time to wait is over" in errors
    assert cloud.verbs() == ["queued-resources create"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "expected --accelerator-type (as v4-8), or --type and --topology"),
        (["--type=v4"], "expected --accelerator-type (as v4-8), or --type and --topology"),
        ([V4, "--type=v4", "--topology=2x2x1"], "expected --accelerator-type"),
        (["--accelerator-type=v5e-8"], "did you mean 'v6e'"),
        ([V4, "--sopt"], "unknown argument '--sopt'"),
    ],
)
def test_mistakes(cloud, tpu, arguments, message):
    code, _, errors = tpu("create", "mine", *arguments)
    assert (code, cloud.calls) == (2, [])
    assert message in errors


def test_another_type_is_not_taken_for_the_one_asked_for(cloud, tpu):
    cloud.node("mine", "v4-16")
    code, _, errors = tpu("create", "mine", V4)
    assert code == 2 and "mine exists and is a v4-16, not a v4-8" in errors


@pytest.mark.parametrize("queued", [(), ("--queued",)])
@pytest.mark.parametrize(
    "first, then, message",
    [
        ((), ("--spot",), "mine exists and is on demand, not spot; leave out --spot to take it"),
        (("--spot",), (), "mine exists and is spot, not on demand; say --spot to take it"),
    ],
)
def test_spot_and_on_demand_are_not_taken_for_each_other(cloud, tpu, queued, first, then, message):
    """One costs a multiple of the other, and that may be taken away at any moment."""
    assert tpu("create", "mine", V4, *queued, *first)[0] == 0
    made = cloud.verbs()
    code, _, errors = tpu("create", "mine", V4, *queued, *then)
    assert code == 2 and f"{message}, use another name, or vit-jax tpu delete it first" in errors
    assert tpu("create", "mine", V4, *queued, *first)[0] == 0
    assert cloud.verbs() == made


@pytest.mark.parametrize(
    "asked, there, message",
    [
        (["--type=v4", "--topology=2x2x2"], {"type": "V4", "topology": "2x2x1"},
         "mine exists and is a v4 2x2x1, not a v4 2x2x2"),
        (["--type=v5litepod", "--topology=2x4"], {"type": "V5LITE_POD", "topology": "2x4"}, None),
        ([V4, "--version=other"], {}, "mine exists and is a base, not a other"),
    ],
)  # fmt: skip
def test_another_shape_or_software_is_not_either(cloud, tpu, asked, there, message):
    cloud.node("mine")
    with cloud.change() as content:
        content["nodes"]["mine"]["more"] = {"acceleratorConfig": there, "runtimeVersion": "base"}
    code, _, errors = tpu("create", "mine", *asked)
    assert (code, message is None or message in errors) == (2 if message else 0, True)


def test_a_queued_resource_of_another_tpu_is_not_waited_for(cloud, tpu):
    with cloud.change() as content:
        content["queue"]["mine"] = {
            "states": ["ACTIVE"], "accelerator_type": "v4-8", "node": "other"
        }  # fmt: skip
    code, _, errors = tpu("create", "mine", V4, "--queued")
    assert code == 2 and "mine is a queued resource for other, expected nothing" in errors
    assert cloud.verbs() == []


def test_other_tpus_of_a_queued_resource_are_not_deleted_with_one(cloud, tpu):
    with cloud.change() as content:
        content["queue"]["both"] = {
            "states": ["SUSPENDED"], "accelerator_type": "v4-8", "node": "mine",
            "nodes": ["mine", "other"],
        }  # fmt: skip
    cloud.node("mine", state="PREEMPTED", queue="both")
    for command in (("create", "mine", V4), ("delete", "mine", "--yes")):
        code, _, errors = tpu(*command)
        assert code == 2 and "both has the TPUs mine, other, not mine alone" in errors
    assert cloud.verbs() == []


def test_nothing_to_create_is_no_missing_tpu(cloud, tpu):
    text = "ERROR: (gcloud.compute.tpus.tpu-vm.create) NOT_FOUND: no accelerator type v4-8"
    cloud.play("tpu-vm create", stderr=text, code=1)
    code, _, errors = tpu("create", "mine", V4, "--zone=here")
    assert code == 2 and "vit-jax tpu create makes it" not in errors
    assert "no accelerator type v4-8; this --zone may not have this type" in errors


def test_what_somebody_stopped_is_left_alone(cloud, tpu):
    cloud.node("mine", state="STOPPED")
    code, _, errors = tpu("create", "mine", V4)
    assert code == 2 and "mine is STOPPED" in errors and cloud.verbs() == []


def test_without_gcloud(tpu, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, errors = tpu("create", "mine", V4)
    assert code == 2
    assert "there is no gcloud on PATH: install the Google Cloud CLI" in errors


@pytest.mark.parametrize("queued", [False, True])
def test_delete(cloud, tpu, queued, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    tpu("create", "mine", V4, *(["--queued"] if queued else []))
    code, _, errors = tpu("delete", "mine")
    assert code == 2 and "nobody said yes" in errors
    assert tpu("delete", "mine", "--yes")[0] == 0
    assert cloud.verbs()[-1] == ("queued-resources delete" if queued else "tpu-vm delete")
    code, text, _ = tpu("delete", "mine")
    assert (code, text) == (0, "mine: there is none\n")
