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

-- Set by the relay once all of the lane is settled, just before it forgets the lane.
alter table outbox_held add column settled integer not null default 0;
