//! The operator's hands.
