//! How far an exactly-once relay is: what the broker remembers of that, and finding it again.

pub(crate) mod log;
pub(crate) mod seeker;
