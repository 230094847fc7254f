//! What operators ask of single messages, wherever these are: to look for them, and to move them.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::contract::error::StoreError;
use crate::outbox::{Intent, Lane, MessageFilter, MessageState, RecordMetadata};

/// Rows that one search looks at, at most: some hundred milliseconds, whatever the table holds.
pub const SEARCHED_ROWS: u32 = 50_000;

/// What names a row, or a dead letter: its id alone may have been given to another in a database that lost commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowName {
    /// The id.
    pub id: i64,
    /// The event's identity; `None` where the row has none that can be read.
    pub event_id: Option<Uuid>,
}

/// Which messages of the outbox are looked for.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// The conditions that they meet.
    pub filter: MessageFilter,
    /// Where they are; anywhere in the outbox if it is not told.
    pub state: Option<MessageState>,
    /// How many are wanted at most.
    pub limit: u32,
}

/// Which dead letters are looked for.
#[derive(Debug, Clone, Default)]
pub struct LetterSearch {
    /// The conditions that they meet.
    pub filter: MessageFilter,
    /// The code of their cause, if it is asked for.
    pub cause: Option<String>,
    /// Whether those of the lowest ids are wanted first, and not those of the highest.
    pub oldest_first: bool,
    /// Where an earlier search [ended](Found::next), if this one goes on there.
    pub from: Option<i64>,
    /// How many are wanted at most.
    pub limit: u32,
}

/// What a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The messages, in the order of the search.
    pub messages: Vec<FoundMessage>,
    /// How many rows were looked at.
    pub looked_at: u64,
    /// The last id that was looked at, where more rows could have been.
    pub next: Option<i64>,
}

impl Found {
    /// What came of looking at so many rows up to the id `last`, when `limit` messages were wanted at most.
    pub fn of(messages: Vec<FoundMessage>, limit: u32, looked_at: u64, last: Option<i64>) -> Self {
        let next = if messages.len() >= limit as usize {
            messages.last().map(|message| message.name.id)
        } else {
            last.filter(|_| looked_at >= u64::from(SEARCHED_ROWS))
        };
        Self { messages, looked_at, next }
    }
}

/// A message as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundMessage {
    /// What names it.
    pub name: RowName,
    /// The topic.
    pub topic: String,
    /// The first thousand characters of the key, if it has one.
    pub key: Option<String>,
    /// The partition that it names, if it does.
    pub partition: Option<i32>,
    /// When it was written, by the database's clock; `None` where that is no time.
    pub created_at: Option<DateTime<Utc>>,
    /// Bytes of the payload; `None` for a tombstone.
    pub payload_bytes: Option<u64>,
    /// Where it is.
    pub state: MessageState,
    /// When it was marked as sent. Where rows are not marked nothing tells.
    pub sent_at: Option<DateTime<Utc>>,
    /// Where its record is in Kafka, if that was [recorded](crate::outbox::Settlement::push_with_metadata).
    pub metadata: Option<RecordMetadata>,
    /// Why it was given up, of a dead letter.
    pub death: Option<Death>,
}

impl FoundMessage {
    /// The lane in which it keeps its order, if it is promised any.
    pub fn lane(&self) -> Option<Lane> {
        let lane = Lane::from_columns(&self.topic, self.key.as_deref(), self.partition);
        (!matches!(lane, Lane::Topic { .. })).then_some(lane)
    }
}

/// Why and when a message was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// The name of the cause.
    pub code: String,
    /// What happened.
    pub message: String,
    /// When, by the database's clock.
    pub died_at: Option<DateTime<Utc>>,
    /// Where it is published, if anywhere.
    pub topic: Option<String>,
    /// When it was published there.
    pub published_at: Option<DateTime<Utc>>,
}

/// What a message carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carried {
    /// The first bytes of the payload; `None` for a tombstone.
    pub payload: Option<Vec<u8>>,
    /// The first characters of the headers, as the table has them.
    pub headers: String,
}

/// How many lanes of dead letters have gone on without them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overtaken {
    /// Lanes of which later messages would precede the letters.
    pub lanes: u64,
    /// Whether rows were left that were not looked at, so that there may be more.
    pub is_floor: bool,
}

/// A step of removing what was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PurgeStep {
    /// Rows that it removed, or would have.
    pub removed: u64,
    /// After which id the next step looks on, if there is one.
    pub next: Option<i64>,
}

/// Single messages as operators meet them. Searches look at [`SEARCHED_ROWS`] at most, found by index; none holds up a reader
/// or a writer. Every change is durable when the call returns, and written to the [audit log](crate::contract::Operate) in
/// its transaction; one that changes nothing is not.
#[async_trait]
pub trait Messages: Send + Sync {
    /// Looks for messages in the outbox: those that wait from the oldest on, any others from the newest on. With times it
    /// looks between these only, as ids tell them: rows whose ids do not follow their times can be missed.
    ///
    /// # Errors
    /// When the database does not answer, or its role may not look.
    async fn search(&self, search: &Search) -> Result<Found, StoreError>;

    /// Looks for dead letters.
    ///
    /// # Errors
    /// When the database does not answer, or its role may not look.
    async fn dead_letters(&self, search: &LetterSearch) -> Result<Found, StoreError>;

    /// What a message carries, of payload and headers at most `most` bytes and characters each; `None` if it is gone from
    /// where it was found.
    ///
    /// # Errors
    /// When the database does not answer, or its role may not look.
    async fn carried(&self, message: &FoundMessage, most: u32) -> Result<Option<Carried>, StoreError>;

    /// How many of these letters' lanes have gone on: [requeued](Self::requeue), the letters would come after later messages.
    ///
    /// # Errors
    /// When the database does not answer, or its role may not look.
    async fn overtaken(&self, letters: &[RowName]) -> Result<Overtaken, StoreError>;

    /// Puts dead letters back into the outbox, in the order of their ids, and says how many. Each has its event id, its time
    /// and all else that the application wrote, and in the header
    /// [`outbox-requeued`](crate::outbox::REQUEUED_HEADER) its first id and what was wrong. The id is the same in a database
    /// whose readers find what commits late, and else the next one.
    ///
    /// *All or none* of those that can go back; *once*: a letter that is gone is left out. So are letters that cannot be read
    /// as messages, whose id another row has by now, or that another session has locked.
    ///
    /// # Errors
    /// When the database does not answer, or its role may not do this: with the grant.
    async fn requeue(&self, letters: &[RowName], intent: &Intent) -> Result<u64, StoreError>;

    /// Deletes dead letters, and says how many there were.
    ///
    /// # Errors
    /// When the database does not answer, or its role may not do this: with the grant.
    async fn discard(&self, letters: &[RowName], intent: &Intent) -> Result<u64, StoreError>;

    /// Gives up messages that wait, and says how many: moves them to the dead letters, with the code `skipped` and the intent's
    /// reason. Leaves out each that may be in flight: while a relay leads, all but those of lanes that are held because a record
    /// was rejected, and whose release nobody asked for.
    ///
    /// # Errors
    /// When the database does not answer. [`StoreError::Unavailable`], and nothing is done, when a relay began to lead meanwhile.
    async fn skip(&self, rows: &[RowName], intent: &Intent) -> Result<u64, StoreError>;

    /// Looks at some rows after an id, and removes those that were sent before a time, never an unsent row nor what is left
    /// of a held lane. Without an intent nothing is removed: it says how many would be.
    ///
    /// # Errors
    /// When the database does not answer.
    async fn purge_sent(
        &self,
        before: DateTime<Utc>,
        after: i64,
        intent: Option<&Intent>,
    ) -> Result<PurgeStep, StoreError>;
}
