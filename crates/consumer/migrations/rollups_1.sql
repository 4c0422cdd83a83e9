-- Events by hour, type and service, as they were stored. The partition says whose offset guards the row, not where the
-- events came from. The free space lets counters be updated in place.
CREATE TABLE IF NOT EXISTS {counts} (
    hour       timestamptz NOT NULL,
    event_type text        NOT NULL,
    service    text        NOT NULL,
    group_id   text        NOT NULL,
    topic      text        NOT NULL,
    partition  integer     NOT NULL,
    events     bigint      NOT NULL,
    PRIMARY KEY (hour, event_type, service, group_id, topic, partition)
) WITH (fillfactor = 70);
CREATE OR REPLACE VIEW {hourly} AS
    SELECT hour, event_type, service, group_id, topic, sum(events)::bigint AS events
    FROM {counts} GROUP BY hour, event_type, service, group_id, topic;

-- Which users were seen in which hour, and how many: filled only with ROLLUP_USERS=enabled.
CREATE TABLE IF NOT EXISTS {user_hours} (
    hour    timestamptz NOT NULL,
    user_id uuid        NOT NULL,
    PRIMARY KEY (hour, user_id)
);
CREATE TABLE IF NOT EXISTS {users} (
    hour      timestamptz NOT NULL,
    group_id  text        NOT NULL,
    topic     text        NOT NULL,
    partition integer     NOT NULL,
    users     bigint      NOT NULL,
    PRIMARY KEY (hour, group_id, topic, partition)
) WITH (fillfactor = 70);
CREATE OR REPLACE VIEW {users_hourly} AS
    SELECT hour, group_id, topic, sum(users)::bigint AS users FROM {users} GROUP BY hour, group_id, topic;
