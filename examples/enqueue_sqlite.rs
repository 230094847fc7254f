//! Write a domain row and its message in one SQLite transaction.
//!
//! `DATABASE_URL=sqlite:shop.db cargo run --example enqueue_sqlite --no-default-features --features sqlite`
//! after `outboxd migrate --database-url …`.

use outboxd::Message;
use sqlx::{Connection, SqliteConnection};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut connection = SqliteConnection::connect(&std::env::var("DATABASE_URL")?).await?;
    sqlx::query("create table if not exists orders (id integer primary key, total int)")
        .execute(&mut connection)
        .await?;

    // `begin immediate`: a transaction that reads first and writes later can fail halfway.
    let mut transaction = connection.begin_with("begin immediate").await?;
    let order: i64 =
        sqlx::query_scalar("insert into orders (total) values (12) returning id").fetch_one(&mut *transaction).await?;
    let message = Message::to("orders.order.created").key(order).json(&serde_json::json!({ "total": 12 }))?;
    outboxd::sqlite::enqueue(&mut transaction, &message).await?;
    transaction.commit().await?;

    println!("order {order} and its message {} are committed", message.event_id());
    Ok(())
}
