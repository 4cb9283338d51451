-- The signing log's store. Times are milliseconds since 1970 (UTC); indexes are the log's zero-based leaf indexes.
-- entry, certificate, outcome, revocation, issuer, registry_change and tile are append-only: triggers abort every
-- UPDATE, DELETE and REPLACE.

-- How many entries are durable. Every append is a compare-and-swap on it.
CREATE TABLE tree (
    id   INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    size INTEGER NOT NULL CHECK (size >= 0)
) STRICT;

-- The log itself: canonical leaf, and canonical detail where the leaf names one.
CREATE TABLE entry (
    idx    INTEGER NOT NULL PRIMARY KEY,
    leaf   BLOB NOT NULL,
    detail BLOB
) STRICT;

-- Every certificate that an intent permitted, by its intent; what claims, keys and device ids are looked up in.
-- device_key is `<issuer>/<case-folded device id>` for a unit of an order, else NULL.
CREATE TABLE certificate (
    intent     INTEGER NOT NULL PRIMARY KEY REFERENCES entry (idx),
    serial     BLOB NOT NULL,
    issuer     TEXT NOT NULL,
    why        TEXT NOT NULL,
    profile    TEXT NOT NULL,
    order_name TEXT,
    line       TEXT,
    device_id  TEXT,
    device_key TEXT,
    spki       BLOB NOT NULL,
    requested  BLOB NOT NULL,
    not_before INTEGER NOT NULL,
    not_after  INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX certificate_serial ON certificate (serial);
-- All that a claim names: with less, the planner takes the order's index and reads every certificate of the order.
CREATE INDEX certificate_spki ON certificate (spki, order_name, requested);
CREATE INDEX certificate_device ON certificate (device_key) WHERE device_key IS NOT NULL;
CREATE INDEX certificate_order ON certificate (order_name, intent) WHERE order_name IS NOT NULL;

-- How each intent ended: 0 issued, 1 abandoned, 2 unresolved.
CREATE TABLE outcome (
    intent  INTEGER NOT NULL PRIMARY KEY REFERENCES entry (idx),
    entry   INTEGER NOT NULL REFERENCES entry (idx),
    outcome INTEGER NOT NULL CHECK (outcome IN (0, 1, 2))
) STRICT;

-- Intents without an outcome: what a start has to close. Derived, so that a start does not read history.
CREATE TABLE open_intent (
    intent INTEGER NOT NULL PRIMARY KEY REFERENCES entry (idx)
) STRICT;

-- Serials that count as revoked, or did; reason is NULL for an unresolved intent.
-- A hold can be released or made final, so a serial may have several rows: the newest, by entry, is how it stands.
-- `previous` is the row that one takes the place of, so each serial's rows are a chain without branches. Reason 8
-- (RFC 5280, removeFromCRL) is a release: the certificate counts again.
-- not_after and partition are what a CRL asks of a row: when the certificate expires, and the partition of its issuer's
-- CRLs that lists it: the serial's last four octets, big-endian, modulo the number of partitions, plus 1; 0 where the
-- issuer has none. Both are derived, so that a CRL reads one table in the log's order.
CREATE TABLE revocation (
    entry      INTEGER NOT NULL PRIMARY KEY REFERENCES entry (idx),
    serial     BLOB NOT NULL,
    issuer     TEXT NOT NULL,
    reason     INTEGER,
    revoked_at INTEGER NOT NULL,
    previous   INTEGER REFERENCES revocation (entry),
    not_after  INTEGER NOT NULL,
    partition  INTEGER NOT NULL
) STRICT;
CREATE INDEX revocation_serial ON revocation (serial, entry);
CREATE INDEX revocation_issuer ON revocation (issuer, entry);
CREATE INDEX revocation_partition ON revocation (issuer, partition, entry) WHERE partition > 0;
-- Small, since few serials were ever on hold: a CRL asks it once for each row.
CREATE UNIQUE INDEX revocation_previous ON revocation (previous) WHERE previous IS NOT NULL;

-- Issuers in the order of the ceremony.
CREATE TABLE issuer (
    entry       INTEGER NOT NULL PRIMARY KEY REFERENCES entry (idx),
    name        TEXT NOT NULL UNIQUE,
    certificate BLOB NOT NULL,
    algorithm   TEXT NOT NULL,
    role        TEXT NOT NULL,
    parent      TEXT NOT NULL,
    partitions  INTEGER NOT NULL
) STRICT;

-- Changes of lines and orders as JSON; replayed at every start.
CREATE TABLE registry_change (
    entry  INTEGER NOT NULL PRIMARY KEY REFERENCES entry (idx),
    change TEXT NOT NULL
) STRICT;

-- Units of each order that are taken, its unresolved intents so far, and of the taken units those that such intents
-- hold until an operator gives them back.
CREATE TABLE order_units (
    order_name TEXT NOT NULL PRIMARY KEY,
    used       INTEGER NOT NULL CHECK (used >= 0),
    unresolved INTEGER NOT NULL CHECK (unresolved >= 0),
    held       INTEGER NOT NULL CHECK (held BETWEEN 0 AND used)
) STRICT;

-- The newest CRL number of each issuer.
CREATE TABLE crl_number (
    issuer TEXT NOT NULL PRIMARY KEY,
    number INTEGER NOT NULL
) STRICT;

-- Full hash tiles (256 hashes of 32 octets) of the Merkle tree, level 0 over the leaves.
CREATE TABLE tile (
    level  INTEGER NOT NULL,
    idx    INTEGER NOT NULL,
    hashes BLOB NOT NULL CHECK (length(hashes) = 8192),
    PRIMARY KEY (level, idx)
) STRICT;

CREATE TRIGGER entry_update BEFORE UPDATE ON entry
BEGIN SELECT RAISE(ABORT, 'entry is append-only'); END;
CREATE TRIGGER entry_delete BEFORE DELETE ON entry
BEGIN SELECT RAISE(ABORT, 'entry is append-only'); END;
-- Also stops REPLACE, whose implied DELETE fires no trigger, and a gap.
CREATE TRIGGER entry_insert BEFORE INSERT ON entry
WHEN NEW.idx <> (SELECT coalesce(max(idx) + 1, 0) FROM entry)
BEGIN SELECT RAISE(ABORT, 'entry is append-only and has no gaps'); END;

CREATE TRIGGER certificate_update BEFORE UPDATE ON certificate
BEGIN SELECT RAISE(ABORT, 'certificate is append-only'); END;
CREATE TRIGGER certificate_delete BEFORE DELETE ON certificate
BEGIN SELECT RAISE(ABORT, 'certificate is append-only'); END;
CREATE TRIGGER certificate_insert BEFORE INSERT ON certificate
WHEN EXISTS (SELECT 1 FROM certificate WHERE intent = NEW.intent)
  OR EXISTS (SELECT 1 FROM certificate WHERE serial = NEW.serial)
BEGIN SELECT RAISE(ABORT, 'certificate is append-only'); END;

CREATE TRIGGER outcome_update BEFORE UPDATE ON outcome
BEGIN SELECT RAISE(ABORT, 'outcome is append-only'); END;
CREATE TRIGGER outcome_delete BEFORE DELETE ON outcome
BEGIN SELECT RAISE(ABORT, 'outcome is append-only'); END;
CREATE TRIGGER outcome_insert BEFORE INSERT ON outcome
WHEN EXISTS (SELECT 1 FROM outcome WHERE intent = NEW.intent)
BEGIN SELECT RAISE(ABORT, 'an intent has one outcome'); END;

CREATE TRIGGER revocation_update BEFORE UPDATE ON revocation
BEGIN SELECT RAISE(ABORT, 'revocation is append-only'); END;
CREATE TRIGGER revocation_delete BEFORE DELETE ON revocation
BEGIN SELECT RAISE(ABORT, 'revocation is append-only'); END;
-- Also stops REPLACE, a second beginning, a branch and a link to another serial.
CREATE TRIGGER revocation_insert BEFORE INSERT ON revocation
WHEN NEW.entry <= (SELECT coalesce(max(entry), -1) FROM revocation)
  OR NEW.previous IS NOT (SELECT max(entry) FROM revocation WHERE serial = NEW.serial)
BEGIN SELECT RAISE(ABORT, 'revocation is append-only and each row follows the newest of its serial'); END;

CREATE TRIGGER issuer_update BEFORE UPDATE ON issuer
BEGIN SELECT RAISE(ABORT, 'issuer is append-only'); END;
CREATE TRIGGER issuer_delete BEFORE DELETE ON issuer
BEGIN SELECT RAISE(ABORT, 'issuer is append-only'); END;
CREATE TRIGGER issuer_insert BEFORE INSERT ON issuer
WHEN EXISTS (SELECT 1 FROM issuer WHERE entry = NEW.entry OR name = NEW.name)
BEGIN SELECT RAISE(ABORT, 'issuer is append-only'); END;

CREATE TRIGGER registry_change_update BEFORE UPDATE ON registry_change
BEGIN SELECT RAISE(ABORT, 'registry_change is append-only'); END;
CREATE TRIGGER registry_change_delete BEFORE DELETE ON registry_change
BEGIN SELECT RAISE(ABORT, 'registry_change is append-only'); END;
CREATE TRIGGER registry_change_insert BEFORE INSERT ON registry_change
WHEN EXISTS (SELECT 1 FROM registry_change WHERE entry = NEW.entry)
BEGIN SELECT RAISE(ABORT, 'registry_change is append-only'); END;

CREATE TRIGGER tile_update BEFORE UPDATE ON tile
BEGIN SELECT RAISE(ABORT, 'tile is append-only'); END;
CREATE TRIGGER tile_delete BEFORE DELETE ON tile
BEGIN SELECT RAISE(ABORT, 'tile is append-only'); END;
CREATE TRIGGER tile_insert BEFORE INSERT ON tile
WHEN EXISTS (SELECT 1 FROM tile WHERE level = NEW.level AND idx = NEW.idx)
BEGIN SELECT RAISE(ABORT, 'tile is append-only'); END;
