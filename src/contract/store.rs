//! What a database must do for the relay.

use std::time::Duration;

use async_trait::async_trait;

use crate::contract::backlog::Backlog;
use crate::contract::error::StoreError;
use crate::contract::footprint::Footprint;
use crate::contract::lease::{Leader, LeaseStore};
use crate::contract::operations::Operations;
use crate::contract::steering::Steering;
use crate::contract::wake::WakeSource;
use crate::outbox::{
    Batch, DeadLetter, Held, HeldLane, Intent, Lane, Limit, Position, Record, Settlement, Term, Unreadable,
};

/// Everything the relay asks of a database.
pub trait Store: OutboxStore + LeaseStore + Inspect + DeadLetters + HeldLanes + Steering + Operations {
    /// A source of wake-ups, if the database has one and it is switched on. Polling alone must do without.
    fn wake(&self) -> Option<Box<dyn WakeSource>>;
}

/// Reading and settling.
#[async_trait]
pub trait OutboxStore: Send + Sync {
    /// Begins a reading session at the stored checkpoint, or at the beginning where none is stored.
    ///
    /// Rows that are recorded as settled are never read; rows of a stored held lane, from its `from_id` on, are left out
    /// until the lane is released, and come then but for those that its `after` calls read. Several sessions may be open
    /// at once; only the one of the leader stores anything.
    async fn open(&self) -> Result<Box<dyn Reader>, StoreError>;

    /// Records that these records were delivered.
    ///
    /// *Idempotent*: settling again, or settling rows that are gone, does no harm. *Durable* no later than the
    /// next stored checkpoint. A row whose id matches and whose event id does not is left alone; the ids alone are
    /// enough for a store that knows by the [token](Batch::token) that no id was given to another row since the rows
    /// were read. Needs no leadership: what is at the broker is there, whichever relay says so. After an error it may
    /// have happened.
    ///
    /// Rows [out of line](Settlement::is_out_of_line) are recorded in every mode, because no position will ever tell
    /// of them, and durably when it returns.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when the database refuses it, for one row or for all, or keeps a row as it was; a
    /// settlement of the others alone may succeed.
    /// [`StoreError::Forgotten`], and nothing is done, when earlier settlements since the last [`open`](Self::open) were
    /// acknowledged and did not survive a crash of the database.
    async fn settle(&self, settlement: &Settlement) -> Result<(), StoreError>;

    /// Takes over what the broker knows to be published and the database may not: everything up to `position`, apart
    /// from the stored held lanes, and the rows named in `beyond`. Records it as delivered, and moves the stored
    /// checkpoint to the position where it is behind; durable when it returns. Reading sessions that were opened
    /// before know nothing of it.
    ///
    /// A position tells on which [proof](Reader::prove) it was published. It is believed only where the database has
    /// that proof: it holds all that the position tells of then. Ids decide nothing, since a database that lost commits
    /// hands them out anew.
    ///
    /// # Errors
    /// [`StoreError::TermOver`], and no checkpoint is moved, when `term` is no longer the leader's.
    /// [`StoreError::Incompatible`], and nothing is done, when the database does not have the proof: it was restored to an
    /// earlier point, lost commits that it had acknowledged, or is another one.
    async fn recover(&self, term: Term, position: Option<&Position>, beyond: &Settlement) -> Result<(), StoreError>;
}

/// A reading session. Its position dies with it: after any error drop it, let what is in flight be settled,
/// and open another, which begins at the stored checkpoint.
#[async_trait]
pub trait Reader: Send {
    /// The held lanes, as stored when the session was opened.
    fn held(&self) -> &[Held];

    /// How far the session is: at first where it began, then after what was read last.
    fn position(&self) -> Position;

    /// From the next fetch on, loads no row that has more than so many bytes of key, payload and headers: such a row comes
    /// as an [unreadable](Batch::unreadable) one. Without this call a row may have any size.
    fn load_at_most(&mut self, bytes: usize);

    /// Reads what is new after the position, and moves the position past it.
    ///
    /// *Complete*: a committed row is read exactly once in a session, however late its transaction commits.
    /// *Ordered*: rows of one lane whose transactions did not overlap come in the order of their commits;
    /// inside a batch rows are in id order. *Never early*: no row of a transaction that is not committed is
    /// read. *Bounded*: no row that cannot be read as a record fails the call, whatever is wrong with it: it is told of in
    /// [`Batch::unreadable`]. An empty batch without `more` says that nothing is new; an empty one may still move the position.
    ///
    /// Not to be cancelled: a dropped call leaves the session in an unknown state, and it must be dropped too.
    async fn fetch(&mut self, limit: Limit) -> Result<Batch, StoreError>;

    /// Makes sure that all that was read is durable in the database, and stays so whatever becomes of the server: by a
    /// flushed commit of our own, made after all of it had been committed. Does nothing where that is known already.
    /// Positions of what is read tell of the proof that has to follow it: those that are to be
    /// [recovered](OutboxStore::recover) need it.
    ///
    /// # Errors
    /// [`StoreError::TermOver`] when `term` turns out to be no longer the leader's.
    async fn prove(&mut self, term: Term) -> Result<(), StoreError>;

    /// Leaves the lane out from the next fetch on, from `held.from_id` on. Holding a held lane again lowers
    /// its `from_id` where the new one is lower, and ends a release of it that is under way. Its `after` becomes the
    /// new one.
    ///
    /// A record whose topic and whose key are both held is in the care of the key's lane: it comes with that one's release
    /// and not with the topic's. A caller that holds a topic because of a record that came with a release of its key
    /// holds the key anew besides, or neither release brings it again.
    fn hold(&mut self, held: Held);

    /// Lets a held lane flow again. Some later batch says `opened`: from it on the lane's rows come, those
    /// left out first, in id order, and then its new ones; a still later batch (or the same) says `closed`:
    /// all that was left out has come.
    ///
    /// *Ordered*: a row that commits late with an id below `from_id`, which is not left out, comes before every row of a
    /// higher id in its lane, as long as their transactions did not overlap. *Once*: rows that `held.after` calls read
    /// were delivered before the hold and never come again, in whatever way rows are settled; nor do those that were
    /// settled out of line. A lane in a held topic comes after the topic: its release waits until that is no longer held.
    fn release(&mut self, lane: &Lane);

    /// Stores the checkpoint in one flushed transaction. When it returns, every settlement that was written
    /// before is durable too.
    ///
    /// # Errors
    /// [`StoreError::TermOver`], and nothing is stored, when `checkpoint.term` is no longer the leader's.
    async fn save(&mut self, checkpoint: &Checkpoint) -> Result<(), StoreError>;
}

/// What is stored so that the next session knows where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The term of the leader that stores it.
    pub term: Term,
    /// Every record up to here is settled, or belongs to a lane in `held`.
    pub position: Position,
    /// What is read, settled or not, for people who look.
    pub read_to: Position,
    /// All held lanes.
    pub held: Vec<Held>,
}

/// A dead letter that is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueLetter {
    /// The letter.
    pub letter: DeadLetter,
    /// The record as the application wrote it, or why the row cannot be read as one.
    pub read: Result<Record, Unreadable>,
}

/// Records that were given up, kept whole with their cause.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Gives records up: moves their rows from the outbox to the dead letters, all of them or none.
    ///
    /// *Durable* when it returns: whatever follows in their lanes may be published then. *Idempotent*: a row that is
    /// gone, or whose event id differs, is left alone. Needs no leadership, as settling does not. After an error it
    /// may have happened.
    async fn dead_letter(&self, letters: &[DeadLetter]) -> Result<(), StoreError>;

    /// Dead letters above an id that are due to a topic and were not published there yet, by id. Loads none that has more
    /// than `limit.bytes` of key, payload and headers.
    async fn due(&self, after: i64, limit: Limit) -> Result<Vec<DueLetter>, StoreError>;

    /// Records that these dead letters were published to their topic. Idempotent.
    async fn delivered(&self, ids: &[i64]) -> Result<(), StoreError>;

    /// Gives up publishing a dead letter to its topic, and adds to its message why. It stays where it is kept.
    async fn undeliverable(&self, id: i64, why: &str) -> Result<(), StoreError>;
}

/// Held lanes as operators see them.
#[async_trait]
pub trait HeldLanes: Send + Sync {
    /// The stored held lanes, longest held first.
    async fn held_lanes(&self) -> Result<Vec<HeldLane>, StoreError>;

    /// Asks for the release of held lanes, and returns how many of them are held. The leader grants it. An operator who
    /// deletes what is stored of a lane by other means asks for its release: only the leader forgets a lane, in a
    /// checkpoint without it.
    ///
    /// An operator asks, which a database writes to its [audit log](crate::contract::Operate).
    ///
    /// A request stays until the lane is forgotten, or [granted](Self::grant_releases) and then held anew: one that comes
    /// while a lane is being held anew is not lost.
    async fn request_release(&self, lanes: &[Lane], intent: &Intent) -> Result<u64, StoreError>;

    /// The held lanes whose release was asked for, as they are stored.
    async fn release_requests(&self) -> Result<Vec<Held>, StoreError>;

    /// Notes that the leader grants what was asked for by now of these lanes, before it does. The next checkpoint that
    /// holds one of them anew, since another time, takes back what was granted, and no request that came later.
    async fn grant_releases(&self, lanes: &[Lane]) -> Result<(), StoreError>;
}

/// Looking at the table and keeping it small. Statements are bounded; none holds up a reader or a writer.
#[async_trait]
pub trait Inspect: Send + Sync {
    /// How much waits, counting up to `count_limit` records. Changes nothing.
    async fn backlog(&self, count_limit: u64) -> Result<Backlog, StoreError>;

    /// The relay that leads by its lease and the database's clock; `None` where the last lease was given up or ran out.
    /// Changes nothing.
    async fn leader(&self) -> Result<Option<Leader>, StoreError>;

    /// How much room the outbox takes, and when it was cleaned up, as the database knows it anyway: no row is looked at.
    /// Changes nothing.
    async fn footprint(&self) -> Result<Footprint, StoreError>;

    /// Looks at some more rows for those that are unsettled below the checkpoint and outside every held lane: rows that
    /// became due behind the reader, since they were corrected, restored or moved back by hand. Brings them back before
    /// it, and says how many they were. Where rows are neither marked nor deleted nothing tells of them, and it is 0.
    async fn bring_back_late(&self) -> Result<u64, StoreError>;

    /// Removes settled rows that are older than the retention, some at a time.
    ///
    /// Never removes an unsettled row, nor what is left of a held lane: its rows from its `from_id` on, but for those that
    /// its `after` calls read. Call it again at once while it says there is more.
    ///
    /// # Errors
    /// [`StoreError::TermOver`], and nothing is removed, when `term` is no longer the leader's.
    async fn purge(&self, term: Term, retention: Duration) -> Result<Purge, StoreError>;
}

/// What one round of purging did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purge {
    /// Rows removed.
    pub removed: u64,
    /// Whether another round would remove more, or has more to look at.
    pub more: bool,
}
