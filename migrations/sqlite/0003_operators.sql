-- What operators do to an outbox.

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
