-- Where each partition stands. The row moves in the transaction of the rows it accounts for.
CREATE TABLE IF NOT EXISTS {offsets} (
    group_id       text        NOT NULL,
    topic          text        NOT NULL,
    partition      integer     NOT NULL,
    next_offset    bigint      NOT NULL CHECK (next_offset >= 0),
    owner          text        NOT NULL DEFAULT '',
    updated_at     timestamptz NOT NULL DEFAULT now(),
    topic_id       text,   -- which topic of that name (KIP-516); null when the brokers do not say
    log_end_offset bigint, -- how far the log reached when the row last moved
    PRIMARY KEY (group_id, topic, partition)
);

-- Lag for whoever can read SQL; as old as the last transaction of each partition.
CREATE OR REPLACE VIEW {view} AS
SELECT group_id, topic, partition, next_offset, log_end_offset,
       greatest(coalesce(log_end_offset, next_offset) - next_offset, 0) AS lag, owner, updated_at
FROM {offsets};
