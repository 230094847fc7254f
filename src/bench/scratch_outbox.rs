//! Where it is measured: an outbox and a topic that only the benchmark uses.

use std::sync::Arc;

use anyhow::Context;
use uuid::Uuid;

use crate::backends;
use crate::bench::settings::Settings;
use crate::config::Config;
use crate::contract::{Scratch, Store, StoreError};
use crate::kafka;
use crate::outbox::TopicPattern;

/// What was made. [Remove](Self::remove) it when done.
pub(crate) struct ScratchOutbox {
    /// The user's, but of this outbox.
    config: Config,
    scratch: Box<dyn Scratch>,
    topics: kafka::Scratch,
    topic: String,
}

impl ScratchOutbox {
    /// Makes the outbox and the topic, or neither.
    pub(crate) async fn make(mut config: Config, settings: &Settings) -> anyhow::Result<Self> {
        let mark = Uuid::new_v4().simple().to_string();
        let (name, topic) = (format!("outboxd_bench_{}", &mark[..8]), format!("outboxd-bench-{}", &mark[..8]));
        let properties = config.kafka.properties.clone();
        let creating = kafka::Scratch::create(&properties, &topic, settings.partitions, settings.replication);
        let mut topics = creating.await.context("the topic that is needed cannot be made")?;
        config.outbox.topics = vec![TopicPattern::any()];
        config.kafka.progress_topic.name = format!("{topic}-progress");
        topics.along(&config.kafka.progress_topic.name);
        let scratch = match make_scratch(&config, &name).await {
            Ok(scratch) => scratch,
            Err(error) => {
                topics.remove().await?;
                return Err(error).context("the outbox that is needed cannot be made");
            }
        };
        eprintln!("made outbox {name} and topic {topic}; both are removed at the end");
        scratch.configure(&mut config.outbox.database);
        Ok(Self { config, scratch, topics, topic })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    pub(crate) fn scratch(&self) -> &dyn Scratch {
        &*self.scratch
    }

    /// The store of this configuration.
    pub(crate) fn store(&self) -> anyhow::Result<Arc<dyn Store>> {
        Ok(backends::database(&self.config.outbox.database)?)
    }

    /// What the sink of one part of the measurement calls the outbox: what it remembers is its own.
    pub(crate) fn source(&self, part: &str) -> String {
        format!("{}-{part}", self.topic)
    }

    /// Removes everything.
    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        let removed = self.scratch.remove().await;
        self.topics.remove().await.with_context(|| format!("delete the topics {}* by hand", self.topic))?;
        removed.with_context(|| format!("remove the outbox {} by hand", self.config.outbox.database.table))
    }
}

async fn make_scratch(config: &Config, name: &str) -> Result<Box<dyn Scratch>, StoreError> {
    backends::database(&config.outbox.database)?.scratch(name).await
}
