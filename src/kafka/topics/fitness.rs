//! Whether a topic can ever take a record as it is, by what is known of it, and why not.

use crate::contract::{Refusal, Rejection};
use crate::kafka::config::Settings;
use crate::kafka::errors::MESSAGE_TOO_LARGE;
use crate::kafka::producer::encode;
use crate::kafka::topics::table::{Known, TopicState, Topics};
use crate::outbox::Record;

/// Bytes that a record's framing and the relay's headers take at most, without the source and the lengths of the
/// application's headers.
const RECORD_FRAMING: usize = 200;

/// Bytes that the lengths of one header take at most.
const HEADER_FRAMING: usize = 10;

/// Records that can never be published as they are, by what is known of their topics.
pub(crate) fn refusals(records: &[Record], topics: &mut Topics, settings: &Settings) -> Vec<Refusal> {
    let refused = records.iter().enumerate().filter_map(|(index, record)| {
        let rejection = refusal(record, topics, settings)?;
        Some(Refusal { index, rejection })
    });
    refused.collect()
}

fn refusal(record: &Record, topics: &mut Topics, settings: &Settings) -> Option<Rejection> {
    let number = topics.find(&record.topic)?;
    match &topics.get(number).state {
        TopicState::Known(known) => size_that_fits(record, known, settings).err(),
        TopicState::Impossible => Some(impossible_topic(record)),
        TopicState::Barred(bar) => Some(bar.rejection(&record.topic)),
        TopicState::Held(_) | TopicState::Unasked => None,
    }
}

/// The record's size, as far as it matters to the producer; or why the topic can never take it.
pub(crate) fn size_that_fits(record: &Record, known: &Known, settings: &Settings) -> Result<usize, Rejection> {
    match record.partition {
        Some(partition) if !(0..known.count()).contains(&partition) => {
            Err(impossible_partition(record, partition, known.count()))
        }
        _ if record.key.is_none() && known.limits.compacted == Some(true) => Err(missing_key(record)),
        _ => size_of(record, known, settings),
    }
}

/// The record's size, as far as it matters to the producer; or why it is too large.
fn size_of(record: &Record, known: &Known, settings: &Settings) -> Result<usize, Rejection> {
    let most = record.size() + record.headers.len() * HEADER_FRAMING + settings.source.len() + RECORD_FRAMING;
    let client_limit = settings.largest_message();
    if most <= client_limit && known.limits.message_bytes.is_none_or(|limit| most <= limit) {
        return Ok(most);
    }
    let size = encode::batch_size(record, settings.stamp());
    if size > client_limit {
        return Err(too_large(record, size, client_limit, "message.max.bytes of [kafka]"));
    }
    match known.limits.message_bytes {
        // Compressed it may fit: the broker is the judge, and such a record travels in a batch of its own.
        Some(limit) if size > limit && !settings.compresses() => {
            Err(too_large(record, size, limit, "the topic's max.message.bytes"))
        }
        _ => Ok(most),
    }
}

fn too_large(record: &Record, size: usize, limit: usize, whose: &str) -> Rejection {
    let topic = &record.topic;
    let message = format!(
        "it takes {size} bytes on the wire to topic {topic}, more than the {limit} of {whose}: raise that limit, or store the payload elsewhere and send a reference"
    );
    Rejection { code: MESSAGE_TOO_LARGE, message }
}

/// Why a record is refused whose topic no topic can be called.
pub(crate) fn impossible_topic(record: &Record) -> Rejection {
    let message = format!(
        "{:?} cannot name a topic: correct the row; names have 1 to 249 of the letters a-z, A-Z, 0-9, '.', '_' and '-'",
        record.topic
    );
    Rejection { code: "invalid_topic", message }
}

fn impossible_partition(record: &Record, partition: i32, partitions: i32) -> Rejection {
    let topic = &record.topic;
    let message = format!(
        "its row names partition {partition} of topic {topic}, which has {partitions}, numbered from 0: add partitions, or correct the row"
    );
    Rejection { code: "unknown_partition", message }
}

fn missing_key(record: &Record) -> Rejection {
    let topic = &record.topic;
    let message =
        format!("it has no key, and topic {topic} is compacted: give it one, or change the topic's cleanup.policy");
    Rejection { code: "missing_key", message }
}
