//! Which relay leads an outbox, and until when it may believe so.
//!
//! A lease is held in the database; the leader trusts it only until a point in its own time, counted from when the last
//! successful renewal *began*. A standby counts in its own time, too, from when it first *saw* that renewal, and longer;
//! no clock that can be set has a say. The publisher checks that trust per batch, so that a relay that was paused or
//! cut off stops by itself before another may begin.

mod keeper;

pub use keeper::{Keeper, Leadership, RENEWALS};
