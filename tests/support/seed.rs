//! The seed of everything random in a test: new at each run, printed when the test fails, and set by
//! `OUTBOXD_TEST_SEED` to replay a failure.

use rand::SeedableRng;
use rand::rngs::SmallRng;

/// A seed that tells its value when the test that holds it panics.
pub(crate) struct Seed(u64);

impl Seed {
    /// The seed asked for by the environment, or a new one.
    pub(crate) fn take() -> Self {
        match std::env::var("OUTBOXD_TEST_SEED") {
            Ok(text) => Self(text.parse().expect("OUTBOXD_TEST_SEED is a whole number")),
            Err(_) => Self(rand::random()),
        }
    }

    /// A seed from elsewhere.
    pub(crate) fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator of its own for one part of the test, always the same for the same seed and part.
    pub(crate) fn generator(&self, part: u64) -> SmallRng {
        SmallRng::seed_from_u64(self.0 ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with OUTBOXD_TEST_SEED={}", self.0);
        }
    }
}
