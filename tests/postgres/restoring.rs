//! Outboxes that were restored from a dump: what was not sent comes out once, what was sent does not come again.

use outboxd::contract::Database;
use outboxd::outbox::{Limit, Record, Settle};

use super::server::{AMPLE, Outbox, checkpoint, drain, servers};

/// Makes the table look as if it came from a cluster that was far ahead.
const FROM_AHEAD: &str = "update outbox set xid = (xid::text::bigint + 1000000000)::text::xid8";

/// Moves every transaction id of the stored position as far ahead (ids of rows have two digits here), and says that
/// another cluster stored it.
const POSITION_FROM_AHEAD: &str = r"update outbox_checkpoint set system = 'elsewhere', position = (
    select string_agg(case when part ~ '^[0-9]{3,}$' and odd then (part::bigint + 1000000000)::text else part end, '' order by at)
    from (select part, at, true as odd from regexp_split_to_table((position::jsonb - 'proof')::text, '(?<=\D)(?=\d)|(?<=\d)(?=\D)') with ordinality p (part, at)) parts)";

fn ids(records: &[Record]) -> Vec<i64> {
    records.iter().map(|record| record.id).collect()
}

/// Ten rows, some read and settled, the checkpoint stored inside a window if `records` is small.
async fn before_the_dump(outbox: &Outbox, records: usize) -> Vec<i64> {
    let mut conn = outbox.connect().await;
    let term = outbox.lead().await;
    let rows = "insert into outbox (topic, key) select 't', n::text from generate_series(1, 10) n";
    outbox.run(&mut conn, rows).await;
    let mut reader = outbox.open().await;
    let batch = reader.fetch(Limit { records, ..AMPLE }).await.unwrap();
    outbox.settle(&batch.records).await;
    reader.save(&checkpoint(term, &batch, &[])).await.unwrap();
    ids(&batch.records)
}

#[tokio::test]
async fn rows_of_a_restored_dump_come_out_once_and_sent_ones_not_again() {
    for url in servers() {
        for (records, settle) in [(4, Settle::Mark), (4, Settle::Checkpoint), (1_000, Settle::Checkpoint)] {
            let outbox = Outbox::settling(&url, "restored", settle).await;
            let sent = before_the_dump(&outbox, records).await;
            let mut conn = outbox.connect().await;
            outbox.run(&mut conn, FROM_AHEAD).await;
            outbox.run(&mut conn, POSITION_FROM_AHEAD).await;
            outbox.write(&mut conn, "t", "new").await;

            let mut reader = outbox.open().await;
            let read = drain(&mut *reader, Limit { records: 3, ..AMPLE }).await;
            let expected: Vec<i64> = (1..=11).filter(|id| !sent.contains(id)).collect();
            assert_eq!(ids(&read), expected, "after {sent:?} in mode {settle}");
            outbox.write(&mut conn, "t", "later").await;
            assert_eq!(ids(&drain(&mut *reader, AMPLE).await), [12]);
            drop(reader);
            assert!(outbox.number("select count(*) from outbox_checkpoint where system <> 'elsewhere'").await == 1);
        }
    }
}

#[tokio::test]
async fn a_dump_without_a_checkpoint_is_read_as_far_as_it_was_not_sent() {
    for url in servers() {
        let outbox = Outbox::new(&url, "bare_dump").await;
        let sent = before_the_dump(&outbox, 4).await;
        let mut conn = outbox.connect().await;
        outbox.run(&mut conn, FROM_AHEAD).await;
        outbox.run(&mut conn, "delete from outbox_checkpoint").await;
        let mut reader = outbox.open().await;
        let expected: Vec<i64> = (1..=10).filter(|id| !sent.contains(id)).collect();
        assert_eq!(ids(&drain(&mut *reader, AMPLE).await), expected);
        assert!(drain(&mut *reader, AMPLE).await.is_empty());
    }
}

#[tokio::test]
async fn a_dump_of_a_younger_cluster_is_read_on_from_its_position() {
    for url in servers() {
        let outbox = Outbox::settling(&url, "younger", Settle::Checkpoint).await;
        let sent = before_the_dump(&outbox, 4).await;
        let mut conn = outbox.connect().await;
        outbox.run(&mut conn, "update outbox_checkpoint set system = 'elsewhere'").await;
        outbox.write(&mut conn, "t", "new").await;
        let read = drain(&mut *outbox.open().await, AMPLE).await;
        let expected: Vec<i64> = (1..=11).filter(|id| !sent.contains(id)).collect();
        assert_eq!(ids(&read), expected);
    }
}

/// What a table looks like that logical replication brought along: the checkpoint is there, sequences and ids begin anew.
const IDS_BEGIN_ANEW: &str = "update outbox_checkpoint set system = 'elsewhere', highest_id = 1000,
    position = jsonb_set(position::jsonb, '{highest}', '1000')::text";

#[tokio::test]
async fn rows_are_read_where_ids_begin_anew_below_those_that_were_read_elsewhere() {
    for url in servers() {
        for settle in Settle::ALL {
            let outbox = Outbox::settling(&url, "anew", settle).await;
            before_the_dump(&outbox, 1_000).await;
            let mut conn = outbox.connect().await;
            outbox.run(&mut conn, POSITION_FROM_AHEAD).await;
            outbox.run(&mut conn, IDS_BEGIN_ANEW).await;
            outbox.run(&mut conn, "delete from outbox; alter table outbox alter column id restart with 1").await;
            outbox
                .run(&mut conn, "insert into outbox (topic, key) select 't', n::text from generate_series(1, 50) n")
                .await;
            let read = drain(&mut *outbox.open().await, AMPLE).await;
            assert_eq!(ids(&read), (1..=50).collect::<Vec<_>>(), "in mode {settle}");
            let warnings = outbox.store.preflight().await.unwrap();
            assert!(warnings.iter().any(|warning| warning.contains("setval")), "{warnings:?}");
        }
    }
}

#[tokio::test]
async fn a_moved_outbox_is_taken_over_while_writers_write() {
    for url in servers() {
        for settle in Settle::ALL {
            let outbox = Outbox::settling(&url, "moved", settle).await;
            before_the_dump(&outbox, 1_000).await;
            let (mut conn, mut writer) = (outbox.connect().await, outbox.connect().await);
            outbox.run(&mut conn, FROM_AHEAD).await;
            outbox.run(&mut conn, POSITION_FROM_AHEAD).await;
            outbox.run(&mut writer, "begin; insert into outbox (topic, key) values ('t', 'open')").await;
            let mut reader = outbox.open().await;
            assert!(drain(&mut *reader, AMPLE).await.is_empty(), "all that came along was sent, in mode {settle}");
            outbox.run(&mut writer, "commit").await;
            assert_eq!(ids(&drain(&mut *reader, AMPLE).await), [11]);
        }
    }
}
