//! An outbox to try things on: in a file of its own, in the same folder as the one that is in use.

use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::contract::{DatabaseSettings, Scratch, StoreError, Writer};
use crate::outbox::Table;
use crate::secret::Secret;
use crate::sqlite::connection::{Durability, File};
use crate::sqlite::errors::unusable;
use crate::sqlite::operating::schema::migrate;
use crate::sqlite::operating::writer::SqliteWriter;

/// A file with the tables of an outbox in it.
#[derive(Debug)]
pub(crate) struct ScratchFile {
    path: PathBuf,
    url: String,
}

impl ScratchFile {
    /// Makes a file beside another, which is called as that one and `name`.
    pub(crate) async fn make(original: &Path, name: &str) -> Result<Self, StoreError> {
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

    fn remove_files(&self) -> std::io::Result<()> {
        for beside in ["-wal", "-shm"] {
            let mut path = self.path.clone().into_os_string();
            path.push(beside);
            // SQLite removes them itself when the last connection closes in good order.
            let _ = std::fs::remove_file(path);
        }
        std::fs::remove_file(&self.path)
    }
}

#[async_trait]
impl Scratch for ScratchFile {
    fn configure(&self, settings: &mut DatabaseSettings) {
        settings.url = Secret::new(&self.url);
        settings.table = Table::default();
    }

    async fn renew(&self) -> Result<(), StoreError> {
        self.remove().await?;
        migrate(&self.url, &Table::default()).await.map(drop)
    }

    async fn writer(&self) -> Result<Box<dyn Writer>, StoreError> {
        let connection = File::parse(&self.url)?.connect(Durability::Flushed).await?;
        Ok(Box::new(SqliteWriter::new(connection, Table::default())))
    }

    /// SQLite has no housekeeping of its own.
    async fn settle_down(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn remove(&self) -> Result<(), StoreError> {
        self.remove_files().map_err(|error| unusable(error.to_string(), "check who may write to the folder"))
    }
}
