//! Which relay leads an outbox, and until when it may believe so.
//!
//! A lease is held in the database; the leader trusts it only until a point in its own time that lies before
//! the database's, counted from when the last successful renewal *began*. Whoever acts checks that trust per
//! batch, so that a relay that was paused or cut off stops by itself before another may begin.

mod keeper;

pub use keeper::{Keeper, Leadership, RENEWALS};
