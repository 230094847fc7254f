//! The only match on a technology.
