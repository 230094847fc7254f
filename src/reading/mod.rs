//! What the readers of different databases do alike, for those who write a store. No I/O.

mod by_time;
mod filling;
mod gap_list;
mod held_back;

pub use by_time::FirstSince;
pub use filling::{Filling, Fit};
pub use gap_list::{GAPS_AT_MOST, GapList};
pub use held_back::{HeldBack, Release};
