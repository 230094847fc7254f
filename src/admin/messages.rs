//! Single messages, as people and programs are shown them. Keys are what support asks by, and are shown; payloads and headers
//! only where they are asked for.

use std::fmt::Write;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::admin::table;
use crate::contract::{Carried, FoundMessage};
use crate::observe::grouped;
use crate::outbox::{HeldLane, Lane, MessageState, RecordMetadata};

/// A table for people.
pub fn to_text(messages: &[FoundMessage], held: &[HeldLane]) -> String {
    if messages.is_empty() {
        return "nothing of that was found\n".to_owned();
    }
    let row = |message: &FoundMessage| {
        let place = match message.partition {
            Some(partition) => format!("partition {partition}"),
            None => message.key.as_deref().map(shown).unwrap_or_default(),
        };
        [
            message.name.id.to_string(),
            message.state.to_string(),
            message.topic.clone(),
            place,
            seconds(message.created_at),
            seconds(message.sent_at),
            why(message, held).unwrap_or_default(),
            event_id(message).unwrap_or_default(),
        ]
    };
    let header = ["ID", "STATE", "TOPIC", "KEY", "WRITTEN", "SENT", "WHY", "EVENT ID"];
    table::aligned(header, messages.iter().map(row))
}

/// One JSON object a line, for programs. Ids are strings: they may exceed what JavaScript can tell apart.
pub fn to_json(messages: &[FoundMessage], held: &[HeldLane]) -> String {
    messages.iter().map(|message| format!("{}\n", described(message, held))).collect()
}

/// All that is known of a message, for people.
pub fn story(message: &FoundMessage, held: &[HeldLane]) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            writeln!(text, "{name:<14}{value}").expect("writing to a string cannot fail");
        }
    };
    line("id", Some(message.name.id.to_string()));
    line("event id", Some(event_id(message).unwrap_or_else(|| "cannot be read".to_owned())));
    line("topic", Some(message.topic.clone()));
    line("key", Some(message.key.as_deref().map_or_else(|| "none".to_owned(), shown)));
    line("partition", message.partition.map(|partition| partition.to_string()));
    line("state", Some(state_told(message, held)));
    line("written", Some(micros(message.created_at).unwrap_or_else(|| "cannot be read".to_owned())));
    line("sent", micros(message.sent_at));
    line(
        "record",
        message.metadata.map(|RecordMetadata { partition, offset }| {
            format!("partition {partition} of {}, offset {offset}", message.topic)
        }),
    );
    if let Some(death) = &message.death {
        line("died", micros(death.died_at));
        line("because", Some(format!("{}: {}", death.code, death.message)));
        line(
            "published to",
            death.topic.as_ref().map(|topic| match micros(death.published_at) {
                Some(at) => format!("{topic} at {at}"),
                None => format!("{topic}, not yet"),
            }),
        );
    }
    let bytes = |bytes: u64| if bytes == 1 { "1 byte".to_owned() } else { format!("{} bytes", grouped(bytes)) };
    line("payload", Some(message.payload_bytes.map_or_else(|| "none: a tombstone".to_owned(), bytes)));
    text
}

/// What a message carries, for people.
pub fn carried_to_text(message: &FoundMessage, carried: &Carried) -> String {
    let mut text = format!("headers       {}\n", carried.headers);
    if let Some(payload) = &carried.payload {
        if is_cut(message, payload) {
            writeln!(text, "the first {} bytes of the payload:", grouped(payload.len() as u64)).expect("a string");
        }
        match text_of(payload, is_cut(message, payload)) {
            Some(payload) => writeln!(text, "{payload}"),
            None => writeln!(text, "hexadecimal   {}", hexadecimal(payload)),
        }
        .expect("writing to a string cannot fail");
    }
    text
}

/// All that is known of a message, for programs, with what it carries if that was asked for.
pub fn story_to_json(message: &FoundMessage, held: &[HeldLane], carried: Option<&Carried>) -> String {
    format!("{}\n", story_object(message, held, carried))
}

/// The same as an object. A payload that is no text is in `payload_hexadecimal`, and `payload_is_cut` says whether it goes on.
pub fn story_object(message: &FoundMessage, held: &[HeldLane], carried: Option<&Carried>) -> Value {
    let mut object = described(message, held);
    let Some(Carried { payload, headers }) = carried else { return object };
    object["headers"] = serde_json::from_str(headers).unwrap_or_else(|_| Value::String(headers.clone()));
    object["payload_is_cut"] = payload.as_ref().is_some_and(|payload| is_cut(message, payload)).into();
    match payload.as_deref().map(|payload| (text_of(payload, is_cut(message, payload)), payload)) {
        None => object["payload"] = Value::Null,
        Some((Some(text), _)) => object["payload"] = text.into(),
        Some((None, bytes)) => object["payload_hexadecimal"] = hexadecimal(bytes).into(),
    }
    object
}

fn is_cut(message: &FoundMessage, payload: &[u8]) -> bool {
    (payload.len() as u64) < message.payload_bytes.unwrap_or_default()
}

/// A payload as text, if it is text; of one that was cut without the character in which that was done.
fn text_of(payload: &[u8], is_cut: bool) -> Option<&str> {
    match std::str::from_utf8(payload) {
        Ok(text) => Some(text),
        Err(error) if is_cut && error.error_len().is_none() => {
            std::str::from_utf8(&payload[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    }
}

/// The held lane that keeps a message back, its own before its topic's.
pub fn kept_back_by<'a>(message: &FoundMessage, held: &'a [HeldLane]) -> Option<&'a HeldLane> {
    let (own, topic) = (message.lane(), Lane::topic_of(&message.topic));
    let find = |lane: &Lane| held.iter().find(|held| held.held.lane == *lane && message.name.id >= held.held.from_id);
    let found = own.as_ref().and_then(find).or_else(|| find(&topic));
    found.filter(|_| message.state == MessageState::Held)
}

/// All that is known of a message, as JSON.
pub fn described(message: &FoundMessage, held: &[HeldLane]) -> Value {
    let lane = kept_back_by(message, held).map(|lane| {
        let (cause, since) = (lane.held.cause.as_str(), micros(Some(lane.held.since)));
        json!({ "cause": cause, "since": since, "release_requested": lane.release_requested })
    });
    let death = message.death.as_ref().map(|death| {
        json!({
            "cause": death.code,
            "message": death.message,
            "died_at": micros(death.died_at),
            "topic": death.topic,
            "published_at": micros(death.published_at),
        })
    });
    json!({
        "id": message.name.id.to_string(),
        "event_id": event_id(message),
        "topic": message.topic,
        "key": message.key,
        "partition": message.partition,
        "state": message.state.as_str(),
        "created_at": micros(message.created_at),
        "sent_at": micros(message.sent_at),
        "record": message.metadata.map(|RecordMetadata { partition, offset }| {
            json!({ "partition": partition, "offset": offset.to_string() })
        }),
        "payload_bytes": message.payload_bytes,
        "held": lane,
        "dead": death,
    })
}

/// Where it is, and what would move it.
fn state_told(message: &FoundMessage, held: &[HeldLane]) -> String {
    match message.state {
        MessageState::Unsent => "unsent: it waits to be read".to_owned(),
        MessageState::InFlight => {
            "in-flight: the leader has read it and not recorded yet that it was sent, by its last checkpoint".to_owned()
        }
        MessageState::Sent if message.sent_at.is_none() => {
            "sent: the checkpoint is beyond it; rows are not marked".to_owned()
        }
        MessageState::Sent => "sent".to_owned(),
        MessageState::Held => match why(message, held) {
            Some(why) => format!("held: {why}; `outboxd held ls --topic {}` tells more", message.topic),
            None => "held".to_owned(),
        },
        MessageState::Dead => "dead: it was given up; `outboxd dead requeue` puts it back".to_owned(),
    }
}

/// Why it is held, or dead.
fn why(message: &FoundMessage, held: &[HeldLane]) -> Option<String> {
    let lane =
        kept_back_by(message, held).map(|lane| format!("{} since {}", lane.held.cause, seconds(Some(lane.held.since))));
    lane.or_else(|| message.death.as_ref().map(|death| format!("{} at {}", death.code, seconds(death.died_at))))
}

/// A key that no terminal takes for anything else.
fn shown(key: &str) -> String {
    key.escape_debug().to_string()
}

fn event_id(message: &FoundMessage) -> Option<String> {
    message.name.event_id.map(|event_id| event_id.to_string())
}

fn seconds(time: Option<DateTime<Utc>>) -> String {
    time.map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true)).unwrap_or_default()
}

fn micros(time: Option<DateTime<Utc>>) -> Option<String> {
    time.map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::RowName;
    use crate::outbox::{Held, HoldCause};

    fn message(state: MessageState) -> FoundMessage {
        FoundMessage {
            name: RowName { id: 9_007_199_254_740_993, event_id: None },
            topic: "orders".to_owned(),
            key: Some("a\x1b[2J".to_owned()),
            partition: None,
            created_at: Some(DateTime::UNIX_EPOCH),
            payload_bytes: Some(3),
            state,
            sent_at: None,
            metadata: None,
            death: None,
        }
    }

    fn lane(lane: Lane, cause: HoldCause, from_id: i64) -> HeldLane {
        HeldLane {
            held: Held { lane, from_id, after: None, cause, since: DateTime::UNIX_EPOCH },
            release_requested: false,
        }
    }

    #[test]
    fn a_held_message_tells_its_own_lanes_cause_before_its_topics() {
        let message = message(MessageState::Held);
        let own = message.lane().expect("it has a key");
        let lanes = [lane(Lane::topic_of("orders"), HoldCause::MissingTopic, 1), lane(own, HoldCause::Rejected, 1)];
        assert!(story(&message, &lanes).contains("held: rejected since 1970-01-01"), "{}", story(&message, &lanes));
        assert!(to_text(std::slice::from_ref(&message), &lanes[..1]).contains("missing_topic since"));
        assert_eq!(described(&message, &lanes)["held"]["cause"], "rejected");
    }

    #[test]
    fn keys_reach_no_terminal_raw_and_ids_no_program_as_numbers() {
        let message = message(MessageState::Unsent);
        let text = to_text(std::slice::from_ref(&message), &[]);
        assert!(!text.contains('\x1b') && text.contains("a\\u{1b}[2J"), "{text}");
        assert_eq!(described(&message, &[])["id"], "9007199254740993");
    }

    #[test]
    fn where_a_record_is_is_told_if_it_was_recorded() {
        let unknown = message(MessageState::Sent);
        assert!(!story(&unknown, &[]).contains("offset"));
        assert_eq!(described(&unknown, &[])["record"], Value::Null);
        let metadata = Some(RecordMetadata { partition: 2, offset: 9_007_199_254_740_993 });
        let known = FoundMessage { metadata, ..unknown };
        assert!(
            story(&known, &[]).contains("partition 2 of orders, offset 9007199254740993"),
            "{}",
            story(&known, &[])
        );
        assert_eq!(described(&known, &[])["record"], json!({ "partition": 2, "offset": "9007199254740993" }));
    }

    #[test]
    fn a_payload_that_is_no_text_is_shown_in_hexadecimal() {
        let carried = Carried { payload: Some(vec![0xff, 0]), headers: "{\"a\": 1}".to_owned() };
        let message = message(MessageState::Sent);
        let text = carried_to_text(&message, &carried);
        assert!(text.contains("ff00") && text.contains("the first 2 bytes"), "{text}");
        let json: Value = serde_json::from_str(&story_to_json(&message, &[], Some(&carried))).expect("JSON");
        assert_eq!((&json["payload_hexadecimal"], &json["headers"]["a"]), (&json!("ff00"), &json!(1)));
        assert_eq!(json["payload_is_cut"], true);
    }

    #[test]
    fn a_text_that_was_cut_within_a_character_is_shown_as_text_up_to_it() {
        let carried = Carried { payload: Some("a\u{e9}".as_bytes()[..2].to_vec()), headers: "{}".to_owned() };
        let message = message(MessageState::Sent);
        assert_eq!(story_object(&message, &[], Some(&carried))["payload"], "a");
        let whole = FoundMessage { payload_bytes: Some(2), ..message };
        let object = story_object(&whole, &[], Some(&carried));
        assert_eq!((&object["payload_hexadecimal"], &object["payload_is_cut"]), (&json!("61c3"), &json!(false)));
    }
}
