//! The relay's promises, end to end: the binary between real PostgreSQL and real Apache Kafka.

mod ordering;
