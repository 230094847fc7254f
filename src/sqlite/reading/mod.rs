//! Reading: what is new, left out of held lanes, and released of them.

pub(crate) mod holds;
pub(crate) mod position;
pub(crate) mod reader;
pub(crate) mod rows;
