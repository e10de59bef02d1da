"""Tests of the contract for which it matters that MongoDB is a replica set: writes that others must acknowledge."""

from __future__ import annotations

import pytest
from test_cache_contract import (  # noqa: F401
    test_an_entry_is_there_after_closing,
    test_hits_are_counted_with_what_they_saved,
    test_the_newer_of_a_kind_takes_the_place,
)
from test_contract import (  # noqa: F401
    test_a_kill_in_the_middle_leaves_rows_and_positions_in_step,
    test_a_read_only_store_refuses_to_write,
    test_a_session_comes_back_as_it_was,
    test_parts_that_another_writer_pruned_are_made_again,
    test_readers_and_writer_at_once,
    test_the_second_time_changes_nothing,
)


@pytest.fixture
def kind() -> str:
    return "mongodb-replicas"
