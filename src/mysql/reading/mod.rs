//! Reading: what is new, left out of held lanes, and released of them.

mod forget;
pub(crate) mod holds;
pub(crate) mod page;
pub(crate) mod position;
pub(crate) mod reader;
mod release;
pub(crate) mod rows;
