//! Reading: what is new, left out of held lanes, and released of them.

pub(crate) mod copy;
pub(crate) mod delta;
pub(crate) mod holds;
pub(crate) mod page;
pub(crate) mod position;
pub(crate) mod reader;
pub(crate) mod release;
pub(crate) mod rows;
pub(crate) mod told;
pub(crate) mod walk;
