-- What tells one history of an outbox from another, and what is told of a held lane besides where it begins.

-- By what name the broker shuts the lease's holder out; null where it cannot.
alter table outbox_lease add column fence text;

-- How long its holder may trust it after each renewal: bidders wait for no less.
alter table outbox_lease add column ttl_ms integer;

-- The history of what was published: one for each session that publishes exactly once, and how often what it read was
-- proven durable. A restored copy of the file knows of fewer proofs than the broker.
alter table outbox_lease add column history text;
alter table outbox_lease add column proof integer not null default 0;

-- The history before, to which the broker's memory may still belong.
alter table outbox_lease add column earlier_history text;
alter table outbox_lease add column earlier_proof integer not null default 0;

-- Rows up to this id count as settled, marked or not: a relay that marks none has read them.
alter table outbox_checkpoint add column settled_to integer not null default 0;

-- What was read so far is settled, whichever way it was recorded.
update outbox_checkpoint set settled_to = position;

-- Set by the relay once all of the lane is settled, just before it forgets the lane.
alter table outbox_held add column settled integer not null default 0;

-- Whether the leader has granted the release since it was asked for last: then it is over when the lane is held anew.
alter table outbox_held add column release_granted integer not null default 0;

-- A row that came back from elsewhere, or after ids began anew, has an id that the reader may have passed: it gets the
-- next one. Never true of an ordinary insert: sqlite_sequence is written when the statement ends.
create trigger outbox_restored after insert on outbox
when new.sent_at is null and (
    new.id <= (select seq from sqlite_sequence where name = replace('outbox', '"', ''))
    or new.id <= (select position from outbox_checkpoint)
)
begin
    insert into outbox (id, event_id, topic, key, payload, headers, partition, created_at, sent_at)
    values (
        1 + max(
            (select max(id) from outbox),
            (select position from outbox_checkpoint),
            coalesce((select seq from sqlite_sequence where name = replace('outbox', '"', '')), 0)
        ),
        new.event_id, new.topic, new.key, new.payload, new.headers, new.partition, new.created_at, new.sent_at
    );
    delete from outbox where id = new.id;
end;

-- A row that was corrected belongs to another lane by now, of which the reader may be further. Settling a row touches
-- none of these columns.
create trigger outbox_corrected after update of topic, key, partition on outbox
when new.sent_at is null and (
    old.topic is not new.topic or old.key is not new.key or old.partition is not new.partition
)
begin
    insert into outbox (id, event_id, topic, key, payload, headers, partition, created_at, sent_at)
    values (
        1 + max(
            (select max(id) from outbox),
            (select position from outbox_checkpoint),
            coalesce((select seq from sqlite_sequence where name = replace('outbox', '"', '')), 0)
        ),
        new.event_id, new.topic, new.key, new.payload, new.headers, new.partition, new.created_at, new.sent_at
    );
    delete from outbox where id = new.id;
end;

-- An operator who removes a held lane by hand wants it to flow: its release is asked for instead.
create trigger outbox_keep_held before delete on outbox_held when old.settled = 0
begin
    update outbox_held set release_requested = 1, release_granted = 0 where rowid = old.rowid;
    select raise(ignore);
end;
