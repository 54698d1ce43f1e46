"""What there is of a TPU now, as the Cloud TPU API tells it."""

import dataclasses
import enum
import json
import time
from typing import Any

from vit_jax.errors import UserError
from vit_jax.launch.gcloud import GcloudError, Kind
from vit_jax.launch.tpu_vm import Tpu

PATIENCE = 120  # tries to reach the service for what is being waited for: an hour


class State(enum.Enum):
    """What can be done with it."""

    ABSENT = "absent"
    COMING = "coming"  # wait
    READY = "ready"
    LEAVING = "leaving"  # wait, then it is gone or absent
    GONE = "gone"  # preempted or failed: what is left has to be deleted
    OTHER = "other"  # stopped, hidden, ...: whoever did it knows


# The states of a node and of a queued resource: the enumerations `Node.State` and
# `QueuedResourceState.State` of the Cloud TPU API v2, where each is explained.
NODE = {
    "READY": State.READY,
    "CREATING": State.COMING,
    "STARTING": State.COMING,
    "RESTARTING": State.COMING,
    "REIMAGING": State.COMING,
    "REPAIRING": State.COMING,
    "UNHIDING": State.COMING,
    "DELETING": State.LEAVING,
    "PREEMPTED": State.GONE,
    "TERMINATED": State.GONE,
}
QUEUED = {
    "CREATING": State.COMING,
    "ACCEPTED": State.COMING,
    "WAITING_FOR_RESOURCES": State.COMING,
    "PROVISIONING": State.COMING,
    "ACTIVE": State.COMING,  # but its node is not there yet
    "SUSPENDING": State.LEAVING,
    "DELETING": State.LEAVING,
    "SUSPENDED": State.GONE,
    "FAILED": State.GONE,
}


@dataclasses.dataclass(frozen=True)
class Seen:
    """A TPU at one moment.

    Attributes:
      state: what can be done with it.
      word: the API's own word, such as "PREEMPTED"; with the reason where it gives one.
      workers: number of VMs, 0 where there are none yet.
      accelerator_type: such as "v4-8".
      shape: generation and topology, such as "v4 2x2x1".
      version: of the software.
      spot: whether the node says that it may be taken away at any moment.
      queue: id of the queued resource that it belongs to, None where it is a node of its own.
    """

    state: State
    word: str = ""
    workers: int = 0
    accelerator_type: str = ""
    shape: str = ""
    version: str = ""
    spot: bool = False
    queue: str | None = None


_ADVICE = {
    State.ABSENT: "vit-jax tpu create makes it",
    State.COMING: "vit-jax tpu create waits for it",
    State.LEAVING: "vit-jax tpu create makes it anew",
    State.GONE: "vit-jax tpu create makes it anew",
    State.OTHER: "use another one, or delete it",
}


def look(tpu: Tpu, assumed: State = State.READY, tries: int = 1) -> Seen:
    """Returns what there is of `tpu`; in a dry run, `assumed`.

    Args:
      tpu: which.
      assumed: of a dry run.
      tries: how often to ask, `tpu.poll` seconds apart, where the service cannot be reached.

    Raises:
      GcloudError: gcloud failed otherwise than by not finding it.
    """
    node = _describe(tpu, "tpu-vm", tries)
    if tpu.gcloud.dry_run:
        return Seen(assumed, workers=1)
    seen = Seen(State.ABSENT) if node is None else _of_node(node)
    if seen.state is State.READY or (seen.queue is None and node is not None):
        return seen
    queue = seen.queue or tpu.name
    request = _describe(tpu.named(queue), "queued-resources", tries)
    if request is None:
        return seen
    queued = _of_request(tpu, request, queue)
    # While the service takes a request apart, its node may be there or not.
    return queued if node is None or queued.state is State.LEAVING else seen


def ready(tpu: Tpu) -> Seen:
    """`look`, where there is no use in one that has no workers to ask.

    Raises:
      UserError: it is not ready.
    """
    seen = look(tpu)
    if seen.state is not State.READY:
        raise UserError(
            f"{tpu.name} is {seen.word or 'not there'}, expected READY; {_ADVICE[seen.state]}"
        )
    return seen


def describe(seen: Seen) -> str:
    """Such as "READY, v4-16, 2 workers, queued resource NAME"."""
    workers = f"{seen.workers} worker{'s' if seen.workers != 1 else ''}" if seen.workers else ""
    queue = f"queued resource {seen.queue}" if seen.queue else ""
    word = seen.word or seen.state.value
    return ", ".join(filter(None, [word, seen.accelerator_type, workers, queue]))


def _describe(tpu: Tpu, group: str, tries: int = 1) -> dict[str, Any] | None:
    """The resource as the API gives it, None where there is none."""
    try:
        command = tpu.command(group, "describe", "--format=json")
        text = tpu.gcloud.run(command, once=f"describe {group} {tpu.name}")
    except GcloudError as error:
        if error.kind is Kind.ABSENT:
            return None
        if error.kind is not Kind.NETWORK or tries == 1:
            raise
        print(f"{error}; trying again in {tpu.poll:g} s", flush=True)
        time.sleep(tpu.poll)
        return _describe(tpu, group, tries - 1)
    return json.loads(text) if text else {}


def _of_node(node: dict[str, Any]) -> Seen:
    word = node.get("state", "STATE_UNSPECIFIED")
    # With several networks there are several endpoints a VM, as gcloud's own ssh counts them.
    networks = max(1, len(node.get("networkConfigs", ())))
    size = node.get("acceleratorConfig", {})
    scheduling = node.get("schedulingConfig", {})
    return Seen(
        NODE.get(word, State.OTHER),
        word,
        len(node.get("networkEndpoints", ())) // networks,
        node.get("acceleratorType", ""),
        shape_text(size.get("type"), size.get("topology")),
        node.get("runtimeVersion", ""),
        bool(scheduling.get("spot") or scheduling.get("preemptible")),
        node["queuedResource"].rpartition("/")[2] if node.get("queuedResource") else None,
    )


def shape_text(generation: str | None, topology: str | None) -> str:
    """Such as "v5litepod 4x4", which the API calls V5LITE_POD; "" where one is missing."""
    known = generation and topology
    return f"{generation} {topology}".lower().replace("_", "") if known else ""


def is_spot(tpu: Tpu, seen: Seen) -> bool:
    """Whether what was seen may be taken away at any moment; its queued resource may know alone."""
    if seen.spot or seen.queue is None:
        return seen.spot
    return "spot" in (_describe(tpu.named(seen.queue), "queued-resources") or {})


def nodes_of(request: dict[str, Any]) -> list[str]:
    """The ids of the nodes that a queued resource asks for, as far as it tells."""
    asked = request.get("tpu", {}).get("nodeSpec", ())
    return [node["nodeId"] for node in asked if "nodeId" in node]


def only_node_of(tpu: Tpu, queue: str) -> None:
    """Raises UserError where a queued resource has other nodes: what is done to it, is to these."""
    nodes = nodes_of(_describe(tpu.named(queue), "queued-resources") or {})
    if set(nodes) - {tpu.name}:
        raise UserError(
            f"queued resource {queue} has the TPUs {', '.join(nodes)}, not {tpu.name} alone; it is "
            f"left as it is: gcloud compute tpus queued-resources delete {queue} removes all"
        )


def _of_request(tpu: Tpu, request: dict[str, Any], queue: str) -> Seen:
    state = request.get("state", {})
    word = state.get("state", "STATE_UNSPECIFIED")
    nodes = nodes_of(request)
    if nodes and tpu.name not in nodes:  # it would never come
        return Seen(State.OTHER, f"a queued resource for {', '.join(nodes)}", queue=queue)
    reason = state.get("failedData", {}).get("error", {}).get("message")
    described = f"{word}: {reason}" if reason else word
    return Seen(QUEUED.get(word, State.OTHER), described, queue=queue)
