//! What the readers of different databases do alike, for those who write a store. No I/O.

mod by_time;
mod filling;
mod held_back;

pub use by_time::FirstSince;
pub use filling::{Filling, Fit};
pub use held_back::{HeldBack, Release};
