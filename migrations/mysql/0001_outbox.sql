-- The outbox and what stands beside it. MySQL 8.0.13 or newer, MariaDB 10.6 or newer.
-- MySQL checks no row before 8.0.16: what the checks here would refuse the relay rejects.
-- Every name that begins with "outbox" follows the configured table name, schema included.
-- All times are UTC, whatever time zone a session has.

create table outbox (
    -- Ids are given out in another order than rows commit: readers ask for those that were missing.
    id         bigint not null auto_increment primary key,
    event_id   char(36) character set ascii collate ascii_general_ci not null default (uuid())
        check (length(event_id) = 36 and event_id not regexp '[^0-9A-Fa-f-]' and length(replace(event_id, '-', '')) = 32),
    topic      varchar(255) not null
        check (topic not regexp '[^A-Za-z0-9._-]' and length(topic) between 1 and 249 and topic not in ('.', '..')),
    `key`      longtext,
    payload    longblob,
    headers    json not null default (json_object()) check (json_type(headers) = 'OBJECT'),
    `partition` int check (`partition` >= 0),
    created_at datetime(6) not null default (utc_timestamp(6)),
    -- Never null: InnoDB changes a row where it stands if its length stays. There must be no index that contains it.
    sent_at    datetime(6) not null default '1000-01-01 00:00:00'
) engine = innodb default character set utf8mb4 collate utf8mb4_bin;

create table outbox_checkpoint (
    only_row   tinyint not null default 1 primary key,
    -- Every row that it calls read is settled, or belongs to a held lane. All positions are JSON.
    position   longtext not null,
    term       bigint not null,
    saved_at   datetime(6) not null,
    -- Purging begins above this id.
    purged_to  bigint not null default 0
) engine = innodb default character set utf8mb4 collate utf8mb4_bin;

-- One row a lane: a topic, a key of it, or a partition of it.
create table outbox_lane (
    id         bigint not null auto_increment primary key,
    lane       char(64) character set ascii collate ascii_bin generated always as (
        sha2(case when `partition` is not null then concat(topic, ':', `partition`)
                  when `key` is not null then concat(topic, ' ', `key`) else topic end, 256)
    ) stored,
    topic      varchar(255) not null,
    `key`      longtext,
    `partition` int,
    from_id    bigint not null,
    cause      varchar(255) not null,
    since      datetime(6) not null,
    unique key lane (lane)
) engine = innodb default character set utf8mb4 collate utf8mb4_bin;

-- The same for operators. One who deletes a row here wants the lane to flow: its release is asked for.
create table outbox_held (
    id         bigint not null auto_increment primary key,
    lane       char(64) character set ascii collate ascii_bin generated always as (
        sha2(case when `partition` is not null then concat(topic, ':', `partition`)
                  when `key` is not null then concat(topic, ' ', `key`) else topic end, 256)
    ) stored,
    topic      varchar(255) not null,
    `key`      longtext,
    `partition` int,
    from_id    bigint not null,
    cause      varchar(255) not null,
    since      datetime(6) not null,
    -- Set by `outboxd held release`; the leader grants it.
    release_requested boolean not null default false,
    unique key lane (lane)
) engine = innodb default character set utf8mb4 collate utf8mb4_bin;

create table outbox_lease (
    only_row      tinyint not null default 1 primary key,
    term          bigint not null default 0,
    holder        varchar(255),
    -- The holder's session, as the server's process list calls it.
    connection_id bigint,
    acquired_at   datetime(6),
    expires_at    datetime(6) not null default '1000-01-01 00:00:00',
    released      boolean not null default true
) engine = innodb default character set utf8mb4 collate utf8mb4_bin;

insert into outbox_lease (only_row) values (1);

create table outbox_dead (
    id         bigint not null,
    event_id   char(36) character set ascii collate ascii_general_ci not null,
    topic      varchar(255) not null,
    `key`      longtext,
    payload    longblob,
    headers    longtext not null,
    `partition` int,
    created_at datetime(6) not null,
    code       varchar(255) not null,
    message    longtext not null,
    died_at    datetime(6) not null default (utc_timestamp(6)),
    -- Where it is published, if anywhere, and when it was.
    dead_letter_topic varchar(255),
    published_at      datetime(6),
    is_due     boolean generated always as (dead_letter_topic is not null and published_at is null) virtual,
    primary key (id, event_id),
    key due (is_due, id)
) engine = innodb default character set utf8mb4 collate utf8mb4_bin;

-- Writes a message in the caller's transaction, from any language; `select last_insert_id()` tells the row's id. A payload
-- may be text or binary. What the session's character set cannot say must come as binary.
create procedure outbox_enqueue(
    in message_topic varchar(255) character set utf8mb4,
    in message_key longtext character set utf8mb4,
    in message_payload longblob,
    in message_headers longtext character set utf8mb4
) modifies sql data sql security invoker
    insert into outbox (topic, `key`, payload, headers)
    values (message_topic, message_key, message_payload, coalesce(message_headers, '{}'));
