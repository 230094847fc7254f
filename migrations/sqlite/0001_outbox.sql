-- The outbox and what stands beside it, for any SQLite that has the JSON functions (built in since 3.38).
-- Every name that begins with "outbox" follows the configured table name.

create table outbox (
    -- With autoincrement an id is never given twice; a plain rowid of a deleted row would be.
    id         integer primary key autoincrement,
    event_id   text collate nocase not null default (
        lower(
            hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-'
            || substr('89ab', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))
        )
    ),
    topic      text not null,
    key        text,
    payload    blob,
    headers    text not null default '{}',
    partition  integer,
    created_at text not null default (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    sent_at    text,
    constraint event_id_is_a_hyphenated_uuid check (
        typeof(event_id) = 'text'
        and event_id glob '????????-????-????-????-????????????'
        and replace(event_id, '-', '') not glob '*[^0-9A-Fa-f]*'
        and length(replace(event_id, '-', '')) = 32
    ),
    constraint topic_is_a_kafka_topic check (
        typeof(topic) = 'text'
        and length(topic) between 1 and 249
        and topic not glob '*[^A-Za-z0-9._-]*'
        and topic not in ('.', '..')
    ),
    constraint key_is_text check (key is null or typeof(key) = 'text'),
    constraint payload_is_text_or_blob check (payload is null or typeof(payload) in ('text', 'blob')),
    constraint headers_are_an_object check (
        case when json_valid(headers) then json_type(headers) = 'object' else 0 end
    ),
    constraint partition_is_not_negative check (partition is null or (typeof(partition) = 'integer' and partition >= 0)),
    constraint created_at_is_a_time check (julianday(created_at) is not null)
);

-- What waits, for the gauges and for what is left of a held lane.
create index outbox_unsent on outbox (id) where sent_at is null;

create table outbox_checkpoint (
    only_row integer primary key check (only_row = 1),
    -- Every row up to here is settled, or belongs to a held lane.
    position integer not null,
    term     integer not null,
    saved_at text
);

insert into outbox_checkpoint (only_row, position, term) values (1, 0, 0);

create table outbox_held (
    topic     text not null,
    key       text,
    partition integer,
    from_id   integer not null,
    cause     text not null,
    since     text not null,
    -- Set by `outboxd held release`; the leader grants it.
    release_requested integer not null default 0
);

-- One row a lane: a topic, a key of it, or a partition of it.
create unique index outbox_held_lane on outbox_held (topic, (key is null), coalesce(key, ''), coalesce(partition, -1));

create table outbox_lease (
    only_row   integer primary key check (only_row = 1),
    term       integer not null default 0,
    holder     text,
    -- Null once the lease was resigned.
    expires_at text
);

insert into outbox_lease (only_row) values (1);

create table outbox_dead (
    id         integer not null,
    event_id   text not null,
    topic      text not null,
    key        text,
    payload    blob,
    headers    text not null,
    partition  integer,
    created_at text not null,
    code       text not null,
    message    text not null,
    died_at    text not null default (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    -- Where it is published, if anywhere, and when it was.
    dead_letter_topic text,
    published_at      text,
    primary key (id, event_id)
);

create index outbox_dead_due on outbox_dead (id) where dead_letter_topic is not null and published_at is null;
