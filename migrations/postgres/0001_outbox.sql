-- The outbox and what stands beside it. PostgreSQL 13 or newer.
-- Every name that begins with "outbox" follows the configured table name, schema included.

create table outbox (
    id         bigint generated always as identity primary key,
    event_id   uuid not null default gen_random_uuid(),
    topic      text not null,
    key        text,
    payload    bytea,
    headers    jsonb not null default '{}',
    partition  int,
    created_at timestamptz not null default clock_timestamp(),
    -- The writing transaction. Not the system column xmin: under a savepoint that holds the subtransaction's id.
    xid        xid8 not null default pg_current_xact_id(),
    sent_at    timestamptz,
    -- Updates check these again, so they must be quick: a counted repetition takes 30 microseconds a row.
    constraint topic_is_a_kafka_topic check (
        topic !~ '[^A-Za-z0-9._-]' and length(topic) between 1 and 249 and topic not in ('.', '..')
    ),
    constraint headers_are_an_object check (jsonb_typeof(headers) = 'object'),
    constraint partition_is_not_negative check (partition >= 0)
) with (
    -- Over half of each page stays free, so that setting sent_at is a HOT update that touches no index: with 48,
    -- all of them; with 50, 94 % where rows are small, because the second version is 8 bytes longer.
    fillfactor = 48,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0,
    vacuum_truncate = off,
    toast.autovacuum_vacuum_scale_factor = 0,
    toast.autovacuum_vacuum_threshold = 5000,
    toast.autovacuum_vacuum_cost_delay = 0,
    toast.vacuum_truncate = off
);

-- The relay finds new rows through this index. There must be none that contains sent_at.
create index on outbox (xid);

create table outbox_checkpoint (
    only_row   boolean primary key default true check (only_row),
    position   text not null,
    highest_id bigint not null,
    system     text not null,
    term       bigint not null,
    saved_at   timestamptz not null,
    -- Purging begins above this id.
    purged_to  bigint not null default 0
) with (fillfactor = 50);

create table outbox_held (
    topic     text not null,
    key       text,
    partition int,
    from_id   bigint not null,
    cause     text not null,
    since     timestamptz not null,
    -- Set by `outboxd held release`; the leader grants it.
    release_requested boolean not null default false
);

-- One row a lane: a topic, a key of it, or a partition of it.
create unique index on outbox_held (topic, (key is null), coalesce(key, ''), coalesce(partition, -1));

create table outbox_lease (
    only_row    boolean primary key default true check (only_row),
    term        bigint not null default 0,
    holder      text,
    backend_pid int,
    acquired_at timestamptz,
    expires_at  timestamptz not null default '-infinity',
    released    boolean not null default true
) with (fillfactor = 50);

insert into outbox_lease default values;

create table outbox_dead (
    id         bigint not null,
    event_id   uuid not null,
    topic      text not null,
    key        text,
    payload    bytea,
    headers    jsonb not null,
    partition  int,
    created_at timestamptz not null,
    code       text not null,
    message    text not null,
    died_at    timestamptz not null default clock_timestamp(),
    -- Where it is published, if anywhere, and when it was.
    dead_letter_topic text,
    published_at      timestamptz,
    primary key (id, event_id)
);

create index on outbox_dead (id) where dead_letter_topic is not null and published_at is null;

-- Writes a message in the caller's transaction, from any language. Returns the row's id.
create function outbox_enqueue(topic text, key text, payload bytea, headers jsonb default '{}')
returns bigint language sql volatile set search_path from current as $$
    insert into outbox (topic, key, payload, headers)
    values (topic, key, payload, coalesce(headers, '{}'))
    returning id
$$;

create function outbox_enqueue(topic text, key text, payload text, headers jsonb default '{}')
returns bigint language sql volatile set search_path from current as $$
    insert into outbox (topic, key, payload, headers)
    values (topic, key, convert_to(payload, 'UTF8'), coalesce(headers, '{}'))
    returning id
$$;

create function outbox_enqueue(topic text, key text, payload jsonb, headers jsonb default '{}')
returns bigint language sql volatile set search_path from current as $$
    insert into outbox (topic, key, payload, headers)
    values (topic, key, convert_to(payload::text, 'UTF8'), coalesce(headers, '{}'))
    returning id
$$;

-- Wakes a sleeping relay. NOTIFY takes a lock of the whole cluster through commit, so writers pay for it only
-- while the relay sleeps: it then holds the advisory lock that this tries to share. A writer that gets the
-- lock keeps it to its end, so that the relay cannot fall asleep between the insert and the commit.
create function outbox_wake() returns trigger language plpgsql as $$
begin
    perform pg_catalog.pg_notify('outboxd_' || tg_relid, '');
    return null;
end
$$;

-- The condition is the trigger's, because a function that is called for nothing costs writers a tenth.
create trigger wake after insert on outbox for each statement
when (not pg_catalog.pg_try_advisory_xact_lock_shared(1869968503, ('outbox'::regclass::oid::bigint - 2147483648)::int))
execute function outbox_wake();
