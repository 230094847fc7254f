//! An outbox to try things on: in a file of its own, in the same folder as the one that is in use.

use std::path::PathBuf;

use sqlx::{Connection, SqliteConnection};

use crate::contract::StoreError;
use crate::outbox::{Message, Table};
use crate::sqlite::connection::{Durability, File};
use crate::sqlite::errors::unusable;
use crate::sqlite::{EnqueueError, enqueue_many, migrate};

/// An outbox that only its maker uses. [Remove](Self::remove) it when done.
#[derive(Debug, Clone)]
pub struct Scratch {
    path: PathBuf,
    url: String,
}

/// An application that writes to it.
#[derive(Debug)]
pub struct Writer {
    connection: SqliteConnection,
}

impl Scratch {
    /// Makes a file that is called as the one of the URL and so, with the tables of an outbox in it.
    ///
    /// # Errors
    /// When there is no such file, or the folder cannot be written to.
    pub async fn make(url: &str, name: &str) -> Result<Self, StoreError> {
        let original = File::parse(url)?.path().to_owned();
        if !original.is_file() {
            let problem = format!("there is no file {}", original.display());
            return Err(unusable(problem, "check `database.url`: the scratch file is made beside it"));
        }
        let mut file_name = original.file_name().unwrap_or_default().to_owned();
        file_name.push(format!(".{name}"));
        let path = original.with_file_name(file_name);
        let scratch = Self { url: format!("sqlite:{}", path.display()), path };
        migrate(&scratch.url, &Table::default()).await?;
        Ok(scratch)
    }

    /// Makes it anew, with nothing in it.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub async fn renew(&self) -> Result<(), StoreError> {
        self.remove().map_err(|error| unusable(error.to_string(), "check who may write to the folder"))?;
        migrate(&self.url, &Table::default()).await.map(drop)
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Opens a connection that writes to it.
    ///
    /// # Errors
    /// When the file is not to be had.
    pub async fn writer(&self) -> Result<Writer, StoreError> {
        Ok(Writer { connection: File::parse(&self.url)?.connect(Durability::Flushed).await? })
    }

    /// Removes the file and what SQLite keeps beside it.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn remove(&self) -> std::io::Result<()> {
        for beside in ["-wal", "-shm"] {
            let mut path = self.path.clone().into_os_string();
            path.push(beside);
            // SQLite removes them itself when the last connection closes in good order.
            let _ = std::fs::remove_file(path);
        }
        std::fs::remove_file(&self.path)
    }
}

impl Writer {
    /// Writes messages in one transaction, and commits.
    ///
    /// # Errors
    /// When the database refuses; nothing is committed then.
    pub async fn write(&mut self, messages: &[Message]) -> Result<(), EnqueueError> {
        let begun = self.connection.begin_with("begin immediate").await;
        let mut transaction = begun.map_err(EnqueueError::Database)?;
        enqueue_many(&mut transaction, messages).await?;
        transaction.commit().await.map_err(EnqueueError::Database)
    }
}
