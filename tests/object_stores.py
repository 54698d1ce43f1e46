"""Object stores on this machine: moto's S3 and gcp-storage-emulator's Google Cloud Storage.

    python -m tests.object_stores s3   # or gs; serves an empty bucket until its input ends

Each is a process of its own, which prints its port. What it holds is in its memory.
"""

import atexit
import functools
import http
import logging
import os
import re
import socket
import subprocess
import sys
import uuid

import pytest

BUCKET = "bucket"
SCHEMES = ("s3", "gs")


def environment(scheme, port):
    """What makes every library of a process use that store and no other."""
    url = f"http://127.0.0.1:{port}"
    if scheme == "s3":
        return {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    return {
        "STORAGE_EMULATOR_HOST": url,  # gcsfs and google-cloud-storage
        "TENSORSTORE_GCS_HTTP_URL": url,
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": url,  # array_record
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it would ask Google what bucket it is
    }


@functools.cache
def running(scheme):
    """Starts a store that lives as long as this process, and makes it the one that is used."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.object_stores", scheme],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.PIPE,  # at whose end it ends
        text=True,
    )
    atexit.register(server.kill)
    port = re.search(r"port (\d+)", server.stdout.readline())[1]
    os.environ.update(environment(scheme, port))
    return server


@pytest.fixture(params=SCHEMES)
def place(request):
    """The URL of a folder that is empty."""
    running(request.param)
    return f"{request.param}://{BUCKET}/{uuid.uuid4().hex}"


def _serve(scheme):
    logging.disable(logging.CRITICAL)
    if scheme == "s3":
        import boto3
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        port = server.get_host_and_port()[1]
        os.environ.update(environment(scheme, port))
        boto3.client("s3").create_bucket(Bucket=BUCKET)
    else:
        create_server = _create_google_server()
        port = _free_port()
        create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET).start()
    print(f"port {port}", flush=True)
    sys.stdin.read()
    os._exit(0)


def _create_google_server():
    """gcp-storage-emulator with generations of objects, on which TensorStore relies.

    The emulator numbers them, but does not tell in a download, nor look at a request's conditions.
    """
    from gcp_storage_emulator.handlers import objects

    def conditional(handler):
        @functools.wraps(handler)
        def handle(request, response, storage, *arguments, **options):
            bucket = request.params["bucket_name"]
            name = request.params.get("object_id") or request.query.get("name", [None])[0]
            known = storage.objects.get(bucket, {}).get(name, {})
            generation = known.get("generation", "0")
            if request.query.get("ifGenerationMatch", [generation]) != [generation]:
                response.status = http.HTTPStatus.PRECONDITION_FAILED
            elif known and request.query.get("ifGenerationNotMatch") == [generation]:
                response.status = http.HTTPStatus.NOT_MODIFIED
            else:
                response["x-goog-generation"] = generation
                handler(request, response, storage, *arguments, **options)

        return handle

    objects.insert, objects.download = conditional(objects.insert), conditional(objects.download)
    from gcp_storage_emulator.server import create_server  # whose table of handlers is made now

    return create_server


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    _serve(sys.argv[1])
