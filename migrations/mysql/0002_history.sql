-- What tells one history of an outbox from another, and what is told of a held lane besides where it begins.

alter table outbox_lease
    -- By what name the broker shuts its holder out; null where it cannot.
    add column fence varchar(255),
    -- How long its holder may trust it after each renewal: bidders wait for no less.
    add column ttl_ms bigint,
    -- The history of what was published: one for each session that publishes exactly once, and how often what it read
    -- was proven durable. A restored backup, or a replica that was behind, knows of fewer proofs than the broker.
    add column history char(36),
    add column proof bigint not null default 0,
    -- The history before, to which the broker's memory may still belong.
    add column earlier_history char(36),
    add column earlier_proof bigint not null default 0;

alter table outbox_checkpoint
    -- Rows that this position calls read count as settled, marked or not: it was stored by a relay that marks none.
    add column settled_position longtext;

-- What was read so far is settled, whichever way it was recorded.
update outbox_checkpoint set settled_position = position;

alter table outbox_lane
    -- Rows of the lane that this position calls read were published before it was held.
    add column after_position longtext,
    -- Whether the leader has granted the release since it was asked for last: then it is over when the lane is held anew.
    add column release_granted boolean not null default false;
