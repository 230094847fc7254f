//! The ways to a database and to brokers that people have: TCP, TLS, a unix socket, a password.

use crate::support::daemon::Daemon;
use crate::support::machine;
use crate::support::scene::Scene;
use crate::support::services::{self, Server};
use crate::support::wait;

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

#[tokio::test(flavor = "multi_thread")]
async fn brokers_are_reached_by_tls_with_a_password() {
    let _machine = machine::shared().await;
    for mechanism in ["PLAIN", "SCRAM-SHA-512"] {
        let scene = Scene::set().await;
        let relay = secured(&scene, mechanism, "outboxd").with("relay.delivery", "exactly-once");
        let mut relay = relay.start().await;
        scene.insert("k", "v").await;
        scene.topic.follow().records(1).await;
        assert_eq!(relay.stop().await, Some(0), "{mechanism}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_takes_no_such_password_is_named_and_nothing_is_lost() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let mut relay = secured(&scene, "SCRAM-SHA-512", "very-wrong").spawn();
    wait::until_true("the relay says that it is refused", wait::PATIENCE, async || {
        relay.log().contains("Kafka refuses the connection")
    })
    .await;
    let log = relay.log();
    assert!(log.contains("SASL") && !log.contains("very-wrong"), "{log}");
    relay.kill();
    scene.insert("k", "v").await;
    let _mended = secured(&scene, "SCRAM-SHA-512", "outboxd").start().await;
    scene.topic.follow().records(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_nobody_vouches_for_get_no_password() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    // The system's own authorities do not know the testbed's.
    let relay = secured(&scene, "PLAIN", "outboxd").with("kafka.ssl.ca.location", "probe").spawn();
    wait::until_true("the relay says that the certificate is not good", wait::PATIENCE, async || {
        relay.log().contains("certificate verify failed")
    })
    .await;
}

async fn relays_over(server: &Server) {
    let scene = Scene::set_on(server).await;
    let relay = Daemon::new(scene.database.url(), &scene.brokers).start().await;
    scene.insert("k", "v").await;
    scene.topic.follow().records(1).await;
    let named = "select count(*) from pg_stat_activity \
        where datname = current_database() and application_name like 'outboxd/%'";
    assert!(scene.database.number(named).await > 0, "the relay's connections tell their names");
    wait::until_true("the metric tells how many sessions there are", wait::PATIENCE, async || {
        relay.metric("outboxd_database_sessions").await == scene.database.number(named).await as f64
    })
    .await;
    let plain = "select count(*) from pg_stat_activity a left join pg_stat_ssl s using (pid) \
        where a.datname = current_database() and a.application_name like 'outboxd/%' \
        and a.client_addr is not null and not coalesce(s.ssl, false)";
    assert_eq!(scene.database.number(plain).await, 0, "no connection of the relay goes over TCP in the clear");
}

/// A relay that speaks to the broker over TLS and says who it is.
fn secured(scene: &Scene, mechanism: &str, password: &str) -> Daemon {
    Daemon::new(scene.database.url(), &services::variable("OUTBOXD_TEST_KAFKA_SECURE")).with_login(mechanism, password)
}
