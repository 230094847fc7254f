//! Slow chores of the leader.
