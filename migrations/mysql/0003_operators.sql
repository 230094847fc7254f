-- What operators do to an outbox, and what they are told.

-- Where the record is, once the row is sent, with the setting outbox.record_position: -1 until then. Never null, so that
-- noting it leaves the row's length as it is.
alter table outbox
    add column sent_partition int not null default -1,
    add column sent_offset bigint not null default -1;

-- Every change by a command or over HTTP, written in the transaction that makes it.
create table outbox_audit (
    id       bigint not null auto_increment primary key,
    at       datetime(6) not null default (utc_timestamp(6)),
    -- The command, such as "held release", and the filters that it was given.
    command  varchar(255) not null,
    subject  longtext not null,
    -- How many rows, letters or lanes it changed.
    affected bigint not null,
    reason   longtext,
    -- Who: the user and the host that the command was typed at, and the user that the database knows.
    actor    longtext not null,
    role     varchar(255) not null
) engine = innodb default character set utf8mb4 collate utf8mb4_bin;

alter table outbox_checkpoint
    -- What was sent before may have been removed by an operator: no audit wonders at it.
    add column purged_before datetime(6),
    -- What the leader had read, settled or not, for people who look.
    add column read_position longtext;

-- What is paused. The relay that leads publishes nothing of these topics.
create table outbox_pause (
    -- Names of topics, in which * stands for any characters or none; * alone for everything.
    pattern varchar(255) primary key,
    since   datetime(6) not null default (utc_timestamp(6)),
    -- When it ends by itself, if it does.
    until   datetime(6),
    reason  longtext,
    actor   longtext not null
) engine = innodb default character set utf8mb4 collate utf8mb4_bin;

-- The term whose leader is asked to step down.
alter table outbox_lease add column step_down bigint;

-- What the relay that leads is to carry out: rows that are sent again.
create table outbox_operation (
    id       bigint not null auto_increment primary key,
    topic    varchar(255) not null,
    `key`    longtext,
    since    datetime(6),
    until    datetime(6),
    to_topic varchar(255),
    -- Rows a second at most.
    rate     int not null,
    -- Of the rows that there were when it was asked for, those above the one id and up to the other.
    from_id  bigint not null,
    last_id  bigint not null,
    -- How far it is.
    state    varchar(255) not null default 'running',
    done_to  bigint not null,
    sent     bigint not null default 0,
    refused  bigint not null default 0,
    problem  longtext,
    asked_at datetime(6) not null default (utc_timestamp(6)),
    ended_at datetime(6),
    reason   longtext,
    actor    longtext not null,
    key running (state, id)
) engine = innodb default character set utf8mb4 collate utf8mb4_bin;

-- Relays that wait as standby, for people who look.
create table outbox_standby (
    holder  varchar(255) primary key,
    seen_at datetime(6) not null default (utc_timestamp(6))
) engine = innodb default character set utf8mb4 collate utf8mb4_bin;
