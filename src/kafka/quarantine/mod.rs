//! Records that may be what the broker refused in a batch: who they are, and what becomes of them.

pub(crate) mod judging;
pub(crate) mod suspects;
