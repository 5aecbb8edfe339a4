"""A real server of S3's protocol on loopback, for the tests of checkpoint stores."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

BUCKET = "checkpoints"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def object_store() -> Iterator[dict[str, str]]:
    """Serve an empty bucket at a free port; gives the environment that s3fs finds it by."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            boto3.client("s3").create_bucket(Bucket=BUCKET)
            yield environment
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
    finally:
        S3FileSystem.clear_instance_cache()  # the next server has another port
        server.stop()
