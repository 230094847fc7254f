//! Which partition a record goes to: the one that the Java clients would choose.

use crate::outbox::Record;

/// Records without a key stay on one partition for this many before they move on, so that batches are large.
const KEYLESS_RUN: u32 = 500;

/// The hash of the Java clients' default partitioner: murmur2, 32 bits, with Kafka's seed.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    // Java's lengths are 32 bits, and so is the hash.
    let mut hash = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    for (position, byte) in tail.iter().enumerate() {
        hash ^= u32::from(*byte) << (8 * position);
    }
    if !tail.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition of a key in a topic of so many partitions (at least one).
pub(crate) fn of_key(key: &[u8], partitions: i32) -> i32 {
    let positive = i32::try_from(murmur2(key) & 0x7fff_ffff).expect("31 bits");
    positive % partitions
}

/// Spreads records without a key over the partitions of one topic, in runs.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    partition: i32,
    run: u32,
}

impl Spread {
    /// The partition of the next record without a key, in a topic of so many partitions (at least one).
    pub(crate) fn next(&mut self, partitions: i32) -> i32 {
        if self.run == KEYLESS_RUN {
            self.rotate();
        }
        self.run += 1;
        self.partition %= partitions;
        self.partition
    }

    /// Ends a run: small submissions are spread too.
    pub(crate) fn rotate(&mut self) {
        if self.run > 0 {
            self.run = 0;
            self.partition = self.partition.wrapping_add(1) & i32::MAX;
        }
    }
}

/// Where a record goes: to the partition that its row names, else to its key's, else on with the spread.
pub(crate) fn of(record: &Record, partitions: i32, spread: &mut Spread) -> i32 {
    match (record.partition, &record.key) {
        (Some(partition), _) => partition,
        (None, Some(key)) => of_key(key.as_bytes(), partitions),
        (None, None) => spread.next(partitions),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_hash_is_that_of_the_java_clients() {
        // From org.apache.kafka.common.utils.UtilsTest.
        let known: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (text, hash) in known {
            assert_eq!(murmur2(text.as_bytes()) as i32, hash, "{text}");
        }
    }

    #[test]
    fn records_without_a_key_go_in_runs_over_every_partition() {
        let mut spread = Spread::default();
        let partitions: Vec<i32> = (0..4 * KEYLESS_RUN).map(|_| spread.next(3)).collect();
        assert!(partitions[..KEYLESS_RUN as usize].iter().all(|partition| *partition == partitions[0]));
        assert_eq!(partitions.iter().collect::<HashSet<_>>().len(), 3);

        let mut small = Spread::default();
        let submissions: HashSet<i32> = (0..3)
            .map(|_| {
                small.rotate();
                small.next(3)
            })
            .collect();
        assert_eq!(submissions.len(), 3);
    }

    #[test]
    fn a_spread_survives_fewer_partitions_than_before() {
        let mut spread = Spread { partition: i32::MAX, run: KEYLESS_RUN };
        assert_eq!(spread.next(7), 0);
        spread.partition = 6;
        assert!((0..2).contains(&spread.next(2)));
    }
}
