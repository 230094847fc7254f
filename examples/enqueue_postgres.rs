//! Write a domain row and its message in one PostgreSQL transaction.
//!
//! `DATABASE_URL=postgres://… cargo run --example enqueue_postgres --no-default-features --features postgres`
//! after `outboxd migrate --database-url …`.

use outboxd::Message;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

#[derive(Serialize)]
struct OrderCreated {
    order: i64,
    total: u32,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut connection = PgConnection::connect(&std::env::var("DATABASE_URL")?).await?;
    sqlx::query("create table if not exists orders (id bigint generated always as identity primary key, total int)")
        .execute(&mut connection)
        .await?;

    let mut transaction = connection.begin().await?;
    let order: i64 =
        sqlx::query_scalar("insert into orders (total) values (12) returning id").fetch_one(&mut *transaction).await?;
    let message = Message::to("orders.order.created")
        .key(order)
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .json(&OrderCreated { order, total: 12 })?;
    outboxd::postgres::enqueue(&mut transaction, &message).await?;
    transaction.commit().await?;

    println!("order {order} and its message {} are committed", message.event_id());
    Ok(())
}
