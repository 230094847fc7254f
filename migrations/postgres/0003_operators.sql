-- What operators do to an outbox.

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
