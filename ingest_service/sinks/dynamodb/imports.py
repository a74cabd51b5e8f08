"""What DynamoDB's import from S3 takes, and the command that starts one.

Limits: DynamoDB developer guide, "Best practices for importing from Amazon S3" (S3DataImport.BestPractices.html):
50,000 objects; about 4,000,000 items of up to 1 KB in one, and proportionally fewer larger ones; the objects as they
are stored 15 TB in us-east-1, us-west-2 and eu-west-1, and 1 TB in all other regions. Whatever lies below the prefix
is imported, and of equal keys an arbitrary item stays.
"""

import json
import shlex

from ingest_service.sinks.dynamodb.tables import definition

MAX_FILES = 50_000
MAX_FILE_ITEMS = 4_000_000
MAX_FILE_BYTES = MAX_FILE_ITEMS * 1024  # before they are compressed
MAX_BYTES = 10**12
MAX_BYTES_IN = dict.fromkeys(("us-east-1", "us-west-2", "eu-west-1"), 15 * 10**12)


def max_bytes(region: str) -> int:
    """Of all files as they are stored; of a region that is not known, what every one takes."""
    return MAX_BYTES_IN.get(region, MAX_BYTES)


def import_command(table: str, region: str, bucket: str, prefix: str) -> str:
    """For a shell."""
    words = ["aws", "dynamodb", "import-table", *(["--region", region] if region else [])]
    words += ["--s3-bucket-source", json.dumps({"S3Bucket": bucket, "S3KeyPrefix": prefix})]
    words += ["--input-format", "DYNAMODB_JSON", "--input-compression-type", "GZIP"]
    return shlex.join([*words, "--table-creation-parameters", json.dumps(definition(table))])
