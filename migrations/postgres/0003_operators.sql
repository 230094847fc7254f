-- What operators do to an outbox, and what they are told.

-- Where the record is, once the row is sent, with the setting outbox.record_position.
alter table outbox add column sent_partition int, add column sent_offset bigint;

-- Every change by a command or over HTTP, written in the transaction that makes it.
create table outbox_audit (
    id       bigint generated always as identity primary key,
    at       timestamptz not null default clock_timestamp(),
    -- The command, such as "held release", and the filters that it was given.
    command  text not null,
    subject  text not null,
    -- How many rows, letters or lanes it changed.
    affected bigint not null,
    reason   text,
    -- Who: the user and the host that the command was typed at, and the role that the database knows.
    actor    text not null,
    role     text not null default current_user
);

alter table outbox_checkpoint
    -- What was sent before may have been removed by an operator: no audit wonders at it.
    add column purged_before timestamptz,
    -- What the leader had read, settled or not, for people who look.
    add column read_position text;

-- Puts dead letters back, and returns their ids: not those that the outbox would refuse, whose id another row has, or that are
-- locked. The relay's role may call it and still insert nothing else. The transaction is the current one's, so that the
-- reader finds them as it finds what commits late.
create function outbox_requeue(ids bigint[], event_ids uuid[]) returns setof bigint
language sql volatile security definer set search_path from current as $$
    with letter as materialized (
        select d.id, d.event_id from outbox_dead d
        join rows from (pg_catalog.unnest(ids), pg_catalog.unnest(event_ids)) as given (id, event_id)
            on d.id = given.id and d.event_id = given.event_id
        where pg_catalog.jsonb_typeof(d.headers) = 'object' and pg_catalog.isfinite(d.created_at)
            and d.event_id <> '00000000-0000-0000-0000-000000000000'
            and d.topic !~ '[^A-Za-z0-9._-]' and pg_catalog.length(d.topic) between 1 and 249 and d.topic not in ('.', '..')
            and (d.partition is null or d.partition >= 0)
            and not exists (select from outbox o where o.id = d.id)
        order by d.id for update of d skip locked
    ),
    gone as (
        delete from outbox_dead d using letter where d.id = letter.id and d.event_id = letter.event_id returning d.*
    )
    insert into outbox (id, event_id, topic, key, payload, headers, partition, created_at)
    overriding system value
    select id, event_id, topic, key, payload,
        -- The header's name in two parts, because what begins as the table's name does follows it.
        headers || pg_catalog.jsonb_build_object(pg_catalog.concat('out', 'box-requeued'), pg_catalog.jsonb_build_object(
            'id', coalesce(
                pg_catalog.jsonb_extract_path_text(headers, pg_catalog.concat('out', 'box-requeued'), 'id'),
                id::pg_catalog.text),
            'code', code, 'died_at', died_at, 'at', pg_catalog.now())),
        partition, created_at
    from gone order by id
    returning id
$$;

-- With the rights of the outbox's owner it is for those alone to whom it is granted.
revoke all on function outbox_requeue(bigint[], uuid[]) from public;

-- What is paused. The relay that leads publishes nothing of these topics.
create table outbox_pause (
    -- Names of topics, in which * stands for any characters or none; * alone for everything.
    pattern text primary key,
    since   timestamptz not null default clock_timestamp(),
    -- When it ends by itself, if it does.
    until   timestamptz,
    reason  text,
    actor   text not null
);

-- The term whose leader is asked to step down.
alter table outbox_lease add column step_down bigint;

-- What the relay that leads is to carry out: rows that are sent again.
create table outbox_operation (
    id       bigint generated always as identity primary key,
    topic    text not null,
    key      text,
    since    timestamptz,
    until    timestamptz,
    to_topic text,
    -- Rows a second at most.
    rate     int not null,
    -- Of the rows that there were when it was asked for, those above the one id and up to the other.
    from_id  bigint not null,
    last_id  bigint not null,
    -- How far it is.
    state    text not null default 'running',
    done_to  bigint not null,
    sent     bigint not null default 0,
    refused  bigint not null default 0,
    problem  text,
    asked_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    reason   text,
    actor    text not null
);

create index on outbox_operation (id) where state = 'running';

-- Relays that wait as standby, for people who look.
create table outbox_standby (
    holder  text primary key,
    seen_at timestamptz not null default clock_timestamp()
);
