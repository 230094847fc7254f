//! Every promise of `src/contract/`, over every implementation.
//!
//! A file of `src/contract/` has its twins here; each function is one promise and takes an [`Implementation`].
//! A promise is listed once, in `promises!`, and becomes a test of each implementation, for example
//! `contract::sqlite::nothing_is_read_before_it_commits`. To hold another implementation to all of them, write its
//! fixture under `fixtures/` and add a module below. A service that is missing makes its tests fail.

mod checkpoint;
mod dead;
mod failing;
mod faults;
mod fixtures;
mod holding;
mod inspecting;
mod lanes;
mod lease;
mod operations;
mod purging;
mod reading;
mod recovering;
mod releasing;
mod session;
mod settling;
mod sink;
mod steering;
mod wake;
mod workload;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outboxd::Message;
use outboxd::contract::{BoxFuture, Store};
use outboxd::outbox::{Position, Settle};
use uuid::Uuid;

/// The longest that one promise may take. It is here to end a test that waits for what never comes.
const PATIENCE: Duration = Duration::from_secs(300);

/// A kind of store under test.
#[async_trait]
trait Implementation: Sync {
    /// Makes an outbox that no other test uses.
    async fn outbox(&self, settle: Settle) -> Arc<dyn Outbox>;

    /// A position that no outbox here has come to yet, made from one that another has come to.
    fn ahead(&self, position: Position) -> Position {
        position
    }
}

/// A fresh outbox: what its applications and its operators do with it.
#[async_trait]
trait Outbox: Send + Sync {
    /// A store over it, as a newly started relay makes one.
    fn store(&self) -> Arc<dyn Store>;

    /// Begins a writer's transaction. Where the database has one writer at a time, its turn begins with the first
    /// message.
    async fn begin(&self) -> Box<dyn Writer>;

    /// The committed rows by id.
    async fn rows(&self) -> Vec<Row>;

    /// Sets the clock of the database, by so many hours, as its lease shows it: a time in the row is that much older by
    /// it. Does nothing where the clock cannot be set.
    async fn set_clock(&self, hours: i64);

    /// Deletes by hand what is stored of held lanes.
    async fn delete_held(&self);
}

/// A writer's transaction; dropped without a commit it is rolled back.
#[async_trait]
trait Writer: Send {
    /// Does other work first, so that the transaction gets whatever number the database gives to transactions.
    async fn work(&mut self);

    /// Enqueues a message.
    async fn enqueue(&mut self, message: &Message);

    /// Enqueues messages at once, in their order.
    async fn enqueue_many(&mut self, messages: &[Message]);

    /// Commits; returns when the rows are visible.
    fn commit(self: Box<Self>) -> BoxFuture<'static, ()>;

    /// Rolls back.
    fn rollback(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// A row as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    id: i64,
    event_id: Uuid,
    is_sent: bool,
}

/// Commits one message in a transaction of its own.
async fn write(outbox: &dyn Outbox, message: &Message) {
    let mut writer = outbox.begin().await;
    writer.enqueue(message).await;
    writer.commit().await;
}

/// Commits messages together.
async fn write_all(outbox: &dyn Outbox, messages: &[Message]) {
    let mut writer = outbox.begin().await;
    writer.enqueue_many(messages).await;
    writer.commit().await;
}

/// A message that only has to arrive.
fn message(topic: &str, key: &str) -> Message {
    Message::to(topic).key(key).text("{}").expect("a valid message")
}

/// So many messages of one lane.
fn messages(count: usize, topic: &str, key: &str) -> Vec<Message> {
    (0..count).map(|_| message(topic, key)).collect()
}

fn event_ids(messages: &[Message]) -> Vec<Uuid> {
    messages.iter().map(Message::event_id).collect()
}

/// Makes a test of each promise for the implementation, in the module where it stands.
macro_rules! promises {
    ($implementation:expr) => {
        promises! { $implementation;
            reading: nothing_is_read_before_it_commits,
            reading: nothing_of_a_rolled_back_transaction_is_read,
            reading: a_lane_is_read_in_the_order_of_its_commits,
            reading: a_batch_holds_no_more_records_than_asked_for,
            reading: a_batch_holds_no_more_bytes_than_asked_for,
            reading: a_record_larger_than_the_limit_is_read_alone,
            reading: a_row_larger_than_may_be_loaded_comes_as_one_that_is_rejected,
            reading: an_empty_batch_says_that_nothing_is_new,
            reading: rows_committed_while_a_backlog_is_read_come_after_it,
            reading: a_record_is_read_as_it_was_written,
            reading: sessions_read_independently,
            settling: a_settled_row_is_never_read_again,
            settling: each_mode_records_delivery_in_its_way,
            settling: settling_again_or_what_is_gone_does_no_harm,
            settling: a_row_of_another_event_is_left_alone,
            settling: thousands_are_settled_at_once,
            checkpoint: a_session_begins_at_the_stored_checkpoint,
            checkpoint: a_checkpoint_inside_a_backlog_is_a_beginning_too,
            checkpoint: an_empty_outbox_has_a_checkpoint,
            checkpoint: a_checkpoint_of_an_ended_term_is_refused,
            holding: a_held_lane_is_left_out_while_others_flow,
            holding: a_lane_is_its_key_or_its_partition_and_not_both,
            holding: rows_below_a_hold_come_nonetheless,
            holding: held_lanes_are_stored_with_the_checkpoint,
            holding: a_stored_hold_is_left_out_by_the_next_session,
            releasing: what_was_left_out_comes_first_and_in_id_order,
            releasing: what_was_in_flight_at_the_hold_comes_again,
            releasing: a_stored_hold_is_released_by_a_later_session,
            releasing: a_hold_ends_a_release_that_is_under_way,
            releasing: holding_again_lowers_where_it_begins,
            releasing: a_topic_leaves_its_held_keys_behind,
            releasing: what_waits_for_its_topic_again_comes_with_its_held_key,
            releasing: several_releases_bring_each_row_once,
            releasing: a_release_of_nothing_opens_and_closes,
            releasing: a_key_in_a_held_topic_is_released_after_the_topic,
            releasing: what_was_delivered_before_the_hold_never_comes_again,
            holding: a_lane_deleted_by_hand_is_kept_and_its_release_asked_for,
            lanes: lanes_that_wait_come_out_whole_and_in_order,
            lanes: a_lane_deleted_by_hand_is_released_to_its_last_row,
            holding: a_request_for_release_stays_until_it_was_granted_and_the_lane_is_held_anew,
            holding: what_is_asked_for_after_a_release_was_granted_is_another_request,
            dead: a_dead_letter_is_kept_whole_and_leaves_the_outbox,
            dead: a_row_of_another_event_or_a_settled_one_does_not_die,
            dead: dead_letters_are_due_until_they_are_published,
            dead: what_cannot_be_published_to_its_topic_stays_and_says_why,
            dead: dead_letters_that_are_large_together_come_one_by_one_and_those_too_large_are_not_loaded,
            inspecting: the_backlog_is_what_waits,
            inspecting: the_backlog_is_counted_up_to_a_limit,
            inspecting: the_backlog_names_the_topics_that_wait_longest,
            inspecting: the_leader_is_told_while_its_lease_lasts,
            inspecting: held_rows_below_the_checkpoint_wait_and_are_not_late,
            inspecting: an_unsettled_row_below_the_checkpoint_is_late,
            inspecting: the_oldest_message_ages,
            inspecting: the_footprint_grows_with_the_rows,
            purging: settled_rows_go_when_they_are_older_than_the_retention,
            purging: settled_rows_stay_for_the_retention,
            purging: an_unsettled_row_is_never_removed,
            purging: a_held_row_is_never_removed,
            purging: a_purge_of_an_ended_term_is_refused,
            recovering: what_was_published_up_to_a_position_is_not_read_again,
            recovering: a_held_lane_is_not_taken_for_published,
            recovering: rows_named_beyond_the_position_are_recorded_in_every_mode,
            recovering: an_older_progress_changes_nothing,
            recovering: a_position_inside_a_backlog_is_recovered_to_the_row,
            recovering: a_progress_of_an_ended_term_is_refused_and_so_is_proof,
            recovering: a_progress_ahead_of_the_database_is_refused,
            lease: a_free_lease_is_won,
            lease: a_lease_is_not_taken_over_while_it_is_renewed,
            lease: a_resigned_lease_is_won_at_once_and_terms_grow,
            lease: a_lease_that_ran_out_is_taken_over_and_its_term_is_over,
            lease: a_lost_session_leaves_its_lease_to_run_out,
            lease: a_holder_takes_its_own_lease_again_at_once,
            lease: a_lease_is_resigned_through_another_session_when_its_own_is_lost,
            lease: whoever_fences_waits_no_longer_for_a_lost_session_than_others,
            lease: resigning_an_ended_term_does_nothing,
            lease: one_of_many_bidders_wins,
            lease: a_clock_that_is_set_neither_ends_a_lease_nor_prolongs_it,
            lease: a_bidder_waits_as_long_as_the_holder_may_trust_its_lease,
            lease: whoever_fences_waits_for_a_holder_that_the_broker_does_not_know_by_that_name,
            operations: a_replay_brings_what_was_sent_in_the_order_of_its_ids_and_nothing_else,
            operations: what_a_replay_would_send_is_told_beforehand,
            operations: operations_are_carried_out_in_turn_and_remembered,
            operations: the_progress_of_an_ended_term_is_refused,
            steering: a_pause_lasts_until_it_is_resumed,
            steering: a_pause_that_ended_by_itself_is_neither_told_nor_resumed,
            steering: standbys_are_told_while_they_say_so,
            steering: the_leader_of_a_term_is_asked_to_step_down_and_no_other,
            wake: a_commit_wakes_who_waits,
            wake: a_commit_between_arming_and_waiting_wakes,
            wake: each_commit_wakes_once_whoever_waits_again,
            wake: a_writer_at_work_refuses_or_wakes,
            wake: a_cancelled_wait_can_be_waited_again,
            failing: calls_that_fail_in_passing_lose_and_reorder_nothing,
            failing: a_settlement_whose_reply_was_lost_is_made_again_and_repeats_nothing,
            failing: what_was_published_and_not_settled_is_published_once_more_after_a_crash,
            failing: a_rejected_record_dies_alone_whatever_fails_around_it,
            failing: faults_drawn_at_random_lose_and_reorder_nothing,
            workload: every_committed_row_is_read_once_and_in_order,
            workload: nothing_is_lost_over_sessions_holds_and_checkpoints,
        }
    };
    ($implementation:expr; $($topic:ident: $promise:ident,)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let promise = $crate::contract::$topic::$promise(&$implementation);
                tokio::time::timeout($crate::contract::PATIENCE, promise).await.expect("the promise is kept in time");
            }
        )+
    };
}

/// The promises that only matter where transactions of several writers are open at once.
macro_rules! promises_to_overlapping_writers {
    ($implementation:expr) => {
        promises! { $implementation;
            reading: a_row_is_read_exactly_once_however_late_it_commits,
            reading: a_transaction_that_began_first_and_wrote_last_comes_last,
            checkpoint: a_row_that_commits_after_the_checkpoint_is_read_by_the_next_session,
            releasing: a_release_brings_late_rows_too,
            releasing: a_row_that_commits_late_below_a_hold_comes_before_those_that_follow_it,
            releasing: a_late_row_is_held_without_those_delivered_before_it,
            lanes: lanes_of_overlapping_writers_that_wait_come_out_whole_and_in_order,
        }
    };
}

mod memory {
    promises!(crate::contract::fixtures::memory::Memory);
    promises_to_overlapping_writers!(crate::contract::fixtures::memory::Memory);
}

/// One writer at a time: none overlap.
mod sqlite {
    promises!(crate::contract::fixtures::sqlite::Sqlite);
}

mod postgres {
    promises!(crate::contract::fixtures::postgres::NEWEST);
    promises_to_overlapping_writers!(crate::contract::fixtures::postgres::NEWEST);
}

/// The oldest PostgreSQL that is supported.
mod postgres_13 {
    promises!(crate::contract::fixtures::postgres::OLDEST);
    promises_to_overlapping_writers!(crate::contract::fixtures::postgres::OLDEST);
}

mod mysql {
    promises!(crate::contract::fixtures::mysql::MYSQL);
    promises_to_overlapping_writers!(crate::contract::fixtures::mysql::MYSQL);
}

mod mariadb {
    promises!(crate::contract::fixtures::mysql::MARIADB);
    promises_to_overlapping_writers!(crate::contract::fixtures::mysql::MARIADB);
}
