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
