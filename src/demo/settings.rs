//! What the demo is asked to do.

use crate::demo::sabotage::Sabotage;

/// What the demo is asked to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many messages are committed; `None`: until ctrl-c.
    pub messages: Option<u64>,
    /// What the writer's choices grow from; `None`: at random.
    pub seed: Option<u64>,
    /// Whether the relay is killed in the middle.
    pub kill: bool,
    /// Where the operator's page is served; `None`: at the usual address, or a free one where that is taken.
    pub http: Option<String>,
    /// How the relay is broken on purpose.
    pub sabotage: Option<Sabotage>,
}
