//! What is written back: deliveries, dead letters, the checkpoint and the held lanes.

pub(crate) mod checkpoint;
pub(crate) mod dead;
pub(crate) mod held;
pub(crate) mod recover;
pub(crate) mod settle;
