//! What the broker says about topics, what is known of them by now, and which take no records.

pub(crate) mod accepting;
pub(crate) mod admin;
pub(crate) mod answer;
pub(crate) mod bar;
pub(crate) mod fitness;
pub(crate) mod inbox;
pub(crate) mod limits;
pub(crate) mod lookup;
pub(crate) mod partition;
pub(crate) mod scratch;
pub(crate) mod table;
pub(crate) mod unavailable;
