//! What is written: rows like those of an application.

use chrono::Utc;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::bench::scratch_outbox::ScratchOutbox;
use crate::bench::settings::Settings;
use crate::outbox::Message;

/// Rows of a transaction that fills the table.
const CHUNK: u64 = 1_000;

/// Makes the rows.
#[derive(Clone)]
pub(crate) struct Load {
    topic: String,
    keys: u64,
    payload_bytes: usize,
    rows: u64,
}

/// What a payload says.
#[derive(Serialize, Deserialize)]
pub(crate) struct Event {
    /// Its number among those of its part of the measurement.
    pub(crate) number: u64,
    /// When it was about to be written, in microseconds since 1970.
    pub(crate) at: i64,
    fill: String,
}

impl Load {
    pub(crate) fn new(topic: &str, settings: &Settings) -> Self {
        let Settings { keys, payload_bytes, rows, .. } = *settings;
        Self { topic: topic.to_owned(), keys, payload_bytes, rows }
    }

    /// Writes the backlog to an outbox that is empty otherwise. Returns how many rows a second.
    pub(crate) async fn refill(&self, place: &ScratchOutbox) -> anyhow::Result<f64> {
        place.scratch().renew().await?;
        let mut writer = place.scratch().writer().await?;
        let mut seconds = 0.0;
        for first in (0..self.rows).step_by(CHUNK as usize) {
            let messages: Vec<Message> =
                (first..self.rows.min(first + CHUNK)).map(|number| self.message(number)).collect::<Result<_, _>>()?;
            let began = Instant::now();
            writer.write(&messages).await.map_err(anyhow::Error::from_boxed)?;
            seconds += began.elapsed().as_secs_f64();
        }
        place.scratch().settle_down().await?;
        Ok(self.rows as f64 / seconds)
    }

    /// A row that is about to be written.
    pub(crate) fn message(&self, number: u64) -> anyhow::Result<Message> {
        let mut event = Event { number, at: Utc::now().timestamp_micros(), fill: String::new() };
        let framing = serde_json::to_vec(&event)?.len();
        event.fill = noise(number, self.payload_bytes.saturating_sub(framing));
        let draft = Message::to(self.topic.as_str()).key(format!("key-{}", number % self.keys));
        Ok(draft.size_limit(self.payload_bytes + 1_000).json(&event)?)
    }
}

/// Digits that compress no better than what people write: those of a linear congruential generator (Knuth's MMIX).
fn noise(seed: u64, length: usize) -> String {
    let mut state = seed;
    let mut text = String::with_capacity(length + 16);
    while text.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(&format!("{:08x}", state >> 32));
    }
    text.truncate(length);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_as_many_bytes_as_were_asked_for_and_says_when_it_was_written() {
        for payload_bytes in [100, 300, 5_000] {
            let load = Load { topic: "t".to_owned(), keys: 10, payload_bytes, rows: 1 };
            let message = load.message(25).expect("a message");
            let payload = message.payload().expect("a payload");
            assert_eq!((payload.len(), message.key()), (payload_bytes, Some("key-5")));
            let event: Event = serde_json::from_slice(payload).expect("an event");
            assert!(event.number == 25 && event.at > 1_600_000_000_000_000);
        }
    }
}
