//! Requests of the Kafka protocol that the client library does not have: which brokers keep a partition, that the first of
//! them shall lead it, and what a user may not do.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const ELECT_LEADERS: (i16, i16) = (43, 2);
const ALTER_PARTITION_REASSIGNMENTS: (i16, i16) = (45, 0);
const CREATE_ACLS: (i16, i16) = (30, 2);
const DELETE_ACLS: (i16, i16) = (31, 2);

/// What a rule does, as the protocol numbers it.
const DENY: i8 = 2;
const ALLOW: i8 = 3;

/// How long an answer may take, here and at the broker.
const PATIENCE: Duration = Duration::from_secs(5);

/// Lets the next of three brokers, numbered from 1, lead each partition of a topic that all three keep; `turn` says
/// which begins. The broker asked passes it on to the controller.
///
/// # Errors
/// When the broker cannot be reached or does not answer. That it answers says nothing of what became of it.
pub(crate) async fn move_leaders(broker: &str, topic: &str, partitions: i32, turn: i32) -> io::Result<()> {
    let mut reassign = Body::default().int32(PATIENCE.as_millis() as i32).length(1).text(topic);
    reassign = reassign.length(partitions as usize);
    for partition in 0..partitions {
        reassign = reassign.int32(partition).length(3);
        for place in 0..3 {
            reassign = reassign.int32((partition + turn + place) % 3 + 1);
        }
        reassign = reassign.tags();
    }
    ask(broker, ALTER_PARTITION_REASSIGNMENTS, reassign.tags().tags()).await?;
    // Preferred ones.
    let mut elect = Body::default().int8(0).length(1).text(topic).length(partitions as usize);
    for partition in 0..partitions {
        elect = elect.int32(partition);
    }
    ask(broker, ELECT_LEADERS, elect.tags().int32(PATIENCE.as_millis() as i32).tags()).await
}

/// What a user may not use: a kind, a name, and the operation that is denied, kind and operation as the protocol numbers
/// them.
#[derive(Debug, Clone)]
pub(crate) struct Resource(i8, String, i8);

impl Resource {
    const ALL: i8 = 2;
    const WRITE: i8 = 4;
    const DESCRIBE_CONFIGS: i8 = 10;

    pub(crate) fn topic(name: &str) -> Self {
        Self(2, name.to_owned(), Self::ALL)
    }

    pub(crate) fn transactional_id(name: &str) -> Self {
        Self(5, name.to_owned(), Self::ALL)
    }

    /// Writing to a topic, and nothing else about it.
    pub(crate) fn writing_to(topic: &str) -> Self {
        Self(2, topic.to_owned(), Self::WRITE)
    }

    /// Reading a topic's settings, and nothing else about it.
    pub(crate) fn settings_of(topic: &str) -> Self {
        Self(2, topic.to_owned(), Self::DESCRIBE_CONFIGS)
    }

    /// The rule that denies it to a user or allows it, from everywhere; or what finds that rule.
    fn rule(&self, user: &str, permission: i8) -> Body {
        const LITERAL: i8 = 3;
        let Self(kind, name, operation) = self;
        let rule = Body::default().length(1).int8(*kind).text(name).int8(LITERAL);
        rule.text(&format!("User:{user}")).text("*").int8(*operation).int8(permission).tags().tags()
    }
}

/// Denies a user the use of a resource. The broker knows a moment after it has answered.
///
/// # Errors
/// When the broker cannot be reached or does not answer.
pub(crate) async fn deny(broker: &str, user: &str, resource: &Resource) -> io::Result<()> {
    ask(broker, CREATE_ACLS, resource.rule(user, DENY)).await
}

/// Denies a user one operation, and allows all others, which a rule about a resource ends otherwise.
///
/// # Errors
/// As of [`deny`].
pub(crate) async fn deny_only(broker: &str, user: &str, resource: &Resource) -> io::Result<()> {
    let whole = Resource(resource.0, resource.1.clone(), Resource::ALL);
    ask(broker, CREATE_ACLS, whole.rule(user, ALLOW)).await?;
    deny(broker, user, resource).await
}

/// Takes a denial back.
///
/// # Errors
/// As of [`deny`].
pub(crate) async fn permit(broker: &str, user: &str, resource: &Resource) -> io::Result<()> {
    ask(broker, DELETE_ACLS, resource.rule(user, DENY)).await
}

/// A request's body in the "flexible" encoding.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn int8(mut self, value: i8) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn int32(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// The length of an array or a text: one more than it is, in seven bits, which is enough here.
    fn length(mut self, length: usize) -> Self {
        self.0.push(u8::try_from(length + 1).ok().filter(|length| *length < 128).expect("a short array"));
        self
    }

    fn text(mut self, text: &str) -> Self {
        self = self.length(text.len());
        self.0.extend(text.as_bytes());
        self
    }

    /// No tagged fields.
    fn tags(mut self) -> Self {
        self.0.push(0);
        self
    }
}

async fn ask(broker: &str, (key, version): (i16, i16), body: Body) -> io::Result<()> {
    timeout(PATIENCE, ask_without_deadline(broker, key, version, body)).await.map_err(io::Error::other)?
}

async fn ask_without_deadline(broker: &str, key: i16, version: i16, body: Body) -> io::Result<()> {
    let mut request = Vec::new();
    request.extend(key.to_be_bytes());
    request.extend(version.to_be_bytes());
    // A correlation id, and a client id that is null.
    request.extend(1_i32.to_be_bytes());
    request.extend((-1_i16).to_be_bytes());
    request.push(0);
    request.extend(body.0);
    let mut stream = TcpStream::connect(broker).await?;
    stream.write_all(&(request.len() as i32).to_be_bytes()).await?;
    stream.write_all(&request).await?;
    let mut answer = vec![0; stream.read_i32().await? as usize];
    stream.read_exact(&mut answer).await.map(drop)
}
