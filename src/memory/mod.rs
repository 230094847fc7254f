//! A store and a sink in memory.
