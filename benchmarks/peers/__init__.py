"""What a user would run otherwise, one process each: `python -m benchmarks.peers.<name> FILE --to URL`."""
