"""Loading from the hub: the real client against a server on the loopback address."""

import json
import logging
import os
import pathlib
import pty
import socket
import subprocess
import sys
import termios
import threading

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.convert.hub_server import Fault, client_turned_to_one, commit_of
from vit_jax.cli import main as cli
from vit_jax.convert import hub_fetch
from vit_jax.convert.hub import download, is_hub_id, resolved_revision
from vit_jax.convert.hub_ids import HubId, parse
from vit_jax.errors import MissingFileError, UserError

CONFIG = b'{"architecture": "vit_tiny_patch16_224"}'
WEIGHTS = bytes(range(256)) * 64
VIT = {
    ".gitattributes": b"*.safetensors filter=lfs",
    "README.md": b"# A model",
    "config.json": CONFIG,
    "flax_model.msgpack": b"flax",
    "model.onnx": b"onnx",
    "model.safetensors": WEIGHTS,
    "preprocessor_config.json": b"{}",
    "pytorch_model.bin": b"the same as a pickle",
    "tf_model.h5": b"tensorflow",
}
SHARDED = {
    "config.json": CONFIG,
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    ).encode(),
    "model-1-of-2.safetensors": b"first",
    "model-2-of-2.safetensors": b"second",
    "pytorch_model.bin": b"the same as a pickle",
}


@pytest.fixture
def hub(monkeypatch):
    """A hub that the client is turned to; every other address is refused and fails the test."""
    strangers = []
    look_up = socket.getaddrinfo

    def loopback_only(host, *arguments, **options):
        if host not in ("127.0.0.1", "localhost"):
            strangers.append(host)
            raise OSError(f"a test reached for {host}")
        return look_up(host, *arguments, **options)

    with client_turned_to_one(monkeypatch) as server:
        monkeypatch.setattr(socket, "getaddrinfo", loopback_only)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's pauses
        huggingface_hub.close_session()
        yield server
        huggingface_hub.close_session()
    assert strangers == []


@pytest.fixture
def fetch(tmp_path):
    """`download` with a cache of its own."""

    def fetch(source, **options):
        return download(source, cache_dir=tmp_path / "cache", **options)

    fetch.cache = tmp_path / "cache"
    return fetch


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def partial_files(cache):
    return [path.name for path in cache.rglob("*.incomplete")]


# What is meant by a name.


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf-hub:owner/name", HubId("owner/name", "main", None)),
        ("hf-hub:owner/name@v1.0", HubId("owner/name", "v1.0", None)),
        ("hf-hub:owner/name@refs/pr/1", HubId("owner/name", "refs/pr/1", None)),
        ("hf-hub:owner/name/a/b.npz", HubId("owner/name", "main", "a/b.npz")),
        ("hf-hub:owner/name/b.npz@v1", HubId("owner/name", "v1", "b.npz")),
        ("timm/vit.augreg_in21k", HubId("timm/vit.augreg_in21k", "main", None)),
        ("hf-hub:timm/vit.augreg_in21k", HubId("timm/vit.augreg_in21k", "main", None)),
    ],
)
def test_hub_ids(source, expected):
    assert is_hub_id(source)
    assert parse(source) == expected
    assert parse(str(expected)) == expected


@pytest.mark.parametrize(
    "source", ["hf-hub:", "hf-hub:name", "hf-hub:/name", "hf-hub:a/b/", "hf-hub:a//b", "timm/v@"]
)
def test_malformed_hub_ids(source):
    with pytest.raises(UserError, match="is no hub id: expected hf-hub:owner/name"):
        download(source)


def test_revision_may_be_given_apart_but_not_twice_differently():
    assert parse("timm/vit", "v1") == parse("timm/vit@v1") == parse("timm/vit@v1", "v1")
    with pytest.raises(UserError, match="names a revision and revision='v2' another"):
        parse("timm/vit@v1", "v2")


@pytest.mark.parametrize(
    "source",
    [
        "owner/name",
        "hf_hub:owner/name",
        "hf:owner/name",
        "hf://owner/name",
        "https://huggingface.co/owner/name/tree/main",
    ],
)
def test_other_spellings_are_refused_with_the_right_one(source):
    assert not is_hub_id(source)
    with pytest.raises(MissingFileError, match=r"neither .* Did you mean 'hf-hub:owner/name'\?"):
        download(source)


@pytest.mark.parametrize("source", ["weights.npz", "/nowhere/vit.npz", "../vit/weights.npz", "~/v"])
def test_a_missing_file_gets_no_suggestion(source):
    with pytest.raises(MissingFileError, match=r"neither a file or folder here [^?]*$"):
        download(source)


@pytest.mark.parametrize("revision", [None, "main"])
def test_the_command_knows_a_hub_id_without_its_prefix(tmp_path, monkeypatch, capsys, revision):
    monkeypatch.chdir(tmp_path)
    command = ["convert", "owner/name", "--output", "out"]
    assert cli.main(command + ([] if revision is None else ["--revision", revision])) == 2
    error = capsys.readouterr().err
    assert "owner/name does not exist. Did you mean 'hf-hub:owner/name'?" in error
    (tmp_path / "owner").mkdir()  # now a path is what is meant
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert "owner/name does not exist" in error and "Did you mean" not in error


@pytest.mark.parametrize("source", ["timm/vit", "hf-hub:owner/name", "owner/name"])
def test_a_local_path_wins(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    pathlib.Path(source).mkdir(parents=True)
    assert not is_hub_id(source)
    assert download(source) == pathlib.Path(source)
    assert resolved_revision(download(source)) is None
    with pytest.raises(UserError, match="which is a local path"):
        download(source, revision="main")


# What is fetched.


def test_only_what_is_needed_is_fetched(hub, fetch):
    hub.add("owner/name", VIT)
    folder = fetch("hf-hub:owner/name")
    needed = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert contents(folder) == {name: VIT[name] for name in needed}
    assert hub.fetched() == needed
    assert resolved_revision(folder) == resolved_revision(folder / needed[0]) == commit_of(1)
    # The listing, the note of the branch and of the files; then HEAD and GET of each file.
    assert [path.split("/")[5] for _, path in hub.requests if "/api/" in path] == [
        "revision",
        "revision",
        "tree",
    ]
    assert len(hub.requests) == 3 + 2 * len(needed)


def test_the_organisation_timm_needs_no_prefix(hub, fetch):
    hub.add("timm/vit.augreg", VIT)
    assert fetch("timm/vit.augreg") == fetch("hf-hub:timm/vit.augreg")


def test_second_call_fetches_nothing(hub, fetch):
    hub.add("owner/name", VIT)
    folder = fetch("hf-hub:owner/name")
    hub.requests.clear()
    assert fetch("hf-hub:owner/name") == folder
    assert hub.requests == [("GET", "/api/models/owner/name/revision/main")] * 2


def test_shards(hub, fetch):
    hub.add("owner/name", SHARDED)
    folder = fetch("hf-hub:owner/name")
    assert contents(folder) | {"pytorch_model.bin": SHARDED["pytorch_model.bin"]} == SHARDED
    assert "pytorch_model.bin" not in hub.fetched()


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["pytorch_model.bin", "model.ckpt.index", "tf_model.h5"], ["pytorch_model.bin"]),
        (
            ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_config.json"],
            ["open_clip_config.json", "open_clip_model.safetensors"],
        ),
        (["pytorch_model.bin", "open_clip_model.safetensors"], ["pytorch_model.bin"]),
        (["open_clip_pytorch_model.bin", "b.npz"], ["open_clip_pytorch_model.bin"]),
        (["README.md", "ViT-B_16.npz"], ["ViT-B_16.npz"]),
        (["dino.pth", "training_args.bin"], ["dino.pth"]),
    ],
)
def test_choice_of_weights(hub, fetch, files, taken):
    hub.add("owner/name", {name: name.encode() for name in files})
    assert sorted(contents(fetch("hf-hub:owner/name"))) == taken == hub.fetched()


def test_the_only_weights_may_lie_in_a_folder_with_their_configuration(hub, fetch):
    hub.add("owner/name", {"config.json": b"other", "vit/b.pth": b"b", "vit/config.json": CONFIG})
    folder = fetch("hf-hub:owner/name")
    assert contents(folder) == {"b.pth": b"b", "config.json": CONFIG}
    assert resolved_revision(folder) == commit_of(1)


def test_several_candidates_are_listed_and_one_can_be_named(hub, fetch):
    files = {"jft/B_16.npz": b"b16", "jft/L_16.npz": b"l16", "h.pth": b"h", "config.json": CONFIG}
    hub.add("owner/name", files)
    with pytest.raises(UserError, match=r"several .*: h.pth, jft/B_16.npz, jft/L_16.npz\. Choose"):
        fetch("hf-hub:owner/name")
    assert hub.fetched() == []
    path = fetch("hf-hub:owner/name/jft/L_16.npz")
    assert path.read_bytes() == b"l16"
    assert resolved_revision(path) == commit_of(1)
    assert hub.fetched() == ["L_16.npz"]


def test_a_named_file_wins_over_a_standard_one(hub, fetch):
    hub.add("owner/name", VIT)
    assert fetch("hf-hub:owner/name/pytorch_model.bin").read_bytes() == VIT["pytorch_model.bin"]
    assert hub.fetched() == ["config.json", "preprocessor_config.json", "pytorch_model.bin"]


def test_a_name_is_not_a_pattern(hub, fetch):
    hub.add("owner/name", {"vit[1].npz": b"this", "vit1.npz": b"not this"})
    assert fetch("hf-hub:owner/name/vit[1].npz").read_bytes() == b"this"
    assert hub.fetched() == ["vit[1].npz"]


def test_a_named_index_brings_its_shards(hub, fetch):
    hub.add("owner/name", VIT | SHARDED)
    path = fetch("hf-hub:owner/name/model.safetensors.index.json")
    assert (path.parent / "model-2-of-2.safetensors").read_bytes() == b"second"


@pytest.mark.parametrize(
    ("file", "match"),
    [
        ("model.safetensor", "cannot be read: expected a file ending in"),
        ("flax_model.msgpack", "cannot be read: expected a file ending in"),
        ("models.safetensors", "unknown weights file .*: did you mean 'model.safetensors'"),
        ("../../config.json", "cannot be read"),
        ("../model.safetensors", "unknown weights file"),
    ],
)
def test_named_file_that_is_not_there(hub, fetch, file, match):
    hub.add("owner/name", VIT)
    with pytest.raises(UserError, match=match):
        fetch(f"hf-hub:owner/name/{file}")
    assert hub.fetched() == []


def test_repository_without_weights(hub, fetch):
    hub.add("owner/name", {"config.json": CONFIG, "flax_model.msgpack": b"flax"})
    expected = "no weights that can be read: .* found config.json, flax_model.msgpack"
    with pytest.raises(UserError, match=expected):
        fetch("hf-hub:owner/name")


@pytest.mark.parametrize(
    ("index", "match"),
    [
        (b"no JSON", "no index of shards: expected JSON with a 'weight_map'"),
        (b"[]", "no index of shards"),
        (b'{"weight_map": ["a"]}', "no index of shards"),
        (b'{"weight_map": {"a": 3}}', "no index of shards"),
        (b'{"weight_map": {"a": "gone.safetensors"}}', "does not hold: gone.safetensors"),
        (b'{"weight_map": {"a": "../x.safetensors"}}', "does not hold: ../x.safetensors"),
        (b'{"weight_map": {"a": "/etc/passwd"}}', "does not hold: /etc/passwd"),
    ],
)
def test_broken_index(hub, fetch, index, match):
    hub.add("owner/name", {"model.safetensors.index.json": index})
    with pytest.raises(UserError, match=match):
        fetch("hf-hub:owner/name")


# Revisions.


def test_revisions(hub, fetch):
    hub.add("owner/name", VIT | {"model.safetensors": b"old"}, commit=1, branch="v1")
    hub.add("owner/name", VIT, commit=2)
    for source, options in [
        ("hf-hub:owner/name@v1", {}),
        ("hf-hub:owner/name", {"revision": "v1"}),
        ("hf-hub:owner/name", {"revision": commit_of(1)}),
        (f"hf-hub:owner/name@{commit_of(1)}", {}),
    ]:
        folder = fetch(source, **options)
        assert (folder / "model.safetensors").read_bytes() == b"old"
        assert resolved_revision(folder) == commit_of(1)
    assert resolved_revision(fetch("hf-hub:owner/name")) == commit_of(2)


def test_a_branch_that_moved_is_followed(hub, fetch):
    hub.add("owner/name", VIT, commit=1)
    old = fetch("hf-hub:owner/name")
    hub.add("owner/name", VIT | {"model.safetensors": b"new"}, commit=2)
    new = fetch("hf-hub:owner/name")
    assert (new / "model.safetensors").read_bytes() == b"new"
    assert (old / "model.safetensors").read_bytes() == WEIGHTS
    assert fetch("hf-hub:owner/name", offline=True) == new


def test_a_branch_that_moves_during_the_look_up(hub, fetch):
    hub.add("owner/name", VIT, commit=1)

    def move(path):
        if len(hub.requests) == 2:
            hub.add("owner/name", VIT, commit=2)

    hub.before_answer = move
    with pytest.raises(UserError, match="changed while it was looked up: run again"):
        fetch("hf-hub:owner/name")
    assert resolved_revision(fetch("hf-hub:owner/name")) == commit_of(2)


# What the hub refuses.


def test_missing_revision(hub, fetch):
    hub.add("owner/name", VIT)
    for revision in ("v7", commit_of(7)):
        with pytest.raises(UserError, match=f"no revision '{revision}': give a branch, a tag"):
            fetch("hf-hub:owner/name", revision=revision)


@pytest.mark.parametrize("refusal", [None, (404, "RepoNotFound"), (401, "RepoNotFound")])
def test_missing_or_private_repository(hub, fetch, refusal):
    if refusal:
        hub.add("owner/name", VIT).refusal = refusal
    expected = f"there is no {hub.endpoint}/owner/name, or it is private: .* HF_TOKEN"
    with pytest.raises(UserError, match=expected):
        fetch("hf-hub:owner/name")
    assert len(hub.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_gated_repository(hub, fetch, status):
    hub.add("owner/name", VIT).gate = (status, "GatedRepo")
    with pytest.raises(UserError, match=f"restricted: ask for it on {hub.endpoint}/.* HF_TOKEN"):
        fetch("hf-hub:owner/name")


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("which", ["refusal", "gate"])
def test_refused_token(hub, fetch, status, which):
    setattr(hub.add("owner/name", VIT), which, (status, "Forbidden"))
    with pytest.raises(UserError, match=f"refused it .*{status}.*(?s:.*)HF_TOKEN"):
        fetch("hf-hub:owner/name")


def test_hub_in_trouble(hub, fetch):
    hub.add("owner/name", VIT).refusal = (503, "Busy")
    with pytest.raises(UserError, match=r"answered with an error .*503(?s:.*)offline=True"):
        fetch("hf-hub:owner/name")


def test_something_that_is_no_hub(hub, fetch):
    hub.add("owner/name", VIT)
    hub.info = b"<html>Please log in to the hotel's network</html>"
    with pytest.raises(UserError, match="did not answer as a hub does: check HF_ENDPOINT"):
        fetch("hf-hub:owner/name")


def test_name_that_the_client_refuses(hub, fetch):
    for offline in (False, True):
        with pytest.raises(UserError, match=r"is no hub id: Cannot have -- or \.\. in"):
            fetch("hf-hub:owner/na--me", offline=offline)


def test_hub_that_does_not_answer(hub, fetch, monkeypatch):
    hub.add("owner/name", VIT)
    monkeypatch.setattr(hub_fetch, "TIMEOUT", 0.2)
    over = threading.Event()
    hub.before_answer = lambda path: over.wait(60)
    with pytest.raises(UserError, match=r"could not reach .*ReadTimeout"):
        fetch("hf-hub:owner/name")
    over.set()


# Transfers that break.


def test_a_cut_transfer_goes_on_where_it_was(hub, fetch, monkeypatch):
    hub.add("owner/name", VIT)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # a cut chunk is not kept
    hub.faults["model.safetensors"] = Fault(times=1, cut=1000)
    assert (fetch("hf-hub:owner/name") / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.ranges == ["bytes=1000-"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"cut": 1000}, "did not arrive whole, and no part was kept .*peer closed"),
        ({"cut": 0}, "did not arrive whole, and no part was kept .*peer closed"),
        ({"status": 503}, "answered with an error .*503"),
        ({"body": WEIGHTS[:-1]}, "did not arrive whole, .*should be of size 16384 but has"),
        ({"body": WEIGHTS + b"!"}, "did not arrive whole, .*should be of size 16384 but has"),
        ({"body": WEIGHTS[::-1]}, "arrived damaged: its hash is"),
    ],
)
def test_after_a_broken_transfer_nothing_half_done_is_taken_for_whole(hub, fetch, fault, message):
    hub.add("owner/name", VIT)
    hub.faults["model.safetensors"] = fault = Fault(times=99, **fault)
    with pytest.raises(UserError, match=message):
        fetch("hf-hub:owner/name")
    assert not list(fetch.cache.rglob("model.safetensors")) and not partial_files(fetch.cache)
    with pytest.raises(MissingFileError, match=r"holds too few: .* found config\.json"):
        fetch("hf-hub:owner/name", offline=True)
    fault.times = 0
    assert (fetch("hf-hub:owner/name") / "model.safetensors").read_bytes() == WEIGHTS


def test_a_damaged_configuration_is_found_too(hub, fetch):
    hub.add("owner/name", VIT)
    hub.faults["config.json"] = Fault(times=1, body=CONFIG[::-1])
    with pytest.raises(UserError, match=r"config\.json arrived damaged: its hash is"):
        fetch("hf-hub:owner/name")
    assert (fetch("hf-hub:owner/name") / "config.json").read_bytes() == CONFIG


def test_a_shard_that_breaks_is_fetched_alone_the_next_time(hub, fetch):
    hub.add("owner/name", SHARDED)
    hub.faults["model-2-of-2.safetensors"] = Fault(times=1, status=500)
    with pytest.raises(UserError, match="answered with an error"):
        fetch("hf-hub:owner/name")
    with pytest.raises(MissingFileError, match=r"model-2-of-2\.safetensors is not in the cache"):
        fetch("hf-hub:owner/name", offline=True)
    hub.requests.clear()
    assert (fetch("hf-hub:owner/name") / "model-2-of-2.safetensors").read_bytes() == b"second"
    assert hub.fetched() == ["model-2-of-2.safetensors"]


def test_a_listing_without_hashes_is_announced(hub, fetch, caplog):
    hub.add("owner/name", VIT)
    hub.hashes = False
    assert (fetch("hf-hub:owner/name") / "model.safetensors").read_bytes() == WEIGHTS
    assert "no hash of model.safetensors: its contents were not checked" in caplog.text


@pytest.mark.parametrize("damaged", [WEIGHTS[:-7], WEIGHTS[::-1]])
def test_damage_in_the_cache_is_found_and_mended(hub, fetch, caplog, damaged):
    hub.add("owner/name", VIT)
    folder = fetch("hf-hub:owner/name")
    (folder / "model.safetensors").resolve().write_bytes(damaged)
    if len(damaged) < len(WEIGHTS):
        with pytest.raises(MissingFileError, match=f"has {len(damaged)} bytes, expected 16384"):
            fetch("hf-hub:owner/name", offline=True)
    hub.requests.clear()
    assert contents(fetch("hf-hub:owner/name"))["model.safetensors"] == WEIGHTS
    assert hub.fetched() == ["model.safetensors"]
    assert "is fetched anew" in caplog.text


def test_a_killed_process_leaves_nothing_that_is_taken_for_whole(hub, fetch):
    hub.add("owner/name", VIT)
    over = threading.Event()
    hub.faults["model.safetensors"] = Fault(times=1, hold=over)
    process = subprocess.Popen(COMMAND, env=environment(hub, fetch.cache))
    assert hub.half_sent.wait(60)
    process.kill()
    process.wait()
    over.set()
    assert partial_files(fetch.cache)  # it was in the middle
    with pytest.raises(MissingFileError, match=r"holds too few: .* found config\.json"):
        fetch("hf-hub:owner/name", offline=True)
    assert (fetch("hf-hub:owner/name") / "model.safetensors").read_bytes() == WEIGHTS


# Without a network.


def test_a_pinned_commit_needs_no_network(hub, fetch):
    hub.add("owner/name", VIT)
    folder = fetch("hf-hub:owner/name")
    hub.stop()
    assert fetch("hf-hub:owner/name", revision=commit_of(1)) == folder
    assert fetch(f"hf-hub:owner/name@{commit_of(1)}") == folder
    with pytest.raises(UserError, match="could not reach"):
        fetch("hf-hub:owner/name", revision=commit_of(2))


def test_a_branch_is_never_silently_what_it_was(hub, fetch):
    repository = hub.add("owner/name", VIT)
    folder = fetch("hf-hub:owner/name")
    repository.refusal = (503, "Busy")
    with pytest.raises(UserError, match=r"answered with an error .*503"):
        fetch("hf-hub:owner/name")
    hub.stop()
    with pytest.raises(UserError, match=r"could not reach http.* with offline=True"):
        fetch("hf-hub:owner/name")
    assert fetch("hf-hub:owner/name", offline=True) == folder


def test_offline_asks_nobody(hub, fetch, monkeypatch):
    hub.add("owner/name", VIT)
    hub.add("owner/sharded", SHARDED)
    sources = ["hf-hub:owner/name", "hf-hub:owner/sharded", "hf-hub:owner/name/pytorch_model.bin"]
    online = [fetch(source) for source in sources]
    hub.requests.clear()
    assert [fetch(source, offline=True) for source in sources] == online
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert [fetch(source) for source in sources] == online
    assert hub.requests == []


def test_offline_and_not_in_the_cache(hub, fetch):
    hub.add("owner/name", VIT | {"other.npz": b"npz"})
    with pytest.raises(MissingFileError, match=r"nothing of it is in the cache .*run it once with"):
        fetch("hf-hub:owner/name", offline=True)
    fetch("hf-hub:owner/name")
    for revision in ("v1", commit_of(2)):
        with pytest.raises(MissingFileError, match=f"@{revision}: nothing of it is in the cache"):
            fetch("hf-hub:owner/name", revision=revision, offline=True)
    with pytest.raises(MissingFileError, match=r"other\.npz is not in the cache"):
        fetch("hf-hub:owner/name/other.npz", offline=True)
    with pytest.raises(UserError, match=r"unknown weights file 'gone\.npz'"):
        fetch("hf-hub:owner/name/gone.npz", offline=True)


def test_offline_a_choice_stays_ambiguous(hub, fetch):
    """One of two files is in the cache: that does not make it the only one."""
    hub.add("owner/name", {"a.npz": b"a", "b.npz": b"b"})
    path = fetch("hf-hub:owner/name/a.npz")
    with pytest.raises(UserError, match="several weights files"):
        fetch("hf-hub:owner/name", offline=True)
    assert fetch("hf-hub:owner/name/a.npz", offline=True) == path


def cache_as_others_do(fetch, *names):
    for name in names:
        huggingface_hub.hf_hub_download("owner/name", name, cache_dir=fetch.cache)


def test_offline_with_files_that_another_program_fetched(hub, fetch, caplog):
    hub.add("owner/name", VIT)
    cache_as_others_do(fetch, "config.json", "model.safetensors")
    folder = fetch("hf-hub:owner/name", offline=True)
    assert sorted(contents(folder)) == ["config.json", "model.safetensors"]
    assert "going by those that are: config.json, model.safetensors" in caplog.text
    # With a network the list is asked for, and what is lacking is fetched.
    hub.requests.clear()
    fetch("hf-hub:owner/name", revision=commit_of(1))
    assert hub.fetched() == ["preprocessor_config.json"]


@pytest.mark.parametrize("name", ["config.json", "other.npz", "model.safetensors.index.json"])
def test_offline_with_too_little_of_what_another_program_fetched(hub, fetch, name):
    hub.add("owner/name", SHARDED | {"other.npz": b"npz"})
    cache_as_others_do(fetch, name)
    with pytest.raises(MissingFileError, match=r"of an unknown number of files .* holds too few"):
        fetch("hf-hub:owner/name", offline=True)


def test_other_paths_have_no_revision(tmp_path):
    assert resolved_revision(tmp_path) is None
    assert resolved_revision(tmp_path / "snapshots" / "main" / "config.json") is None


# In a process of its own: the environment and the terminal.

COMMAND = [
    sys.executable,
    "-c",
    "import sys\n"
    "from vit_jax.convert.hub import download\n"
    "assert 'huggingface_hub' not in sys.modules, 'imported before it is used'\n"
    "print(download('hf-hub:owner/name'))",
]


def environment(hub, cache, **variables):
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return kept | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_CACHE": str(cache),
        "HF_HOME": str(cache / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "PYTHONPATH": str(pathlib.Path(__file__).parents[2]),
        **variables,
    }


def run(hub, cache, **variables):
    return subprocess.run(
        COMMAND,
        env=environment(hub, cache, **variables),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_client_s_settings_hold_and_a_pipe_gets_no_progress_bar(hub, fetch):
    hub.add("owner/name", VIT)
    result = run(hub, fetch.cache)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    folder = pathlib.Path(result.stdout.strip())
    assert folder.is_relative_to(fetch.cache)
    assert contents(folder)["model.safetensors"] == WEIGHTS
    hub.stop()
    result = run(hub, fetch.cache, HF_HUB_OFFLINE="1")
    assert result.stdout.strip() == str(folder), result.stderr


def test_a_terminal_gets_a_progress_bar(hub, fetch):
    hub.add("owner/name", VIT)
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 100))
    with os.fdopen(end, "wb") as stderr:
        subprocess.run(
            COMMAND,
            env=environment(hub, fetch.cache),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            timeout=120,
            check=True,
        )
        shown = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert "model.safetensors: 100%" in shown
    assert f"{len(WEIGHTS) / 1000:.1f}k" in shown  # bytes, not files


def test_the_client_s_log_is_its_own(hub, fetch, caplog):
    hub.add("owner/name", VIT)
    with caplog.at_level(logging.WARNING):
        fetch("hf-hub:owner/name")
    assert caplog.text == ""
