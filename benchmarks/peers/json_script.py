"""The script that a user would write for JSON Lines: json.loads a line, and a record of it as a dictionary.

python -m benchmarks.peers.json_script reviews.jsonl 100000
"""

import json
import sys
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5


def main() -> None:
    path, limit = sys.argv[1:]
    n = 0
    with Path(path).open("rb") as file:
        for line in islice(file, int(limit)):
            row = json.loads(line)
            at = datetime.fromtimestamp(row["timestamp"] / 1000, UTC)
            record = {
                "user_id": str(uuid5(NAMESPACE_URL, f"amazon_user_{row['user_id']}")),
                "video_id": str(uuid5(NAMESPACE_URL, f"amazon_item_{row['parent_asin']}")),
                "timestamp": at.isoformat(timespec="microseconds"),
                "session_id": f"session_{row['user_id']}_{at:%Y-%m-%d}",
                "rating": float(row["rating"]),
            }
            n += len(record) > 0
    sys.stdout.write(f"{n}\n")


if __name__ == "__main__":
    main()
