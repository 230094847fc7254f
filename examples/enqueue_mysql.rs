//! Write a domain row and its message in one transaction of MySQL or MariaDB.
//!
//! `DATABASE_URL=mysql://… cargo run --example enqueue_mysql --no-default-features --features mysql`
//! after `outboxd migrate --database-url …`.

use outboxd::Message;
use serde::Serialize;
use sqlx::{Connection, MySqlConnection};

#[derive(Serialize)]
struct OrderCreated {
    order: u64,
    total: u32,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut connection = MySqlConnection::connect(&std::env::var("DATABASE_URL")?).await?;
    sqlx::query("create table if not exists orders (id bigint unsigned auto_increment primary key, total int)")
        .execute(&mut connection)
        .await?;

    let mut transaction = connection.begin().await?;
    let inserted = sqlx::query("insert into orders (total) values (12)").execute(&mut *transaction).await?;
    let order = inserted.last_insert_id();
    let message = Message::to("orders.order.created")
        .key(order)
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .json(&OrderCreated { order, total: 12 })?;
    outboxd::mysql::enqueue(&mut transaction, &message).await?;
    transaction.commit().await?;

    println!("order {order} and its message {} are committed", message.event_id());
    Ok(())
}
