//! What writing a message costs the application: one connection that commits one transaction after the other.

use outboxd::Message;
use outboxd::outbox::Table;
use outboxd::postgres::{enqueue_into, enqueue_many_into};
use serde::Deserialize;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::time::Instant;

use crate::Fallible;
use crate::contestant::{Contestant, Mode};
use crate::load::Inserts;
use crate::results::Figures;
use crate::rig::{Rig, TABLE};

/// Bytes of a payload.
const PAYLOAD: usize = 300;

/// How a transaction writes its messages.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Writing {
    /// By a statement with the parameters topic, key and payload, for each message.
    Statement(String),
    /// By the library, one by one.
    Enqueue,
    /// By the library, all at once.
    EnqueueMany,
}

pub(crate) async fn run(rig: &Rig, contestant: &Contestant, mode: &Mode, load: &Inserts) -> Fallible<Figures> {
    let writing = mode.writing.as_ref().ok_or("it does not say how it writes")?;
    contestant.make_table(rig, mode, "t").await?;
    let mut connection = rig.connect().await?;
    let table: Table = TABLE.parse()?;
    // Statements are planned by then.
    let warm = Instant::now() + load.warm_up;
    while Instant::now() < warm {
        transact(rig, &mut connection, &table, writing, load.messages, 0).await?;
    }
    let (began, before) = (Instant::now(), rig.wal_bytes().await?);
    let mut transactions = 0;
    while began.elapsed() < load.lasting {
        transactions += 1;
        transact(rig, &mut connection, &table, writing, load.messages, transactions).await?;
    }
    let (seconds, wal) = (began.elapsed().as_secs_f64(), rig.wal_bytes().await? - before);
    contestant.tear_down(rig).await?;
    let transactions = transactions as f64;
    Ok(Figures::from([
        ("microseconds_per_transaction", 1e6 * seconds / transactions),
        ("wal_bytes_per_row", wal / (transactions * load.messages as f64)),
    ]))
}

async fn transact(
    rig: &Rig,
    connection: &mut PgConnection,
    table: &Table,
    writing: &Writing,
    messages: usize,
    number: u64,
) -> Fallible<()> {
    let key = |message: usize| format!("key-{}", (number as usize * messages + message) % 10_000);
    let payload = format!("{:0PAYLOAD$}", number);
    let message = |at| Message::to("topic").key(key(at)).text(payload.as_str());
    let mut transaction = connection.begin().await?;
    match writing {
        Writing::Statement(statement) => {
            let statement = rig.fill_in(statement);
            for at in 0..messages {
                let row = sqlx::query(AssertSqlSafe(statement.as_str())).bind("topic").bind(key(at)).bind(&payload);
                row.execute(&mut *transaction).await?;
            }
        }
        Writing::Enqueue => {
            for at in 0..messages {
                enqueue_into(&mut transaction, table, &message(at)?).await?;
            }
        }
        Writing::EnqueueMany => {
            let messages: Vec<Message> = (0..messages).map(message).collect::<Result<_, _>>()?;
            enqueue_many_into(&mut transaction, table, &messages).await?;
        }
    }
    Ok(transaction.commit().await?)
}
