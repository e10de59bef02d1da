"""The tables, built by named migrations. A migration, once released, never changes."""

from __future__ import annotations

from collections.abc import Callable

import apsw

from gemini_caching_proxy.errors import FormatTooNew, StoreUnavailable

APPLICATION_ID = 0x47435058
"""Marks the file as ours in SQLite's header ("GCPX")."""


def m001_exchanges(connection: apsw.Connection) -> None:
    """Everything of the first version."""
    connection.execute(
        """
        CREATE TABLE state (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            next_number INTEGER NOT NULL,   -- of exchanges and parts; never used twice
            exchanges INTEGER NOT NULL,
            parts INTEGER NOT NULL,
            body_bytes INTEGER NOT NULL
        );
        INSERT INTO state VALUES (1, 1, 0, 0, 0);

        CREATE TABLE facets (
            id INTEGER PRIMARY KEY,
            digest BLOB NOT NULL UNIQUE,
            provider TEXT NOT NULL,
            operation TEXT NOT NULL,
            method TEXT NOT NULL,
            model TEXT,
            model_version TEXT,
            status INTEGER,
            failure TEXT,
            stream_shape TEXT NOT NULL,
            user_agent TEXT,
            credential TEXT,
            credential_source TEXT NOT NULL,
            upstream TEXT NOT NULL,
            http_version TEXT NOT NULL
        );

        CREATE TABLE exchanges (
            sequence INTEGER PRIMARY KEY,
            id BLOB NOT NULL,
            started_ns INTEGER NOT NULL,
            facet INTEGER NOT NULL,
            request_bytes INTEGER NOT NULL,
            response_bytes INTEGER NOT NULL,
            chunk_count INTEGER NOT NULL,
            ttfb_us INTEGER,
            ttft_us INTEGER,
            duration_us INTEGER,
            input_tokens INTEGER,
            cached_tokens INTEGER,
            output_tokens INTEGER,
            thoughts_tokens INTEGER,
            total_tokens INTEGER,
            price_nanousd INTEGER,
            finish_reason TEXT,
            conversation BLOB
        );
        CREATE UNIQUE INDEX exchanges_by_id ON exchanges (id);
        CREATE INDEX exchanges_by_time ON exchanges (started_ns);
        CREATE INDEX exchanges_by_facet ON exchanges (facet, started_ns);
        CREATE INDEX exchanges_by_conversation ON exchanges (conversation, started_ns) WHERE conversation IS NOT NULL;

        CREATE TABLE details (
            sequence INTEGER PRIMARY KEY,
            target TEXT NOT NULL,
            client_address TEXT NOT NULL,
            parent BLOB,
            said_bytes INTEGER NOT NULL,    -- the preview is the first so many bytes of response; 0: it is asked
            asked TEXT NOT NULL,
            record BLOB NOT NULL,
            response BLOB NOT NULL          -- what the model said, then the response body without its parts
        );
        CREATE TABLE uses (
            sequence INTEGER PRIMARY KEY,
            parts BLOB NOT NULL
        );
        CREATE TABLE parts (
            id INTEGER PRIMARY KEY,
            digest BLOB NOT NULL UNIQUE,
            owner INTEGER NOT NULL,         -- the oldest exchange that uses it
            size INTEGER NOT NULL,          -- of the part; its text follows in data
            data BLOB NOT NULL
        );
        CREATE INDEX parts_by_owner ON parts (owner);
        CREATE VIRTUAL TABLE words USING fts5 (
            text, content = '', contentless_delete = 1, tokenize = "unicode61 remove_diacritics 2"
        );

        CREATE TABLE marks (                -- where a chain ends, and ids of answers, both hashed
            mark BLOB NOT NULL,
            started_ns INTEGER NOT NULL,
            sequence INTEGER NOT NULL,
            PRIMARY KEY (mark, started_ns, sequence)
        ) WITHOUT ROWID;

        CREATE TABLE rollups (
            grain TEXT NOT NULL,            -- 'hour', 'day' or 'block'
            facet INTEGER NOT NULL,         -- 0: all
            start INTEGER NOT NULL,         -- Unix seconds
            exchanges INTEGER NOT NULL,
            errors INTEGER NOT NULL,
            input_tokens INTEGER NOT NULL,
            cached_tokens INTEGER NOT NULL,
            output_tokens INTEGER NOT NULL,
            thoughts_tokens INTEGER NOT NULL,
            total_tokens INTEGER NOT NULL,
            priced INTEGER NOT NULL,
            total_nanousd INTEGER NOT NULL,
            request_bytes INTEGER NOT NULL,
            response_bytes INTEGER NOT NULL,
            durations TEXT NOT NULL,        -- histograms
            ttfts TEXT NOT NULL,
            PRIMARY KEY (grain, facet, start)
        ) WITHOUT ROWID;

        CREATE TABLE positions (
            journal TEXT PRIMARY KEY,
            segment INTEGER NOT NULL,
            offset INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE gaps (
            first_ns INTEGER NOT NULL,
            last_ns INTEGER NOT NULL,
            exchanges INTEGER NOT NULL,
            reason TEXT NOT NULL,
            PRIMARY KEY (first_ns, last_ns, exchanges, reason)
        ) WITHOUT ROWID;
        """
    )


def m002_cache(connection: apsw.Connection) -> None:
    """Entries of the cache, and what it did for each exchange. Touches no row: a large file is as quick as a small one.

    The sums over all entries are kept by triggers, so that no way of changing entries can forget them.
    """
    connection.execute(
        """
        CREATE TABLE entries (
            key BLOB PRIMARY KEY,
            sequence INTEGER NOT NULL,      -- of the exchange
            facet INTEGER NOT NULL,         -- the exchange's
            kind TEXT NOT NULL,
            stored_ns INTEGER NOT NULL,
            size INTEGER NOT NULL,
            pinned INTEGER NOT NULL,
            hits INTEGER NOT NULL,
            last_hit_ns INTEGER,
            saved_nanousd INTEGER NOT NULL,
            saved_us INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE INDEX entries_by_exchange ON entries (sequence);
        CREATE INDEX entries_by_time ON entries (stored_ns, key, facet, kind, size);
        CREATE INDEX entries_pinned ON entries (stored_ns, key) WHERE pinned;

        CREATE TABLE entry_sums (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            entries INTEGER NOT NULL,
            errors INTEGER NOT NULL,
            pinned INTEGER NOT NULL,
            answer_bytes INTEGER NOT NULL,
            hits INTEGER NOT NULL,
            saved_nanousd INTEGER NOT NULL,
            saved_us INTEGER NOT NULL
        );
        INSERT INTO entry_sums VALUES (1, 0, 0, 0, 0, 0, 0, 0);
        CREATE TRIGGER entry_made AFTER INSERT ON entries BEGIN
            UPDATE entry_sums SET entries = entries + 1, errors = errors + (NEW.kind = 'error'),
                pinned = pinned + NEW.pinned, answer_bytes = answer_bytes + NEW.size, hits = hits + NEW.hits,
                saved_nanousd = saved_nanousd + NEW.saved_nanousd, saved_us = saved_us + NEW.saved_us;
        END;
        CREATE TRIGGER entry_deleted AFTER DELETE ON entries BEGIN
            UPDATE entry_sums SET entries = entries - 1, errors = errors - (OLD.kind = 'error'),
                pinned = pinned - OLD.pinned, answer_bytes = answer_bytes - OLD.size, hits = hits - OLD.hits,
                saved_nanousd = saved_nanousd - OLD.saved_nanousd, saved_us = saved_us - OLD.saved_us;
        END;
        CREATE TRIGGER entry_changed AFTER UPDATE ON entries BEGIN
            UPDATE entry_sums SET errors = errors + (NEW.kind = 'error') - (OLD.kind = 'error'),
                pinned = pinned + NEW.pinned - OLD.pinned, answer_bytes = answer_bytes + NEW.size - OLD.size,
                hits = hits + NEW.hits - OLD.hits,
                saved_nanousd = saved_nanousd + NEW.saved_nanousd - OLD.saved_nanousd,
                saved_us = saved_us + NEW.saved_us - OLD.saved_us;
        END;

        ALTER TABLE facets ADD COLUMN verdict TEXT;
        ALTER TABLE exchanges ADD COLUMN saved_nanousd INTEGER;
        ALTER TABLE exchanges ADD COLUMN saved_us INTEGER;
        ALTER TABLE rollups ADD COLUMN cache_hits INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE rollups ADD COLUMN saved_nanousd INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE rollups ADD COLUMN saved_us INTEGER NOT NULL DEFAULT 0;
        """
    )


MIGRATIONS: tuple[Callable[[apsw.Connection], None], ...] = (m001_exchanges, m002_cache)
VERSION = len(MIGRATIONS)


def version_of(connection: apsw.Connection, path: str) -> int:
    """Schema version in the file, 0 for an empty one.

    Raises StoreUnavailable for a database of another program, FormatTooNew for a newer one of ours.
    """
    mark: int = connection.pragma("application_id")
    version: int = connection.pragma("user_version")
    if mark != APPLICATION_ID and next(iter(connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1")), None):
        raise StoreUnavailable(f"{path} is a database of another program: name another file with --store.")
    if version > VERSION:
        raise FormatTooNew(
            f"{path} has format {version}; this program reads up to {VERSION}: use the newer version that wrote it."
        )
    return version


def migrate(connection: apsw.Connection, path: str) -> None:
    """Bring the file to this version, in one transaction; several processes may try at once."""
    if version_of(connection, path) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in MIGRATIONS[version_of(connection, path) :]:
            step(connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
