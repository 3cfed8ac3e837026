"""Make the S3 buckets that are named, where they are missing. Credentials and endpoint come from AWS_*."""

import sys

import boto3

s3 = boto3.client("s3")
there = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
for name in sys.argv[1:]:
    if name not in there:
        s3.create_bucket(Bucket=name)
        print(f"made {name}")
