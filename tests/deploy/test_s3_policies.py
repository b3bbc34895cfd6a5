from __future__ import annotations

import json
import re
import uuid
from datetime import timedelta
from typing import Any

from imageprocessor.queue.service import STAGING_PREFIX
from imageprocessor.settings import Settings
from tests.deploy.compose import ROOT

ACTIONS = {
    "get_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "copy_object": "s3:PutObject",  # and s3:GetObject
    "delete_object": "s3:DeleteObject",
    "list_objects_v2": "s3:ListBucket",
}


def test_access_policy_permits_only_what_the_storage_calls() -> None:
    called = re.findall(
        r"client\.(\w+_\w+)\(", (ROOT / "src/imageprocessor/storage/s3.py").read_text()
    )
    # Signing sends no request.
    needed = {ACTIONS[name] for name in called if not name.startswith("generate_presigned_")}
    permitted = [statement["Action"] for statement in read("access-policy")["Statement"]]
    assert {
        action for entry in permitted for action in ([entry] if isinstance(entry, str) else entry)
    } == needed


def test_lifecycle_keeps_uploads_longer_than_the_service_does() -> None:
    (staging,) = [
        rule for rule in read("lifecycle")["Rules"] if rule["Filter"]["Prefix"] == STAGING_PREFIX
    ]
    assert timedelta(days=staging["Expiration"]["Days"]) > timedelta(
        hours=Settings().failed_source_hours
    )


def test_lifecycle_expires_only_uploads() -> None:
    assert [
        rule["Filter"]["Prefix"] for rule in read("lifecycle")["Rules"] if "Expiration" in rule
    ] == [STAGING_PREFIX]


def test_bucket_policy_denies_uploads_to_everyone_else() -> None:
    statement = read("bucket-policy")["Statement"][0]
    assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
    assert statement["Resource"].endswith(f"/{STAGING_PREFIX}*")


def test_s3_accepts_the_policies(s3: str) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=s3,
        aws_access_key_id="a",
        aws_secret_access_key="b",
        region_name="us-east-1",
    )
    bucket = f"images-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=bucket)
    client.put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration=read("lifecycle")
    )
    client.put_bucket_cors(Bucket=bucket, CORSConfiguration=read("cors"))
    policy = read("bucket-policy")
    for statements in (policy["Statement"], without_tls(policy)):
        changed = json.dumps(policy | {"Statement": statements})
        client.put_bucket_policy(Bucket=bucket, Policy=changed)
    assert len(client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]) == 3


def without_tls(policy: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the statements that remain for an http:// endpoint, as the page says."""
    remaining = [found for found in policy["Statement"] if found["Sid"] != "RequireTLS"]
    assert "SecureTransport" not in json.dumps(remaining)
    return remaining


def read(name: str) -> dict[str, Any]:
    policy: dict[str, Any] = json.loads((ROOT / f"deploy/s3/{name}.json").read_text())
    return policy
