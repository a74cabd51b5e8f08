"""The script that a user would write for DynamoDB: csv, and boto3's `batch_writer`."""

import boto3  # type: ignore[import-not-found]  # in an environment of its own

from benchmarks.peers.rows import Arguments, arguments, dynamodb_table, records


def main(args: Arguments) -> None:
    name, where = dynamodb_table(args.to)
    with boto3.resource("dynamodb", **where).Table(name).batch_writer() as batch:
        for record in records(args.path, args.limit):
            batch.put_item(Item=record)


if __name__ == "__main__":
    main(arguments())
