-- What operators do to an outbox, and what they are told.

-- Where the record is, once the row is sent, with the setting outbox.record_position.
alter table outbox add column sent_partition integer;
alter table outbox add column sent_offset integer;

-- Every change by a command or over HTTP, written in the transaction that makes it.
create table outbox_audit (
    id       integer primary key autoincrement,
    at       text not null default (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    -- The command, such as "held release", and the filters that it was given.
    command  text not null,
    subject  text not null,
    -- How many rows, letters or lanes it changed.
    affected integer not null,
    reason   text,
    -- Who: the user and the host that the command was typed at.
    actor    text not null
);

-- What was sent before may have been removed by an operator: no audit wonders at it.
alter table outbox_checkpoint add column purged_before text;
-- What the leader had read, settled or not, for people who look.
alter table outbox_checkpoint add column read_position integer not null default 0;

-- What is paused. The relay that leads publishes nothing of these topics.
create table outbox_pause (
    -- Names of topics, in which * stands for any characters or none; * alone for everything.
    pattern text primary key,
    since   text not null default (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    -- When it ends by itself, if it does.
    until   text,
    reason  text,
    actor   text not null
);

-- The term whose leader is asked to step down.
alter table outbox_lease add column step_down integer;

-- What the relay that leads is to carry out: rows that are sent again.
create table outbox_operation (
    id       integer primary key autoincrement,
    topic    text not null,
    key      text,
    since    text,
    until    text,
    to_topic text,
    -- Rows a second at most.
    rate     integer not null,
    -- Of the rows that there were when it was asked for, those above the one id and up to the other.
    from_id  integer not null,
    last_id  integer not null,
    -- How far it is.
    state    text not null default 'running',
    done_to  integer not null,
    sent     integer not null default 0,
    refused  integer not null default 0,
    problem  text,
    asked_at text not null default (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    ended_at text,
    reason   text,
    actor    text not null
);

-- Relays that wait as standby, for people who look.
create table outbox_standby (
    holder  text primary key,
    seen_at text not null default (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
