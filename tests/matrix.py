"""The faults that must be survived, by number. A test names those that it tries with `@pytest.mark.fault(1, 2)`.

`scripts/fault-table` makes the table in docs/RELIABILITY.md of both. Whatever the fault: what the sinks hold in the end
is what one run without faults leaves there.
"""

from typing import NamedTuple


class Fault(NamedTuple):
    what: str
    injected: str
    holds: str


MATRIX: dict[int, Fault] = {
    1: Fault(
        "kill -9 anywhere", "at random times and at each named place", "resumes; repeats at most what was in flight"
    ),
    2: Fault("kill -9 while resuming", "again and again", "no watermark falls"),
    3: Fault("SIGTERM, SIGINT, a second one", "in the middle of a run", "drains and exits 75; at the second at once"),
    4: Fault("reply lost", "a proxy cuts it after the request was applied", "written again with the same result"),
    5: Fault(
        "connection cut in a request", "a proxy cuts it after so many bytes", "written again with the same result"
    ),
    6: Fault(
        "half-open connection", "a proxy swallows everything both ways", "given up after `timeout_s`, then retried"
    ),
    7: Fault(
        "slow sink, sliced replies", "a proxy with a rate, or single bytes", "the reader waits, memory is bounded"
    ),
    8: Fault(
        "server restarts with its data", "SIGKILL of a Redis with an append-only file", "the same process goes on"
    ),
    9: Fault(
        "the sink's rows are gone",
        "emptied, deleted, made anew; a server that comes back empty in a run",
        "exit 78 unless the checkpoint went too; `--restart` loads all",
    ),
    10: Fault("server still loads (LOADING)", "a restart with a slow append-only file", "waited for; no dead letters"),
    11: Fault("server full (OOM)", "`maxmemory`", "the refused part is retried; exit 69 after the budget"),
    12: Fault("failover (READONLY)", "`REPLICAOF`, then `NO ONE`", "the same process goes on"),
    13: Fault(
        "WRONGTYPE, NOPERM", "a poisoned key; ACLs on a real server", "that user's rows are dead letters; exit 78"
    ),
    14: Fault("unprocessed items", "a shim before DynamoDB, 0 to 100 %", "only they are sent again, with back-off"),
    15: Fault("throttles, 5xx, limits", "a shim before DynamoDB", "all rows land; exit 69 after the budget"),
    16: Fault(
        "items that cannot be stored", "equal keys, 401 KB, empty and long keys", "only the culprits are dead letters"
    ),
    17: Fault("expired credentials", "a shim answers ExpiredToken once", "fetched anew, and the load goes on"),
    18: Fault(
        "MongoDB: lost reply, failover, unmet write concern",
        "a proxy, and a shim that forges the answers",
        "one document a record; a row that another unique index refuses is a dead letter",
    ),
    19: Fault(
        "disk full", "a tmpfs of 256 KiB", "exit 74; the old checkpoint is whole, and goes on once there is room"
    ),
    20: Fault("fsync or rename fails", "EIO from the kernel (strace)", "exit 74; the old checkpoint is whole"),
    21: Fault(
        "damaged checkpoint", "every prefix and every changed byte; newer versions", "exit 78, never a start at 0"
    ),
    22: Fault("loss of power", "a model of a disk that drops what was not synced", "the old checkpoint or the new one"),
    23: Fault("source rewritten, truncated, grown", "between runs", "exit 78 with what differs; a grown one goes on"),
    24: Fault("broken compressed files", "cut off anywhere, several members, bombs", "exit 74; all members; refused"),
    25: Fault(
        "object's stream breaks off", "an HTTP server that cuts replies", "asked for again by range, of one version"
    ),
    26: Fault(
        "two runners; one that slept",
        "two processes; SIGSTOP past the lease, SIGCONT",
        "exit 73; the sleeper is fenced",
    ),
    27: Fault("wall clock jumps", "checkpoints dated 1999; a clock of the test's own", "only monotonic time decides"),
    28: Fault("a bug raises", "an exception out of a sink", "the run fails without hanging, and the next goes on"),
    29: Fault("little memory", "RLIMIT_DATA of 500 MB; `--memory` with a slow sink", "within the bound"),
    31: Fault(
        "a name that looks like an event",
        "an inbox, a request; a source that breaks off",
        "that run fails, nothing else",
    ),
    32: Fault("heads without end", "many headers, long ones, blank lines", "431 after 64 KiB, in no memory"),
    33: Fault(
        "connections without end",
        "half-sent requests, byte by byte; watchers",
        "those that wait longest give way; the service answers, runs start",
    ),
    34: Fault("no descriptor for a run", "RLIMIT_NOFILE of the service", "it is queued again, and done later"),
    35: Fault(
        "hosts that say nothing",
        "requests of an allowed URL, more than there are threads",
        "nobody else waits for them",
    ),
    36: Fault(
        "no room for runs", "RLIMIT_FSIZE of the service", "not ready, a metric and an alert; 503; goes on with room"
    ),
    37: Fault(
        "server evicts keys",
        "`maxmemory` with policies that evict, in a run and between runs",
        "exit 78, now and on every run until `--restart`; counted with `?evict=allow`",
    ),
    38: Fault(
        "versions of a row", "one key with other fields, in different chunks, loaded again", "the later one alone"
    ),
    39: Fault(
        "Redis that cannot be used as it is",
        "TLS on one side, certificates, passwords, HTTP, a replica, a Sentinel, CLUSTER renamed",
        "exit 78 at once, by what it is; without CLUSTER a plain server",
    ),
    40: Fault(
        "failover behind Sentinels",
        "SIGKILL of a primary whose replica lags; SENTINEL FAILOVER",
        "the same process goes on; what no replica had is written again",
    ),
    41: Fault(
        "a server falls silent",
        "SIGSTOP of one Redis and of two, then SIGTERM; a budget of 5 s",
        "exit 75 in 8 s; exit 69 by the budget, the release of the lease included",
    ),
    43: Fault(
        "a proxy between us and DynamoDB",
        "a proxy that tunnels, with a login",
        "all requests take it, and it is said",
    ),
    44: Fault(
        "no credentials that hold",
        "profiles without a login, keys that fail to renew",
        "exit 78 at once; in the middle of a run 69 after the budget",
    ),
    45: Fault(
        "wrong authority, name or protocol",
        "TLS and other servers in DynamoDB's place",
        "exit 78 at once, with its cause",
    ),
    46: Fault("answers that nobody foresaw", "a shim before DynamoDB, to every call", "exit 78; never taken for a bug"),
    47: Fault(
        "an index that refuses every row, rows stuck behind checkpoints that work",
        "an index on a number; bulk writes that fail, a master of three away",
        "exit 78 before a row is sent; exit 69 after the budget",
    ),
    48: Fault(
        "a server that falls silent; rows that expire as they are written",
        "SIGSTOP of each server; `ttl_s`",
        "exit 69 when the budget is spent, 75 within 8 s of SIGTERM; it is said",
    ),
    49: Fault(
        "SQLite: the file goes in the middle of a load",
        "deleted; replaced by an empty file or its copy",
        "exit 78 with the next checkpoint",
    ),
    50: Fault(
        "SQLite: a place that may only be read",
        "a read-only mount; rows that wait in the log",
        "`status` and `verify` work, or say what is missing; a run is refused",
    ),
    51: Fault(
        "SQLite: a table that others made",
        "no key, other unique indexes, columns, views, triggers",
        "it gets a key, or exit 78 before a row is sent; a doubled row is a difference",
    ),
    52: Fault(
        "two places with one store of checkpoints",
        "a second table, collection, database or file; checkpoints of version 0.1",
        "each has a checkpoint of its own, and all rows",
    ),
    53: Fault(
        "MongoDB or an object store cannot be used as its address says",
        "TLS, certificates, credentials, replica set, another kind of server",
        "exit 78 at once, by the cause; what may pass exits 69 or 74 with it",
    ),
    54: Fault(
        "MongoDB: a collection that others made",
        "capped, time series, views (forged answers); validators, indexes",
        "exit 78 before a row is sent, or a warning",
    ),
    55: Fault(
        "a file that is something else",
        "tar, Excel, Parquet, UTF-16, HTML, packed twice, rubbish at its end, lines before its header",
        "named with what to do; read where that is certain",
    ),
    56: Fault("a column there twice, or for two", "headers and `--column`", "exit 78 or 2; its place decides"),
    57: Fault(
        "a last line goes on after it was loaded",
        "files cut anywhere, then whole; grown by pieces; crashes in between",
        "half a row is taken back, out of the sink and the dead letters; `verify` finds nothing",
    ),
    58: Fault("SIGTERM while modules are imported", "a signal from within an import, as PID 1 too", "exit 75 at once"),
    59: Fault("a source that is mostly refused", "wrong ids, times, delimiters", "exit 65 with the commonest reason"),
    60: Fault("a sink that refuses all rows", "a poisoned key", "exit 65 with the sink's reason"),
    61: Fault(
        "SQLite: chunks that are stored together",
        "kill -9 at each place of it, SIGTERM, readers in the middle, files that overlap",
        "the watermark promises only what is stored; rows as of one run, the later one of a key",
    ),
    70: Fault(
        "PostgreSQL: the connection dies in a transaction",
        "pg_terminate_backend, a proxy that cuts requests",
        "what `write` had reported is written again, in its order",
    ),
    71: Fault(
        "PostgreSQL: it dies in a COMMIT",
        "a proxy that cuts it before and after the commit was made",
        "the checkpoint says whether it took; each row is there once",
    ),
    72: Fault(
        "PostgreSQL: deadlock, serialization failure",
        "a session that waits for our rows, a trigger",
        "the whole transaction is made again",
    ),
    73: Fault(
        "PostgreSQL: statement_timeout, idle_in_transaction_session_timeout",
        "set for the session",
        "smaller statements; the rows are written again",
    ),
    74: Fault(
        "PostgreSQL: another session's lock", "LOCK TABLE", "waited for; exit 69 with the reason after the budget"
    ),
    75: Fault("PostgreSQL: the server is killed", "SIGKILL in a load, and a restart", "the same process goes on"),
    76: Fault(
        "PostgreSQL: failover to a standby",
        "SIGKILL of the primary, pg_promote; a commit that is gone again",
        "the same process goes on; exit 69 where confirmed rows are lost, and the next run writes them",
    ),
    77: Fault(
        "PostgreSQL cannot be used as its address says",
        "passwords, names, TLS, another kind of server",
        "exit 78 at once, by the cause",
    ),
    78: Fault("PostgreSQL: the disk is full", "a tablespace of 3 MiB", "waited for; exit 69 after the budget"),
    79: Fault(
        "PostgreSQL: a table that others made",
        "no key, other columns and types, views, rules, partitions, unique indexes",
        "exit 78 before a row is sent, a warning, or all rows",
    ),
    80: Fault(
        "workers, or who started them, are killed",
        "kill -9 of one, two, all, of the driver alone; at each place of the end of shards",
        "others take over what they had; as after one run that was not divided",
    ),
    81: Fault(
        "workers and runs side by side",
        "two that begin at once; beside a plain run; SIGSTOP past a shard's lease, SIGCONT",
        "one plan, each row by one of them; who slept adds nothing",
    ),
    82: Fault("a shard that always fails", "bad rows in one", "the others are loaded; exit 65 names the shard"),
    83: Fault(
        "a divided source changes", "rewritten or cut off between workers", "exit 78; nothing is brought together"
    ),
    84: Fault(
        "a worker without what the others have",
        "no source; dead letters or keys of a shard in another state folder",
        "exit 66, exit 74 with what to bring; then the load goes on",
    ),
    85: Fault(
        "an upload breaks off",
        "the client goes, falls silent, or the service is killed in it; a disk that is full",
        "no file of its name, and nothing of it stays",
    ),
    86: Fault(
        "a kill while an edited dead letter is replayed",
        "at each step, of the command and of the service",
        "the row of the source and its reason are kept until the new row is stored, once",
    ),
    87: Fault(
        "a divided load from an object store that is slow and breaks off",
        "a proxy that trickles, cuts, and is gone for a moment",
        "asked again, or exit 74; then as after one run, dead letters in the mirror included",
    ),
}
