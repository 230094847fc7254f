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

-- What was sent before may have been removed by an operator: no audit wonders at it.
alter table outbox_checkpoint add column purged_before text;
