-- What tells one history of an outbox from another, and what is told of a held lane besides where it begins.

alter table outbox_lease
    -- By what name the broker shuts its holder out; null where it cannot.
    add column fence text,
    -- How long its holder may trust it after each renewal: bidders wait for no less.
    add column ttl_ms bigint,
    -- The history of what was published: one for each session that publishes exactly once, and how often what it read
    -- was proven durable. A restored backup, or a standby that was behind, knows of fewer proofs than the broker.
    add column history uuid,
    add column proof bigint not null default 0,
    -- The history before, to which the broker's memory may still belong.
    add column earlier_history uuid,
    add column earlier_proof bigint not null default 0;

alter table outbox_checkpoint
    -- Rows that this position calls read count as settled, marked or not: it was stored by a relay that marks none.
    add column settled_position text;

-- What was read so far is settled, whichever way it was recorded.
update outbox_checkpoint set settled_position = position;

alter table outbox_held
    -- Rows of the lane that this position calls read were published before it was held.
    add column after_position text,
    -- Set by the relay once all of the lane is settled, just before it forgets the lane.
    add column settled boolean not null default false,
    -- Whether the leader has granted the release since it was asked for last: then it is over when the lane is held anew.
    add column release_granted boolean not null default false;

-- What was created before, with names for which no other role can create a better fit in a schema of the search_path:
-- these run as the role that writes. The search_path of the migration is the outbox's schema, or none.
create or replace function outbox_enqueue(topic text, key text, payload bytea, headers jsonb default '{}')
returns bigint language sql volatile set search_path from current as $$
    insert into outbox (topic, key, payload, headers)
    values (topic, key, payload, coalesce(headers, '{}'))
    returning id
$$;

create or replace function outbox_enqueue(topic text, key text, payload text, headers jsonb default '{}')
returns bigint language sql volatile set search_path from current as $$
    insert into outbox (topic, key, payload, headers)
    values (topic, key, pg_catalog.convert_to(payload, 'UTF8'), coalesce(headers, '{}'))
    returning id
$$;

create or replace function outbox_enqueue(topic text, key text, payload jsonb, headers jsonb default '{}')
returns bigint language sql volatile set search_path from current as $$
    insert into outbox (topic, key, payload, headers)
    values (topic, key, pg_catalog.convert_to(payload::pg_catalog.text, 'UTF8'), coalesce(headers, '{}'))
    returning id
$$;

create or replace function outbox_wake() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_catalog.pg_notify(pg_catalog.concat('outboxd_', tg_relid), '');
    return null;
end
$$;

-- Gives a row that became due behind the reader the current transaction's id, by which the reader finds it.
create function outbox_stamp() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    execute format('update %I.%I set xid = pg_current_xact_id() where id = $1 and sent_at is null', tg_table_schema, tg_table_name)
    using new.id;
    return null;
end
$$;

-- With the rights of the outbox's owner it is for no other table's trigger.
revoke all on function outbox_stamp() from public;

-- A row that was copied back from elsewhere brings a transaction id of the past. Never true of an ordinary insert.
create trigger stamp_restored after insert on outbox for each row
when (new.xid <> pg_catalog.pg_current_xact_id()) execute function outbox_stamp();

-- A row that was corrected belongs to another lane by now.
create trigger stamp_corrected after update of topic, key, partition on outbox for each row
when (new.sent_at is null and (old.topic, old.key, old.partition) is distinct from (new.topic, new.key, new.partition))
execute function outbox_stamp();

-- The relay may update sent_at and nothing else: it has rows stamped that are due behind it by clearing a mark that they do
-- not bear.
create trigger stamp_late after update of sent_at on outbox for each row
when (old.sent_at is null and new.sent_at is null) execute function outbox_stamp();

-- An operator who removes a held lane by hand wants it to flow: its release is asked for instead.
create function outbox_keep_held() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    execute format(
        'update %I.%I set release_requested = true, release_granted = false
         where topic = $1 and key is not distinct from $2 and partition is not distinct from $3',
        tg_table_schema, tg_table_name)
    using old.topic, old.key, old.partition;
    return null;
end
$$;

revoke all on function outbox_keep_held() from public;

create trigger keep_held before delete on outbox_held for each row
when (not old.settled) execute function outbox_keep_held();

-- Rows that are truncated cannot be kept, and with them would go all that is known of what waits.
create function outbox_refuse_truncate() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'held lanes cannot be truncated: what waits would never be published'
    using hint = 'Release the lanes, or delete their rows, which asks for the same.';
end
$$;

create trigger refuse_truncate before truncate on outbox_held for each statement execute function outbox_refuse_truncate();
