"""The contract of `sinks.base.Sink`, held by every sink: the suite of the package, run against each in `kits.KITS`."""

import pytest

from ingest_service.sinks import testing
from ingest_service.sinks.testing import *  # noqa: F403 (that is how a sink takes the suite)

# Which of the faults in the table a test shows.
FAULTS = {
    "test_a_damaged_checkpoint_is_refused": (21,),
    "test_a_zombie_is_fenced": (26,),
    "test_an_epoch_stays": (9,),
    "test_of_equal_keys_in_a_chunk_the_last_wins": (16,),
    "test_only_culprits_are_refused": (
        13,
        16,
    ),
    "test_records_are_taken_out_by_their_rows": (57,),
}

for _name, _faults in FAULTS.items():
    globals()[_name] = pytest.mark.fault(*_faults)(getattr(testing, _name))
