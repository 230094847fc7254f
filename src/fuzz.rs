//! What feeds the fuzz targets: inputs drawn at random, many of them valid ones that were damaged.
//!
//! A target is a test in a file `fuzz.rs` beside what it attacks, and says what holds for any input. In the suite it gets a
//! fixed number of inputs; `OUTBOXD_FUZZ_SECONDS` says for how long it gets more (`make fuzz`). An input that breaks it is
//! made as small as it goes before it is shown, with the seed by which `OUTBOXD_FUZZ_SEED` draws it again.

use std::env;
use std::fmt;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use tokio::time::Instant;

const SECONDS: &str = "OUTBOXD_FUZZ_SECONDS";
const SEED: &str = "OUTBOXD_FUZZ_SEED";

/// Feeds a target with so many inputs, and with as many again until its time is over.
pub(crate) fn feed<S>(inputs: &S, count: u32, target: impl Fn(S::Value) -> Result<(), TestCaseError>)
where
    S: Strategy,
{
    let (begun, time) = (Instant::now(), Duration::from_secs(number(SECONDS).unwrap_or(0)));
    let first = number(SEED).unwrap_or_else(rand::random);
    for round in 0.. {
        let seed = first.wrapping_add(round);
        let rng_seed = RngSeed::Fixed(seed);
        let config = Config { cases: count, rng_seed, failure_persistence: None, ..Config::default() };
        if let Err(broken) = TestRunner::new(config).run(inputs, &target) {
            panic!("{broken}\nthe input is drawn again with {SEED}={seed}");
        }
        if begun.elapsed() >= time {
            let name = std::thread::current().name().unwrap_or("fuzz").to_owned();
            println!("{name}: {} inputs from seed {first} on", (round + 1) * u64::from(count));
            return;
        }
    }
}

/// A number that the environment tells; nothing where it is not set, or empty.
fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is to be a whole number, not {text:?}")))
}

/// Bytes that are shown legibly.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// Bytes, damaged in up to eight ways or left as they are. The words are what may come in between: what means something
/// to the target.
pub(crate) fn damaged(
    valid: impl Strategy<Value = Vec<u8>>,
    words: &'static [&'static [u8]],
) -> impl Strategy<Value = Bytes> {
    (valid, vec(damage(words), 0..=8)).prop_map(|(mut bytes, damages)| {
        damages.iter().for_each(|damage| damage.strike(&mut bytes));
        Bytes(bytes)
    })
}

/// As [`damaged`], with what is no text any more put right.
pub(crate) fn damaged_text(
    valid: impl Strategy<Value = String>,
    words: &'static [&'static [u8]],
) -> impl Strategy<Value = String> {
    damaged(valid.prop_map(String::into_bytes), words)
        .prop_map(|Bytes(bytes)| String::from_utf8_lossy(&bytes).into_owned())
}

/// What happens to bytes on a bad day.
#[derive(Debug, Clone)]
enum Damage {
    /// They end here.
    Cut(Index),
    /// One is another.
    Change(Index, u8),
    /// So many are missing.
    Lose(Index, usize),
    /// So many come this often.
    Repeat(Index, usize, usize),
    /// A word comes in between.
    Insert(Index, &'static [u8]),
    /// A word comes instead of as many bytes.
    Overwrite(Index, &'static [u8]),
}

fn damage(words: &'static [&'static [u8]]) -> impl Strategy<Value = Damage> {
    let place = any::<Index>;
    prop_oneof![
        1 => place().prop_map(Damage::Cut),
        3 => (place(), any::<u8>()).prop_map(|(at, byte)| Damage::Change(at, byte)),
        2 => (place(), 1..20usize).prop_map(|(at, length)| Damage::Lose(at, length)),
        2 => (place(), 1..20usize, 2..200usize).prop_map(|(at, length, times)| Damage::Repeat(at, length, times)),
        3 => (place(), select(words)).prop_map(|(at, word)| Damage::Insert(at, word)),
        3 => (place(), select(words)).prop_map(|(at, word)| Damage::Overwrite(at, word)),
    ]
}

impl Damage {
    fn strike(&self, bytes: &mut Vec<u8>) {
        let size = bytes.len();
        let place = |at: &Index| at.index(size + 1);
        let upto = |from: usize, length: usize| (from + length).min(size);
        match self {
            Damage::Cut(at) => bytes.truncate(place(at)),
            Damage::Change(at, byte) => {
                let at = place(at);
                bytes.splice(at..upto(at, 1), [*byte]);
            }
            Damage::Lose(at, length) => {
                let at = place(at);
                bytes.drain(at..upto(at, *length));
            }
            Damage::Repeat(at, length, times) => {
                let at = place(at);
                let repeated = bytes[at..upto(at, *length)].repeat(*times);
                bytes.splice(at..at, repeated);
            }
            Damage::Insert(at, word) => {
                let at = place(at);
                bytes.splice(at..at, word.iter().copied());
            }
            Damage::Overwrite(at, word) => {
                let at = place(at);
                bytes.splice(at..upto(at, word.len()), word.iter().copied());
            }
        }
    }
}
