-- Every reading exactly once, and what is known to be missing. Run it as often as you like.

CREATE TABLE IF NOT EXISTS batch (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hub      text NOT NULL,
    device   text NOT NULL,
    stream   text NOT NULL,
    seq      bigint,                       -- NULL: the device numbers nothing
    digest   bytea,                        -- names a batch without a number
    late     boolean NOT NULL,             -- it had to wait in the hub's spool
    received timestamptz NOT NULL,         -- by the hub's clock
    clock    text,                         -- why the times are in doubt, NULL: they are not
    stored   timestamptz NOT NULL DEFAULT now(),
    CHECK ((seq IS NULL) <> (digest IS NULL))
);
CREATE UNIQUE INDEX IF NOT EXISTS batch_numbered
    ON batch (hub, device, stream, seq) WHERE seq IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS batch_unnumbered
    ON batch (hub, device, stream, digest) WHERE seq IS NULL;

CREATE TABLE IF NOT EXISTS reading (
    batch  bigint NOT NULL REFERENCES batch ON DELETE CASCADE,
    place  integer NOT NULL,               -- in the pack, from 0
    time   timestamptz NOT NULL,
    name   text NOT NULL,
    unit   text,
    number double precision,
    text   text,
    truth  boolean,
    bytes  text,                           -- base64url, as SenML has it
    sum    double precision,
    PRIMARY KEY (batch, place)
);
CREATE INDEX IF NOT EXISTS reading_series ON reading (name, time);

-- A loss that the hub knows of. The same record may come twice, and says the same then.
CREATE TABLE IF NOT EXISTS gap (
    hub      text NOT NULL,
    device   text NOT NULL,
    stream   text NOT NULL,
    first    bigint NOT NULL DEFAULT 0,    -- 0: batches without numbers
    last     bigint NOT NULL DEFAULT 0,
    batches  bigint NOT NULL,
    readings bigint NOT NULL,
    reason   text NOT NULL,
    time     timestamptz NOT NULL,
    PRIMARY KEY (hub, device, stream, first, last, reason, time)
);
