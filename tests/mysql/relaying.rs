//! From the application to Kafka, over the binary: what commits is published, in order, whatever is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use futures_util::future::join_all;
use outboxd::outbox::Settle;
use outboxd::{Message, mysql};
use rdkafka::Message as _;
use sqlx::{Connection, MySqlConnection};

use super::{Outbox, execute, number, servers};
use crate::support::daemon::Daemon;
use crate::support::kafka::{Topic, text};
use crate::support::{machine, services, wait};

pub(super) const KEYS: u32 = 5;
const WRITERS: u32 = 4;
const TRANSACTIONS: u32 = 60;

/// An outbox, a topic, and a counter a key that writers lock and count up.
pub(super) struct Shop {
    pub(super) outbox: Outbox,
    pub(super) topic: Topic,
    settle: Settle,
}

impl Shop {
    pub(super) async fn open(server: &services::Server, settle: Settle) -> Self {
        let outbox = Outbox::new(server, settle).await;
        let topic = Topic::create(&services::kafka(), 6).await;
        outbox.run("create table counter (name varchar(20) primary key, n bigint not null)").await;
        for key in 0..KEYS {
            outbox.run(&format!("insert into counter values ('k{key}', 0)")).await;
        }
        Self { outbox, topic, settle }
    }

    pub(super) fn relay(&self) -> Daemon {
        let daemon = Daemon::new(&self.outbox.url(), &services::kafka());
        daemon.with("outbox.settle", self.settle.as_str()).with("lease.ttl", "2s")
    }

    /// Transactions that overlap, of which some are rolled back and some are open for a while.
    async fn write(&self) {
        join_all((0..WRITERS).map(|writer| self.write_as(writer))).await;
    }

    async fn write_as(&self, writer: u32) {
        let mut connection = self.outbox.connect().await;
        for round in 0..TRANSACTIONS {
            let mut transaction = connection.begin().await.unwrap();
            let key = format!("k{}", (writer + round) % KEYS);
            let message = self.count(&mut transaction, &key).await;
            mysql::enqueue(&mut transaction, &message).await.unwrap();
            if round % 5 == writer {
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            if round % 7 == 3 { transaction.rollback().await.unwrap() } else { transaction.commit().await.unwrap() }
        }
    }

    /// Counts a key up, and makes the message that says so.
    async fn count(&self, transaction: &mut MySqlConnection, key: &str) -> Message {
        execute(transaction, &format!("update counter set n = n + 1 where name = '{key}'")).await;
        let n = number(transaction, &format!("select n from counter where name = '{key}'")).await;
        Message::to(self.topic.name()).key(key).text(n.to_string()).unwrap()
    }

    /// How far each key was counted.
    async fn counted(&self) -> BTreeMap<String, i64> {
        let mut counted = BTreeMap::new();
        for key in 0..KEYS {
            let n = self.outbox.number(&format!("select n from counter where name = 'k{key}'")).await;
            counted.insert(format!("k{key}"), n);
        }
        counted
    }

    pub(super) async fn written(&self) -> u64 {
        self.counted().await.values().sum::<i64>().unsigned_abs()
    }

    /// What the topic holds of each key.
    async fn published(&self) -> BTreeMap<String, Vec<i64>> {
        let mut published: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        let see = |record: &rdkafka::message::BorrowedMessage<'_>| {
            let key = String::from_utf8(record.key().unwrap().to_vec()).unwrap();
            published.entry(key).or_default().push(text(record).parse().unwrap());
        };
        self.topic.read(see).await;
        published
    }

    /// Whether the audit finds nothing amiss.
    pub(super) fn is_sound(&self, arguments: &[&str]) -> bool {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
        let (url, brokers) = (self.outbox.url(), services::kafka());
        command.args(["verify", "--database-url", &url, "--brokers", &brokers, "--topic", self.topic.name()]);
        let output = command.args(arguments).env("OUTBOXD_OUTBOX__SETTLE", self.settle.as_str()).output().unwrap();
        if !output.status.success() {
            eprintln!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        }
        output.status.success()
    }

    /// Judges that each key came whole and in order, by the first of each number.
    pub(super) async fn came_in_order(&self) {
        let published = self.published().await;
        for (key, n) in self.counted().await {
            let mut first = Vec::new();
            for number in &published[&key] {
                if !first.contains(number) {
                    first.push(*number);
                }
            }
            assert_eq!(first, (1..=n).collect::<Vec<i64>>(), "{key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_commits_is_published_once_and_in_order_in_every_mode_of_settling() {
    let _machine = machine::shared().await;
    for server in servers() {
        for settle in Settle::ALL {
            let shop = Shop::open(&server, settle).await;
            let mut relay = shop.relay().start().await;
            shop.write().await;
            shop.topic.holds(shop.written().await).await;
            assert_eq!(relay.stop().await, Some(0), "{settle}");
            shop.came_in_order().await;
            let once: usize = shop.published().await.values().map(Vec::len).sum();
            assert_eq!(once as u64, shop.written().await, "{settle}");
            assert!(shop.is_sound(&["--no-duplicates"]), "{settle}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_killed_again_and_again_loses_nothing_and_keeps_the_order() {
    let _machine = machine::shared().await;
    for server in servers() {
        for settle in Settle::ALL {
            let shop = Shop::open(&server, settle).await;
            let killing = async {
                for _ in 0..3 {
                    let mut relay = shop.relay().start().await;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    relay.kill();
                }
            };
            tokio::join!(shop.write(), killing);
            let mut relay = shop.relay().start().await;
            let written = shop.written().await;
            wait::until_true("all has come", wait::LONG_PATIENCE, async || {
                let mut distinct = 0;
                for numbers in shop.published().await.into_values() {
                    distinct += numbers.iter().collect::<BTreeSet<_>>().len();
                }
                distinct as u64 == written
            })
            .await;
            assert_eq!(relay.stop().await, Some(0), "{settle}");
            shop.came_in_order().await;
            assert!(shop.is_sound(&[]), "{settle}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_once_holds_over_kills() {
    let _machine = machine::shared().await;
    for server in servers() {
        let shop = Shop::open(&server, Settle::Mark).await;
        let progress = format!("{}-progress", shop.topic.name());
        let relay = shop.relay().with("relay.delivery", "exactly-once").with("relay.progress_topic", &progress);
        let killing = async {
            for _ in 0..3 {
                let mut relay = relay.start().await;
                tokio::time::sleep(Duration::from_millis(400)).await;
                relay.kill();
            }
        };
        tokio::join!(shop.write(), killing);
        let mut last = relay.start().await;
        shop.topic.holds(shop.written().await).await;
        assert_eq!(last.stop().await, Some(0));
        shop.came_in_order().await;
        let once: usize = shop.published().await.values().map(Vec::len).sum();
        assert_eq!(once as u64, shop.written().await);
    }
}
