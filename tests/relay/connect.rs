//! The ways to a database that people have: TCP, TLS, a unix socket.

use crate::support::daemon::Daemon;
use crate::support::machine;
use crate::support::scene::Scene;
use crate::support::services::{self, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_reached_by_tls() {
    let _machine = machine::shared().await;
    relays_over(&Server::at(services::variable("OUTBOXD_TEST_POSTGRES_TLS"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_reached_over_a_unix_socket() {
    let _machine = machine::shared().await;
    relays_over(&Server::at(services::variable("OUTBOXD_TEST_POSTGRES_SOCKET"))).await;
}

async fn relays_over(server: &Server) {
    let scene = Scene::set_on(server).await;
    let _relay = Daemon::new(scene.database.url(), &scene.brokers).start().await;
    scene.insert("k", "v").await;
    scene.topic.follow().records(1).await;
    let named = "select count(*) from pg_stat_activity \
        where datname = current_database() and application_name like 'outboxd/%'";
    assert!(scene.database.number(named).await > 0, "the relay's connections tell their names");
    let plain = "select count(*) from pg_stat_activity a left join pg_stat_ssl s using (pid) \
        where a.datname = current_database() and a.application_name like 'outboxd/%' \
        and a.client_addr is not null and not coalesce(s.ssl, false)";
    assert_eq!(scene.database.number(plain).await, 0, "no connection of the relay goes over TCP in the clear");
}
