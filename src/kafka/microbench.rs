//! The pure parts of the hot path, for `cargo bench --bench micro`; nothing that the library promises.

use crate::kafka::config::Stamp;
use crate::kafka::producer::encode;
use crate::kafka::producer::sending::Sending;
use crate::kafka::topics::partition;
use crate::outbox::Record;

const STAMP: Stamp<'_> = Stamp { source: "bench", replays: false };

/// Puts a record into the client's terms: its partition, and the headers that the relay adds. Returns how many headers
/// it has then.
pub fn encode(record: &Record, partitions: i32) -> usize {
    use rdkafka::message::Headers as _;
    let partition = partition::of(record, partitions, &mut partition::Spread::default());
    let sending = Sending { index: 0, topic: 0, partition, is_untimely: false };
    encode::encode(record, sending, STAMP, 0).headers.map_or(0, |headers| headers.count())
}

/// Bytes of the record batch that holds this record alone.
pub fn batch_size(record: &Record) -> usize {
    encode::batch_size(record, STAMP)
}
