//! An outbox to try things on: beside the one that is in use, in the same schema, under a name of its own.

use async_trait::async_trait;

use crate::contract::{DatabaseSettings, Scratch, StoreError, Writer};
use crate::mysql::address::Address;
use crate::mysql::errors::unusable;
use crate::mysql::operating::schema::migrate;
use crate::mysql::operating::writer::MySqlWriter;
use crate::mysql::session::{Job, ask, sql};
use crate::outbox::Table;
use crate::secret::Secret;

/// The tables of an outbox.
#[derive(Debug)]
pub(crate) struct ScratchOutbox {
    url: Secret,
    table: Table,
    address: Address,
}

impl ScratchOutbox {
    /// Makes the tables of an outbox of this name, which must be a word that no table's name begins with.
    pub(crate) async fn make(settings: &DatabaseSettings, name: &str) -> Result<Self, StoreError> {
        let named = match settings.table.schema() {
            Some(schema) => format!("{schema}.{name}"),
            None => name.to_owned(),
        };
        let table = named.parse::<Table>().map_err(|error| {
            unusable(format!("naming a scratch outbox: {error}"), "give the outbox's schema a shorter name")
        })?;
        let address = Address::new(&settings.url, &table)?;
        let scratch = Self { url: settings.url.clone(), table, address };
        migrate(&scratch.url, &scratch.table).await?;
        Ok(scratch)
    }

    async fn execute(&self, doing: &'static str, statements: &[String]) -> Result<(), StoreError> {
        let mut session = self.address.connect(Job::Migrate).await?;
        for statement in statements {
            let text = format!("/* outboxd: scratch */ {statement}");
            ask(doing, sqlx::raw_sql(sql(text)).execute(&mut session.conn)).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Scratch for ScratchOutbox {
    fn configure(&self, settings: &mut DatabaseSettings) {
        settings.table = self.table.clone();
    }

    async fn renew(&self) -> Result<(), StoreError> {
        self.remove().await?;
        migrate(&self.url, &self.table).await.map(drop)
    }

    async fn writer(&self) -> Result<Box<dyn Writer>, StoreError> {
        let session = self.address.connect(Job::Operate).await?;
        Ok(Box::new(MySqlWriter::new(session, self.table.clone())))
    }

    /// InnoDB purges by itself; statistics are brought up to date.
    async fn settle_down(&self) -> Result<(), StoreError> {
        self.execute("analysing the scratch table", &[format!("analyze table {}", self.address.table().outbox())]).await
    }

    async fn remove(&self) -> Result<(), StoreError> {
        let table = self.address.table();
        let tables = [
            table.outbox(),
            table.checkpoint(),
            table.lanes(),
            table.held(),
            table.lease(),
            table.dead(),
            table.audit_log(),
            table.pause(),
            table.operation(),
            table.standby(),
            table.migrations(),
        ];
        let drops = [
            format!("drop table if exists {}", tables.join(", ")),
            format!("drop procedure if exists {}", table.beside("_enqueue")),
        ];
        self.execute("dropping the scratch tables", &drops).await
    }
}
