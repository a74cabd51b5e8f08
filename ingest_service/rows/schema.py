"""What a record is made of."""

# The texts of an interaction. Ids and times need no escaping in JSON; `session_id` is free text. `timestamp` is the
# stored 27-character form; the number `epoch_ms` is the same instant.
RECORD_TEXTS = ("user_id", "video_id", "event_type", "timestamp", "device", "session_id")

RECORD_NUMBERS = ("epoch_ms",)
